"""The schema changes of docs/consume.md, on the stores of examples/consumers: DuckDB and Iceberg.

`make check` runs this file with the libraries of the examples. The steps and the events are those of test_consume.py.
"""

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import duckdb
import test_consume
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
