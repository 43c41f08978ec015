"""The SQL of docs/consume.md, on events that Spillway wrote.

`make try` printed the events of schema_changes.jsonl, with PostgreSQL 15 and pgoutput. Each step is an `alter table`
and writes. Before a step, a backfill read the rows that the former step left.
"""

import base64
import json
import re
import unittest
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import sqlglot
from events import OMITTED, UNAVAILABLE, message
from sqlglot import exp

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "consume.md").read_text()
RECORDED = [json.loads(line) for line in Path(__file__).with_name("schema_changes.jsonl").read_text().splitlines()]
STEPS = ["begin", "add", "drop", "rename", "type", "key", "table", "keytype", "end"]
STORE = "DuckDB and Iceberg"
OTHER_IDENTITY = "Rename a key column or a table, or change the type of a key"


def section(title):
    return re.search(rf"\n##+ {re.escape(title)}\n(.*?)(\n##+ |\Z)", PAGE, re.DOTALL)[1]


def blocks(title):
    return re.findall(r"```sql\n(.*?)```", section(title), re.DOTALL)


def lines(title):
    """Lines of a select list, by the name of the column."""
    found = re.findall(r"^    (.*data->>.* as \w+),?$|`([^`]*data->>[^`]* as \w+)`", section(title), re.MULTILINE)
    return {line.rsplit(" as ", 1)[1]: line for line in map("".join, found)}


def view(changed):
    """The statement of the view with these lines in place of all others."""
    head, rest = blocks(STORE)[0].split("(data", 1)
    return head + ",\n    ".join(changed.values()) + rest[rest.index("\nfrom") :]


def events_of(step, backfill=False):
    """Events of a step: those of its `alter table` and its writes, or those of the backfill before them."""
    events = [one["event"] for one in RECORDED if one["step"] == step and "event" in one]
    return [event for event in events if (event["op"] == "r") == backfill]


def rows_of(step):
    """The rows of the database at the end of a step. The key has one name."""
    rows = next(one["rows"] for one in RECORDED if one["step"] == step and "rows" in one)
    return sorted(({"id" if name == "order_id" else name: v for name, v in row.items()} for row in rows), key=by_id)


def by_id(row):
    return str(row["id"])


def plain(value):
    """A value as PostgreSQL's JSON has it."""
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, date | datetime) else value


class Store:
    """The table `rows` of the example in Python, kept by the page's rules."""

    NAMES = ("source_name", "schema_name", "table_name", "row_key")

    def __init__(self):
        self.database = duckdb.connect()
        self.database.execute("set timezone = 'UTC'")
        columns = ", ".join(f"{name} varchar" for name in (*self.NAMES, "position", "data"))
        key = ", ".join(self.NAMES)
        self.database.execute(f"create table rows ({columns}, deleted boolean, primary key ({key}))")

    def apply(self, events):
        for event in events:
            source = event["source"]
            if event["op"] == "m":
                self.repair(source["name"], json.loads(base64.b64decode(event["message"]["content"])))
                continue
            row = event["after"] or event["before"]
            name = next(iter(row))
            key = json.dumps({name: row[name]}, separators=(",", ":"))
            self.write([source["name"], source["schema"], source["table"], key], source["position"], event["op"], row)

    def write(self, id, position, op, row):
        where = " and ".join(f"{name} = ?" for name in self.NAMES)
        found = self.database.execute(f"select position, data, deleted from rows where {where}", id).fetchone()
        if found and found[0] >= position:
            return
        old = json.loads(found[1]) if found else {}
        row = {n: old.get(n, v) if v == UNAVAILABLE else v for n, v in row.items()}
        if op == "d" or (op == "r" and found and not found[2]):
            row = old | row
        values = [*id, position, json.dumps(row), op == "d"]
        self.database.execute("insert or replace into rows values (?, ?, ?, ?, ?, ?, ?)", values)

    def repair(self, source, content):
        self.database.execute(
            "update rows set deleted = true where source_name = ? and position < ?"
            " and list_contains(?, schema_name || '.' || table_name)",
            [source, content["since"], content["tables"]],
        )

    def execute(self, statement):
        self.database.execute(statement)

    def rows(self, query="select * from orders"):
        result = self.database.execute(query)
        names = [column[0] for column in result.description]
        return sorted((dict(zip(names, map(plain, values))) for values in result.fetchall()), key=by_id)


def without_source(rows):
    return [{name: value for name, value in row.items() if name != "source_name"} for row in rows]


class SchemaChanges(unittest.TestCase):
    """Each change as the page says, step by step. Each test begins where the former step has ended."""

    make_store = Store

    def store_before(self, step):
        store = self.make_store()
        for former in STEPS[: STEPS.index(step)]:
            store.apply(events_of(former, backfill=True) + events_of(former))
        store.apply(events_of(step, backfill=True))
        return store

    def backfill(self, store, step):
        store.apply(events_of(STEPS[STEPS.index(step) + 1], backfill=True))

    def repair(self, store, step):
        """A backfill, and the message at its end."""
        events = events_of(STEPS[STEPS.index(step) + 1], backfill=True)
        first, last = events[0]["source"], events[-1]["source"]
        content = {"since": first["position"][:16], "tables": [f"public.{first['table']}"]}
        store.apply([*events, message("spillway.repaired", last["position"], content)])

    def check(self, store, step, *but):
        """The view has the rows of the database, except for these (id, column, value)."""
        expected = rows_of(step)
        for id, column, value in but:
            next(row for row in expected if row["id"] == id)[column] = value
        self.assertEqual(without_source(store.rows()), expected)

    def test_add(self):
        store = self.store_before("add")
        store.execute(view(lines(STORE)))
        self.check(store, "begin")
        store.execute(view(lines(STORE) | lines("Add a column")))
        self.assertEqual({row["vat"] for row in store.rows()}, {None})
        store.apply(events_of("add"))
        self.check(store, "add", (1, "vat", None), (3, "vat", None))
        self.backfill(store, "add")
        self.check(store, "add")

    def columns(self, *titles, without=("qty",)):
        columns = lines(STORE)
        for title in titles:
            columns |= lines(title)
        return {name: line for name, line in columns.items() if name not in without}

    def test_drop(self):
        store = self.store_before("drop")
        store.execute(view(self.columns("Add a column")))
        store.apply(events_of("drop"))
        self.check(store, "drop")
        values = store.rows("select data->>'id' as id, data->>'qty' as qty from rows")
        self.assertEqual([row["qty"] for row in values], [None, "2", "3", "4"])

    def test_rename(self):
        store = self.store_before("rename")
        store.execute(view(self.columns("Add a column", "Rename a column", without=("qty", "customer", "body"))))
        store.apply(events_of("rename"))
        self.check(store, "rename", (1, "content", UNAVAILABLE))
        self.backfill(store, "rename")
        self.check(store, "rename")
        # A row of a backfill keeps columns that it does not have. So the view must not read the old names for ever.
        only = self.columns("Add a column", without=("qty", "customer", "body"))
        store.execute(view(only | {name: f"data->>'{name}' as {name}" for name in ("client", "content")}))
        self.check(store, "rename")

    def test_type(self):
        store = self.store_before("type")
        columns = self.columns("Add a column", "Rename a column", without=("qty", "customer", "body"))
        store.execute(view(columns))
        changed = columns | lines("Change a type")
        store.execute(view(changed))
        store.apply(events_of("type"))
        self.check(store, "type", (1, "code", "10"), (3, "code", "30"), (4, "code", "40"))
        self.backfill(store, "type")
        self.check(store, "type")
        # Why the view must be changed first.
        store.execute(view(changed | {"code": columns["code"]}))
        with self.assertRaises(duckdb.ConversionException):
            store.rows()
        store.execute(view(changed | {"amount": columns["amount"]}))
        self.assertEqual(store.rows()[1]["amount"], 7.12)

    def test_key_table_and_type_of_key(self):
        for step in ("key", "table", "keytype"):
            with self.subTest(step=step):
                store = self.store_before(step)
                before = blocks(OTHER_IDENTITY)[0]
                store.execute(before)
                self.same(store, STEPS[STEPS.index(step) - 1])
                store.apply(events_of(step))
                self.same(store, step, unavailable={"1"})
                self.repair(store, step)
                self.same(store, step)
                if step == "table":
                    store.execute(blocks(OTHER_IDENTITY)[1])
                    left = store.rows("select row_key as id from rows where not deleted and table_name = 'orders'")
                    self.assertEqual(left, [])
                only = before.replace("('orders', 'purchases')", f"('{rows_table(step)}')")
                store.execute(only.replace("coalesce(data->>'order_id', data->>'id')", "data->>'order_id'"))
                self.same(store, step)

    def test_a_late_event_of_the_old_key_changes_nothing(self):
        store = self.store_before("key")
        store.execute(blocks(OTHER_IDENTITY)[0])
        store.apply(events_of("key"))
        for former in ("begin", "type"):
            store.apply(events_of(former))
        self.same(store, "key", unavailable={"1"})

    def same(self, store, step, unavailable=()):
        expected = [(str(row["id"]), row["client"], row["content"]) for row in rows_of(step)]
        expected = [(id, client, UNAVAILABLE if id in unavailable else text) for id, client, text in expected]
        self.assertEqual([(r["id"], r["client"], r["content"]) for r in store.rows()], expected)


def rows_table(step):
    return "orders" if step == "key" else "purchases"


class Types(unittest.TestCase):
    # A column of the recording for each type of the page.
    COLUMNS = {
        "bigint": ("big", 9007199254740993),
        "numeric(12,2)": ("amount", Decimal("12.50")),
        "double precision": ("ratio", 0.1),
        "boolean": ("ok", True),
        "date": ("d", date(2026, 11, 23)),
        "time": ("t", datetime(2026, 11, 23, 12, 0, 1, 500000).time()),
        "timestamp": ("ts", datetime(2026, 11, 23, 12)),
        "timestamptz": ("tz", datetime.fromisoformat("2026-11-23T12:00:00Z")),
        "interval": ("i", "P0Y0M1DT2H0M0S"),
        "jsonb`, `json": ("doc", '{"a": [1, null]}'),
        "text[]": ("tags", ["a", None, "b c"]),
        "numeric[]": ("amounts", [Decimal("1.50")]),
        "bytea": ("photo", b"\x00\xff"),
        "uuid": ("u", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    }

    def setUp(self):
        table = [line for line in section("Types").splitlines() if line.startswith("| `")]
        self.page = {cells[1]: cells[2:6] for line in table for cells in [re.split(r"`? \| `?|^\| `|` \|$", line)]}
        self.rows = [event["after"] for event in events_of("types")]
        self.database = duckdb.connect()
        self.database.execute("set timezone = 'UTC'")

    def duckdb(self, expression, column, row):
        expression = re.sub(r"\bx\b", f"(data->>'{column}')", expression)
        expression = re.sub(r"\by\b", f"(data->'{column}')", expression)
        return self.database.execute(f"select {expression} from (select ? as data)", [json.dumps(row)]).fetchone()[0]

    def test_each_value_arrives_as_the_page_says_and_is_cast_by_duckdb(self):
        self.assertEqual(list(self.page), list(self.COLUMNS))
        for kind, (arrives, expression, _, _) in self.page.items():
            column, value = self.COLUMNS[kind]
            with self.subTest(kind=kind):
                if arrives not in ("1", "text"):
                    self.assertEqual(json.loads(arrives.split("`, ")[0]), self.rows[0][column])
                found = self.duckdb(expression, column, self.rows[0])
                self.assertEqual(str(found) if kind == "uuid" else found, value)

    def test_a_value_that_does_not_fit_its_type_fails_or_is_null(self):
        infinite = self.rows[1]
        with self.assertRaises(duckdb.ConversionException):
            self.duckdb("x::decimal(12, 2)", "amount", infinite)
        self.assertIsNone(self.duckdb("try_cast(x as decimal(12, 2))", "amount", infinite))
        self.assertEqual(self.duckdb("rtrim(x, 'Z')::date::varchar", "d", infinite), "infinity")
        self.assertNotEqual(self.duckdb("x::double", "ratio", infinite), 0)
        # Without a word: why the view has casts.
        self.assertIsNone(self.duckdb("from_json(data, '{\"d\": \"DATE\"}').d", "d", self.rows[0]))

    def test_a_date_or_timestamp_that_the_tool_cannot_represent_is_null(self):
        tried = r"`(try_cast\([^`]* as (?:timestamp[^`]*|date)\))`"
        of_duckdb, athena, redshift, of_date = re.findall(tried, section("Types"))
        late = {"ts": "+10000-01-01T00:00:00Z", "d": "+10000-01-01Z"}
        for expression, column, kind in ((of_duckdb, "ts", "timestamp"), (of_date, "d", "date")):
            with self.subTest(expression=expression):
                with self.assertRaises(duckdb.ConversionException):
                    self.duckdb(self.page[kind][1], column, late)
                self.assertIsNone(self.duckdb(expression, column, late))
                self.assertIsNotNone(self.duckdb(expression, column, self.rows[0]))
        others = (athena, "athena"), (redshift, "redshift"), (of_date, "athena"), (of_date, "redshift")
        for expression, dialect in others:
            tree = sqlglot.parse_one(f"select {expression} from t", read=dialect)
            self.assertTrue(tree.find(exp.TryCast), expression)

    def test_a_mark_in_place_of_a_large_value_is_null(self):
        nullif = re.search(r"`(nullif\(.*?)`", section("Types"))[1]
        self.assertIn("`try_cast(y as varchar[])`", section("Types"))
        for kind in ("numeric(12,2)", "jsonb`, `json", "text[]", "numeric[]", "bytea"):
            cast, (column, value) = self.page[kind][1], self.COLUMNS[kind]
            guarded = re.sub(r"^y::(.*)$", r"try_cast(y as \1)", re.sub(r"\bx\b", nullif, cast))
            with self.subTest(kind=kind):
                for mark in (UNAVAILABLE, OMITTED):
                    with self.assertRaises(duckdb.Error):
                        self.duckdb(cast, column, {column: mark})
                    self.assertIsNone(self.duckdb(guarded, column, {column: mark}))
                self.assertEqual(self.duckdb(guarded, column, self.rows[0]), value)
        array = "try(cast(y as array(varchar)))"
        for expression, dialect in ((nullif, "redshift"), (nullif, "athena"), (array, "athena")):
            self.assertIn(f"`{expression}`", section("Types"))
            self.assertIsInstance(sqlglot.parse_one(f"select {expression} from t", read=dialect), exp.Select)

    def test_the_casts_of_athena_keep_fractions_of_a_second_and_have_no_time_zone(self):
        for kind in ("time", "timestamp", "timestamptz"):
            column, value = self.COLUMNS[kind]
            query = f"select {self.page[kind][3]} from (select ? as x)"
            tree = sqlglot.parse_one(query, read="athena")
            self.assertFalse(list(tree.find_all(exp.FromISO8601Timestamp)), kind)
            found = self.database.execute(tree.sql(dialect="duckdb"), [self.rows[0][column]]).fetchone()[0]
            self.assertEqual(found, value.replace(tzinfo=None), kind)

    def test_parsers_for_redshift_and_athena_read_the_casts(self):
        for kind, (_, _, redshift, athena) in self.page.items():
            for expression, dialect in ((redshift, "redshift"), (athena, "athena")):
                with self.subTest(kind=kind, dialect=dialect):
                    tree = sqlglot.parse_one(f"select {expression} from t", read=dialect)
                    self.assertIsInstance(tree, exp.Select)


class Syntax(unittest.TestCase):
    def test_a_parser_for_redshift_reads_each_statement(self):
        for statement in blocks("Redshift")[0].split(";"):
            if statement.strip() and not statement.startswith("create external schema"):
                self.assertNotIsInstance(sqlglot.parse_one(statement, read="redshift"), exp.Command)


if __name__ == "__main__":
    unittest.main()
