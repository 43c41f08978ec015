"""Runs examples/consumers/spark until it has read a number of records.

Arguments: endpoint, stream, number of records. The last lines of standard output are the number of refused records,
and each stored row.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "examples" / "consumers" / "spark"))

import app  # noqa: E402
from pyspark.sql import SparkSession  # noqa: E402

MAX_SECONDS = 240


def main():
    endpoint, stream, expected = sys.argv[1], sys.argv[2], int(sys.argv[3])
    jars = ",".join(str(jar) for jar in (ROOT / ".tools" / "spark-jars").glob("spark-sql-kinesis*.jar"))
    builder = SparkSession.builder.master("local[2]").config("spark.jars", jars)
    builder = builder.config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1")
    builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.sql.shuffle.partitions", "2")
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    store = app.DuckDbStore(":memory:")
    read = []
    options = {
        "streamName": stream,
        "endpointUrl": endpoint,
        "startingPosition": "TRIM_HORIZON",
        "awsAccessKeyId": "AKIDSCENARIO",
        "awsSecretKey": "scenario",
    }
    with tempfile.TemporaryDirectory() as checkpoint:
        query = app.start(session, store, options, checkpoint, lambda records: read.append(len(records)))
        end = time.monotonic() + MAX_SECONDS
        while sum(read) < expected and query.isActive and time.monotonic() < end:
            time.sleep(0.2)
        failure = query.exception()
        query.stop()
    if failure or sum(read) < expected:
        sys.exit(f"read {sum(read)} of {expected} records: {failure}")
    refused = store.execute("select count(*) from refused").fetchone()[0]
    print(json.dumps({"refused": refused, "batches": len(read)}))
    for source, schema, table, key, data in store.existing():
        # Not parsed: numbers keep all their digits.
        print(f'{{"id":{json.dumps([source, schema, table, key])},"row":{data}}}')


if __name__ == "__main__":
    main()
