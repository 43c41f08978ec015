"""The stores of examples/consumers: DuckDB, a warehouse and Iceberg.

`make check` runs this file with the libraries of the examples. The steps and the events of the schema changes are those
of test_consume.py.
"""

import contextlib
import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import duckdb
import test_consume
from events import event, place, row
from pyiceberg.catalog.sql import SqlCatalog

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "consumers"
sys.path += [str(EXAMPLES / "lambda_duckdb"), str(EXAMPLES / "iceberg")]

import changes  # noqa: E402
import consumer  # noqa: E402
from iceberg_store import IcebergStore  # noqa: E402
from store import DuckDbStore  # noqa: E402

FOLDERS = contextlib.ExitStack()


def tearDownModule():
    FOLDERS.close()


class Shipped(test_consume.Store):
    """A store of an example, in place of the one that follows the page's rules."""

    def apply(self, events):
        changed = []
        for event in events:
            row = event.get("after") or event.get("before") or {}
            key = json.dumps(dict([next(iter(row.items()))]), separators=(",", ":")) if row else "a message"
            changed += changes.of_event(key, json.dumps(event).encode())
        consumer.apply(self.store, changed)


class ShippedDuckDb(Shipped):
    def __init__(self):
        self.store = DuckDbStore(":memory:")
        self.database = self.store.connection
        self.database.execute("set timezone = 'UTC'")


class ShippedIceberg(Shipped):
    def __init__(self):
        folder = FOLDERS.enter_context(tempfile.TemporaryDirectory())
        catalog = SqlCatalog("local", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
        self.store = IcebergStore(catalog)
        self.database = duckdb.connect()
        self.database.execute("set timezone = 'UTC'")
        self.read()

    def apply(self, events):
        super().apply(events)
        self.read()

    def read(self):
        stored = self.store.table.scan().to_arrow()
        self.database.register("stored", stored)
        self.database.execute("create or replace table rows as select * from stored")


class OnDuckDb(test_consume.SchemaChanges):
    make_store = ShippedDuckDb


class OnIceberg(test_consume.SchemaChanges):
    make_store = ShippedIceberg


def changes_of(one, partition_key=None):
    """Changes of an event. Its partition key is the key of its row, if no other is named."""
    image = one["after"] or one["before"] or {}
    return changes.of_event(partition_key or json.dumps({"id": image.get("id")}), json.dumps(one).encode())


class RowsWithoutKey(unittest.TestCase):
    def test_an_event_whose_key_is_not_known_is_refused(self):
        for op in "curd":
            before, after = ({"id": 1}, None) if op == "d" else (None, row(1))
            with self.subTest(op=op), self.assertRaisesRegex(ValueError, "public.orders.*KEYLESS_TABLES"):
                changes_of(event(op, place(1), before, after), "public.orders")

    def test_an_event_whose_key_is_not_known_is_refused_also_with_row_keys(self):
        with mock.patch.object(changes, "ROW_KEYS", {"public.orders": ["id"]}), self.assertRaises(ValueError):
            changes_of(event("u", place(1), after=row(1)), "public.orders")

    def test_an_insert_into_a_table_without_a_key_is_a_row_of_its_own(self):
        (change,) = changes_of(event("c", place(1), after={"line": "a"}, table="log"), "public.log#3fa2")
        self.assertEqual(change.id.key, place(1))

    def test_a_table_with_inserts_only_is_named_where_its_rows_are_not_spread(self):
        with mock.patch.object(changes, "KEYLESS_TABLES", ["public.log"]):
            (change,) = changes_of(event("c", place(1), after={"line": "a"}, table="log"), "public.log")
            self.assertEqual(change.id.key, place(1))
            with self.assertRaises(ValueError):
                changes_of(event("u", place(2), after={"line": "b"}, table="log"), "public.log")
