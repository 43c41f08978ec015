"""The statements of examples/consumers/athena and the function of examples/consumers/firehose.

Each statement must parse as Athena's, and the view of the present rows runs on DuckDB, over the output of the
function. No test here has run on Athena or Firehose.
"""

import base64
import json
import random
import sys
import unittest
from pathlib import Path

import duckdb
import sqlglot
from events import OMITTED, UNAVAILABLE, History, deliver, event, message, at, row
from sqlglot import exp

PROJECT = Path(__file__).resolve().parents[2]
CONSUMERS = PROJECT / "examples" / "consumers"
sys.path[:0] = [str(CONSUMERS / "firehose" / "flatten"), str(PROJECT / "tests" / "stack")]

import flatten  # noqa: E402
from cloudformation import read_template  # noqa: E402

# Functions of Athena that sqlglot leaves as they are.
MACROS = """
create macro from_utf8(bytes) as decode(bytes);
create macro json_array_contains(list, value) as coalesce(list_contains(cast(list as varchar[]), value), false);
"""


def statements(name):
    text = "\n".join(line.split("--")[0] for line in (CONSUMERS / "athena" / name).read_text().splitlines())
    return [s.strip() for s in text.split(";") if s.strip()]


def delivered(*events):
    """The rows that the function makes of these events: columns of the Iceberg table."""
    records = [
        {"recordId": str(n), "data": base64.b64encode(json.dumps(one, ensure_ascii=False).encode()).decode()}
        for n, one in enumerate(events)
    ]
    answer = flatten.handler({"records": records})["records"]
    return [json.loads(base64.b64decode(record["data"])) for record in answer]


class Athena:
    def __init__(self):
        self.database = duckdb.connect()
        self.database.execute(MACROS + "create schema spillway;")
        self.database.execute(
            "create table spillway.changes (source_name varchar, schema_name varchar, table_name varchar, op varchar,"
            " position varchar, event varchar)"
        )
        for statement in statements("orders.sql"):
            self.database.execute(sqlglot.parse_one(statement, read="athena").sql(dialect="duckdb"))

    def deliver(self, *events):
        rows = [list(one.values()) for one in delivered(*events)]
        if rows:
            self.database.executemany("insert into spillway.changes values (?, ?, ?, ?, ?, ?)", rows)

    def rows(self):
        return self.database.execute(
            "select source_name, id, customer, amount::varchar, body from spillway.orders order by all"
        ).fetchall()


class Syntax(unittest.TestCase):
    def test_a_parser_for_athena_reads_each_statement(self):
        for path in sorted((CONSUMERS / "athena").glob("*.sql")):
            for statement in statements(path.name):
                with self.subTest(file=path.name, statement=statement[:60]):
                    self.assertNotIsInstance(sqlglot.parse_one(statement, read="athena"), exp.Command)


class PresentRows(unittest.TestCase):
    def rows_of(self, *events):
        athena = Athena()
        athena.deliver(*events)
        return athena.rows()

    def test_random_histories_in_any_order_and_with_duplicates_leave_the_rows_of_the_sources(self):
        for seed in range(20):
            with self.subTest(seed=seed):
                chance = random.Random(seed)
                histories = [History(seed, source) for source in ("orders", "billing")]
                events = [e for h in histories for batch in deliver(h, chance) for _, e in batch]
                chance.shuffle(events)
                expected = sorted(sum((h.expected() for h in histories), []), key=lambda r: r[:2])
                self.assertEqual(self.rows_of(*events), expected)

    def test_a_timestamp_has_six_digits_and_no_time_zone(self):
        athena = Athena()
        athena.deliver(event("c", at(1), after=row(1, placed="2026-11-23T12:00:00.123456Z")))
        query = "select typeof(placed), placed::varchar from spillway.orders"
        self.assertEqual(athena.database.execute(query).fetchall(), [("TIMESTAMP", "2026-11-23 12:00:00.123456")])

    def test_a_timestamp_that_the_tool_cannot_represent_is_null_and_stops_no_other_row(self):
        athena = Athena()
        athena.deliver(event("c", at(1), after=row(1, placed="+10000-01-01T00:00:00.000000Z")))
        athena.deliver(event("c", at(2), after=row(2)))
        query = "select id, placed::varchar from spillway.orders order by id"
        self.assertEqual(athena.database.execute(query).fetchall(), [(1, None), (2, "2026-11-23 12:00:00")])

    def test_a_repair_removes_rows_of_its_source_and_table(self):
        said = {"control": "repaired", "since": f"{0x100:016x}", "tables": ["public.orders"]}
        rows = self.rows_of(
            event("c", at(1), after=row(1)),
            event("c", at(2), after=row(2)),
            event("c", at(1), after=row(1), source="billing"),
            event("r", at(0x101), after=row(1)),
            message("spillway.repaired", at(0x102), said),
            message("spillway.repaired", at(0x103), said | {"tables": ["public.notes"]}, source="billing"),
            message("foreign.spillway.repaired", at(0x103), said, source="billing"),
        )
        self.assertEqual([r[:2] for r in rows], [("billing", 1), ("orders", 1)])

    def test_a_large_value_that_no_event_had_is_not_null(self):
        updated = event("u", at(2), after=row(1, body=UNAVAILABLE))
        self.assertEqual(self.rows_of(updated)[0][4], UNAVAILABLE)
        self.assertIsNone(self.rows_of(updated, event("c", at(1), after=row(1, body=None)))[0][4])

    def test_an_omitted_value_is_not_the_former_one(self):
        changed = event("u", at(2), after=row(1, body=UNAVAILABLE), omitted=["body"])
        rows = self.rows_of(event("c", at(1), after=row(1)), changed)
        self.assertEqual(rows[0][4], OMITTED)

    def test_a_changed_key_does_not_take_the_former_value_of_an_omitted_one(self):
        events = [event("c", at(1), after=row(1)), event("d", at(2, 2, 0), before={"id": 1})]
        events.append(event("c", at(2, 2, 1), after=row(2, body=UNAVAILABLE), omitted=["body"]))
        self.assertEqual([r[4] for r in self.rows_of(*events)], [OMITTED])

    def test_a_changed_key_takes_the_large_value_of_the_old_row(self):
        events = [event("c", at(1), after=row(1)), event("c", at(2), after=row(2, body="former"))]
        events += [event("d", at(3), before={"id": 2}), event("d", at(4, 4, 0), before={"id": 1})]
        events += [event("c", at(4, 4, 1), after=row(2, body=UNAVAILABLE)), event("c", at(5), after=row(1))]
        self.assertEqual([r[4] for r in self.rows_of(*events)], ["long", "long"])


class Flatten(unittest.TestCase):
    def test_the_columns_are_those_of_the_table(self):
        template = read_template("examples/consumers/firehose/template.yaml")
        columns = template["Resources"]["Table"]["Properties"]["TableInput"]["StorageDescriptor"]["Columns"]
        self.assertEqual([c["Name"] for c in columns], list(delivered(event("c", at(1), after=row(1)))[0]))

    def test_the_event_is_as_the_stream_has_it(self):
        text = '{"op":"c","source":{"name":"orders"},"after":{"n":12345678901234567890.10,"s":"\\u00e9 é"}}'
        self.assertEqual(flatten.columns(text)["event"], text)

    def test_a_tombstone_is_dropped_and_a_record_that_is_no_event_fails(self):
        results = []
        for data in (b"", b"\xf3\x89\x9a\xc2", b"[1]", b"{"):
            record = {"recordId": "1", "data": base64.b64encode(data).decode()}
            results.append(flatten.handler({"records": [record]})["records"][0]["result"])
        self.assertEqual(results, ["Dropped", "ProcessingFailed", "ProcessingFailed", "ProcessingFailed"])


if __name__ == "__main__":
    unittest.main()
