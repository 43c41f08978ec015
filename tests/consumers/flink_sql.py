"""Print the rows that Flink has after the SQL of examples/consumers/flink_sql, a JSON object a line.

Standard input has the records of a stream. The connector for Kinesis is not run: the events are written to a file, and
the table `events` reads that file, with the columns of events.sql. The argument is `state` for the view of orders.sql,
or `paimon` for the tables of paimon_job.sql, in the folder that is the next argument.
"""

import json
import pathlib
import random
import re
import sys
import tempfile

import jpype

import jvm
import records

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "consumers" / "flink_sql"
COLUMNS = ("source_name", "id", "customer", "amount", "placed", "body")


def environment(mode):
    """Flink in this process, in streaming or in batch mode."""
    api = jpype.JPackage("org.apache.flink.table.api")
    configuration = jpype.JClass("org.apache.flink.configuration.Configuration")()
    configuration.setString("parallelism.default", "1")
    configuration.setString("execution.runtime-mode", mode)
    configuration.setString("table.local-time-zone", "UTC")
    settings = api.EnvironmentSettings.newInstance().withConfiguration(configuration).build()
    return api.TableEnvironment.create(settings)


def run(flink, file, *replacements):
    """Run each statement of a file. An empty line ends a statement."""
    text = (EXAMPLE / file).read_text()
    for pattern, value in replacements:
        text, number = re.subn(pattern, value, text, flags=re.DOTALL)
        assert number == 1, f"{file} has {number} places for {pattern}"
    for statement in re.split(r";\n(?:\n|$)", text):
        if re.sub("--.*", "", statement).strip():
            result = flink.executeSql(statement)
            if result.getJobClient().isPresent():
                result.await_()


def events(folder):
    """Write the events to a file in any order: the SQL has the same rows for each order."""
    lines = [record["data"].decode() for record in records.read()]
    random.Random(len(lines)).shuffle(lines)
    (folder / "events.json").write_text("".join(f"{line}\n" for line in lines))


def rows(flink, query):
    """The rows at the end of a query's changelog."""
    left = {}
    with flink.executeSql(query).collect() as changes:
        for change in changes:
            row = tuple(None if (value := change.getField(name)) is None else str(value) for name in COLUMNS)
            kind = str(change.getKind().shortString())
            left[row] = left.get(row, 0) + (1 if kind in ("+I", "+U") else -1)
    return [dict(zip(COLUMNS, row)) for row, times in left.items() for _ in range(times)]


def main():
    sink, *arguments = sys.argv[1:]
    options = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in ("java.lang", "java.util", "java.time")]
    jvm.start("-Xmx1g", *options, folders=("flink", "jars"))
    with tempfile.TemporaryDirectory() as folder:
        events(pathlib.Path(folder))
        flink = environment("streaming")
        from_file = f"with ('connector' = 'filesystem', 'path' = 'file://{folder}/events.json',"
        run(flink, "events.sql", (r"with \(.*'source.init.position' = 'TRIM_HORIZON',", from_file))
        run(flink, "changes.sql")
        if sink == "state":
            run(flink, "orders.sql")
        else:
            warehouse = ("s3://BUCKET/lake", f"file://{arguments[0]}")
            run(flink, "paimon_catalog.sql", warehouse)
            run(flink, "paimon_job.sql")
            flink = environment("batch")
            run(flink, "paimon_catalog.sql", warehouse)
            run(flink, "paimon_orders.sql")
        for row in rows(flink, "select * from orders"):
            print(json.dumps(row))


if __name__ == "__main__":
    main()
