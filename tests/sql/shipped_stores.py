"""The stores of examples/consumers: DuckDB, a warehouse and Iceberg.

`make check` runs this file with the libraries of the examples. The steps and the events of the schema changes are those
of test_consume.py.
"""

import base64
import contextlib
import itertools
import json
import random
import runpy
import sys
import tempfile
import unittest
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

import duckdb
import pyarrow.parquet
import test_consume
from aws_kinesis_agg.aggregator import RecordAggregator
from events import UNAVAILABLE, History, deliver, event, message, at, row
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "consumers"
sys.path += [str(EXAMPLES / "lambda_duckdb"), str(EXAMPLES / "iceberg")]

import batches  # noqa: E402
import changes  # noqa: E402
import consumer  # noqa: E402
from iceberg_store import NO_RETRIES, IcebergStore  # noqa: E402
from store import DuckDbStore, MergeStore  # noqa: E402

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


def block(folder, language):
    """The block of a README about a discontinuity after which positions start again."""
    page = (EXAMPLES / folder / "README.md").read_text()
    return page.split("\n## Before you accept a gap")[1].split(f"```{language}\n")[1].split("```")[0].rstrip(";\n")


def iceberg_store():
    folder = FOLDERS.enter_context(tempfile.TemporaryDirectory())
    return IcebergStore(SqlCatalog("local", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}"))


class ShippedIceberg(Shipped):
    def __init__(self):
        self.store = iceberg_store()
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
    image = one.get("after") or one.get("before") or {}
    return changes.of_event(partition_key or json.dumps({"id": image.get("id")}), json.dumps(one).encode())


class RowsWithoutKey(unittest.TestCase):
    def test_an_event_whose_key_is_not_known_is_refused(self):
        for op in "curd":
            before, after = ({"id": 1}, None) if op == "d" else (None, row(1))
            with self.subTest(op=op), self.assertRaisesRegex(ValueError, "public.orders.*KEYLESS_TABLES"):
                changes_of(event(op, at(1), before, after), "public.orders")

    def test_an_event_whose_key_is_not_known_is_refused_also_with_row_keys(self):
        with mock.patch.object(changes, "ROW_KEYS", {"public.orders": ["id"]}), self.assertRaises(ValueError):
            changes_of(event("u", at(1), after=row(1)), "public.orders")

    def test_an_insert_into_a_table_without_a_key_is_a_row_of_its_own(self):
        (change,) = changes_of(event("c", at(1), after={"line": "a"}, table="log"), "public.log#3fa2")
        self.assertEqual(change.id.key, at(1))

    def test_a_table_with_inserts_only_is_named_where_its_rows_are_not_spread(self):
        # As after `alter table` or `drop table`: the replica identity at the time of the insert is not known.
        inserted = event("c", at(1), after={"line": "a"}, table="log")
        with self.assertRaisesRegex(ValueError, "KEYLESS_TABLES"):
            changes_of(inserted, "public.log")
        with mock.patch.object(changes, "KEYLESS_TABLES", ["public.log"]):
            (change,) = changes_of(inserted, "public.log")
            self.assertEqual(change.id.key, at(1))
            with self.assertRaises(ValueError):
                changes_of(event("u", at(2), after={"line": "b"}, table="log"), "public.log")


def aggregate(*events):
    """A record of a Lambda event that has these (partition key, event)."""
    aggregator = RecordAggregator()
    for key, one in events:
        aggregator.add_user_record(key, one if isinstance(one, str) else json.dumps(one))
    key, _, data = aggregator.clear_and_get().get_contents()
    kinesis = {
        "kinesisSchemaVersion": "1.0",
        "partitionKey": key,
        "sequenceNumber": "7",
        "data": base64.b64encode(data).decode(),
        "approximateArrivalTimestamp": 1795443751.5,
    }
    return {"kinesis": kinesis, "eventSource": "aws:kinesis", "eventID": "shardId-000000000000:7"}


class Aggregates(unittest.TestCase):
    def setUp(self):
        # A table without a key whose updates are published, and a table with a key.
        unknown = event("u", at(2), after={"line": "a"}, table="log")
        others = [(f'{{"id":{id}}}', event("c", at(id), after=row(id))) for id in (1, 3)]
        self.record = aggregate(others[0], ("public.log", unknown), others[1], ("foreign", "not an event"))

    def stores(self):
        return DuckDbStore(":memory:"), MergeStore(duckdb.connect(), "?"), iceberg_store()

    def test_a_refused_event_is_stored_and_stops_no_other_event(self):
        for store in self.stores():
            # Lambda may send a batch again.
            for _ in range(2):
                with self.assertLogs("batches") as logged:
                    answer = batches.handle(store, {"Records": [self.record]}, None)
                self.assertEqual(answer, {"batchItemFailures": []})
            self.assertEqual(sorted(key for _, _, _, key, _ in store.existing()), ['{"id":1}', '{"id":3}'])
            refused = [(number, sub, key) for number, sub, key, _ in store.refused()]
            self.assertEqual(refused, [("7", 1, "public.log"), ("7", 3, "foreign")])
            self.assertEqual(store.refused()[1][3], b"not an event")
            self.assertRegex(logged.output[0], "record 7: 2 events refused: .*public.log")

    def test_an_outage_of_the_store_gives_up_no_record(self):
        for store in self.stores():
            with self.subTest(store=type(store).__name__):
                for method in ("load", "refuse"):
                    outage = mock.patch.object(store, method, side_effect=ConnectionError("no connection"))
                    with self.assertLogs("batches"), self.assertRaises(ConnectionError), outage:
                        batches.handle(store, {"Records": [self.record]}, None)
                with self.assertLogs("batches"):
                    batches.handle(store, {"Records": [self.record]}, None)
                self.assertEqual((len(store.existing()), len(store.refused())), (2, 2))

    def test_lambda_never_gives_up_a_record(self):
        page = (EXAMPLES / "lambda_duckdb" / "README.md").read_text()
        self.assertIn("\n            MaximumRetryAttempts: -1\n", page)
        self.assertNotIn("DeadLetters", page)

    def test_an_event_that_no_store_would_accept_is_refused(self):
        surrogate = event("c", at(1), after=row(1, customer="\ud800"))
        deep = '{"source": ' + "[" * 100_000
        numbers = [event("c", 1, after=row(1)), event("c", at(1), after=row(1), source=7)]
        lists = [event("c", at(1), after=[1]), event("x", at(1), after=row(1)), [], 1]
        said = message("spillway.repaired", at(9), {"since": 1, "tables": ["public.orders"]})
        others = [message("spillway.repaired", at(9), {"since": at(1)[:16], "tables": [7]})]
        zeros = [event("c", at(1), after=row(1), source="a\0b"), "no event"]
        store = DuckDbStore(":memory:")
        refused = [surrogate, deep, *numbers, *lists, said, *others, *zeros]
        record = aggregate(*(("a\0b", one) for one in refused))
        with self.assertLogs("batches"):
            self.assertEqual(batches.handle(store, {"Records": [record]}, None), {"batchItemFailures": []})
        self.assertEqual(store.existing(), [])
        self.assertEqual([(number, key) for _, number, key, _ in store.refused()], [
            (number, "a b") for number in range(len(refused))
        ])  # fmt: skip

    def spark(self):
        """The names of the Spark example, without Spark."""
        with mock.patch.dict(sys.modules, {"pyspark": mock.MagicMock(), "pyspark.sql": mock.MagicMock()}):
            return runpy.run_path(EXAMPLES / "spark" / "app.py")

    def test_spark_refuses_single_events(self):
        spark, store = self.spark(), DuckDbStore(":memory:")
        spark["upgrade_refused"](store)
        data = base64.b64decode(self.record["kinesis"]["data"])
        record = mock.Mock(sequenceNumber="7", partitionKey="a", data=data)
        # Spark repeats a batch.
        for _ in range(2):
            spark["apply"](store, [record])
        self.assertEqual(sorted(key for _, _, _, key, _ in store.existing()), ['{"id":1}', '{"id":3}'])
        refused = store.execute("select * exclude data from refused order by all").fetchall()
        self.assertEqual(refused, [("7", 1, "public.log"), ("7", 3, "foreign")])

    def test_spark_upgrades_a_table_that_has_a_row_for_each_refused_record(self):
        spark, folder = self.spark(), FOLDERS.enter_context(tempfile.TemporaryDirectory())
        with duckdb.connect(f"{folder}/rows.duckdb") as former:
            columns = "sequence_number varchar primary key, partition_key varchar, data blob"
            former.execute(f"create table refused ({columns})")
            former.execute("insert into refused values ('6', 'foreign', 'no event')")
        store = DuckDbStore(f"{folder}/rows.duckdb")
        record = mock.Mock(sequenceNumber="7", partitionKey="a", data=base64.b64decode(self.record["kinesis"]["data"]))
        # The query starts again.
        for _ in range(2):
            spark["start"](mock.MagicMock(), store, {}, "checkpoint")
            spark["apply"](store, [record])
        refused = store.execute("select * exclude data from refused order by all").fetchall()
        self.assertEqual(refused, [("6", 0, "foreign"), ("7", 1, "public.log"), ("7", 3, "foreign")])


class Rules(unittest.TestCase):
    """The rules, on the table `rows` of DuckDB. Other stores run the same tests below."""

    def make_store(self):
        return DuckDbStore(":memory:")

    def apply(self, store, *events):
        consumer.apply(store, [change for one in events for change in changes_of(one)])

    def rows(self, store):
        rows = [(source, json.loads(data)) for source, _, _, _, data in store.existing()]
        return sorted((s, d["id"], d["customer"], d["amount"], d["body"]) for s, d in rows)

    def bodies(self, store):
        return {id: body for _, id, _, _, body in self.rows(store)}

    def test_a_large_value_of_an_older_event_that_is_read_later_counts(self):
        created = event("c", at(1), after=row(1, "7", body="A"))
        changed = event("u", at(2), after=row(1, "7", body="B"))
        moved = event("u", at(3), after=row(1, "8", body=UNAVAILABLE))
        last = event("u", at(4), after=row(1, "9", body=UNAVAILABLE))
        for order in ([created, moved, changed], [moved, created, changed], [moved, changed, created],
                      [created, last, moved, changed], [last, changed, created, moved]):  # fmt: skip
            store = self.make_store()
            for one in order:
                self.apply(store, one)
            customer = max(one["after"]["customer"] for one in order)
            self.assertEqual(self.rows(store), [("orders", 1, customer, "12.50", "B")])

    def test_an_omitted_value_of_an_older_event_counts(self):
        store = self.make_store()
        self.apply(store, event("c", at(1), after=row(1)), event("u", at(3), after=row(1, body=UNAVAILABLE)))
        self.apply(store, event("u", at(2), after=row(1, body=UNAVAILABLE), omitted=["body"]))
        self.assertEqual(self.bodies(store), {1: changes.OMITTED})

    def test_a_value_that_only_one_of_two_equal_events_has_is_kept(self):
        for bodies in (("new", UNAVAILABLE), (UNAVAILABLE, "new")):
            store = self.make_store()
            self.apply(store, event("c", at(1), after=row(1, body="old")))
            for body in bodies:
                self.apply(store, event("u", at(2), after=row(1, body=body)))
            self.assertEqual(self.bodies(store), {1: "new"})

    def test_a_delete_of_a_former_row_that_is_read_late_completes_the_row_of_its_new_key(self):
        store = self.make_store()
        self.apply(store, event("c", at(9), after=row(1, body="again")))
        self.apply(store, event("c", at(5, 5, 1), after=row(2, body=UNAVAILABLE)))
        self.apply(store, event("d", at(5, 5, 0), before=row(1, body="long")))
        self.assertEqual(self.bodies(store), {1: "again", 2: "long"})

    def test_a_row_of_a_backfill_keeps_the_columns_that_it_does_not_have(self):
        store = self.make_store()
        self.apply(store, event("c", at(1), after=row(1, "Ada")))
        self.apply(store, event("r", at(2), after={"id": 1, "amount": "7.00"}))
        self.assertEqual(self.rows(store), [("orders", 1, "Ada", "7.00", "long")])
        # Values are not older than their event because a backfill kept them.
        self.apply(store, event("u", at(3), after=row(1, "Bo", body=UNAVAILABLE)))
        self.assertEqual(self.rows(store), [("orders", 1, "Bo", "12.50", "long")])

    def test_a_row_of_a_backfill_has_no_columns_of_a_deleted_row(self):
        store = self.make_store()
        self.apply(store, event("c", at(1), after=row(1)), event("d", at(2), before={"id": 1}))
        self.apply(store, event("r", at(3), after={"id": 1, "amount": "7.00"}))
        self.assertEqual([json.loads(one[-1]) for one in store.existing()], [{"id": 1, "amount": "7.00"}])

    def test_a_column_of_a_backfill_that_is_read_before_an_update_is_not_older(self):
        store = self.make_store()
        self.apply(store, event("c", at(1), after=row(1)))
        self.apply(store, event("r", at(3), after={"id": 1, "amount": "7.00"}))
        self.apply(store, event("u", at(2), after=row(1, "Bo", amount="1.00")))
        self.assertEqual(self.rows(store), [("orders", 1, "Bo", "7.00", "long")])

    def test_an_older_event_that_is_read_later_has_the_columns_that_a_backfill_lacks(self):
        created, moved = event("c", at(1), after=row(1)), event("u", at(2), after=row(1, "Bo", body=UNAVAILABLE))
        filled = event("r", at(3), after={"id": 1, "amount": "7.00"})
        others = event("r", at(4), after={"id": 1, "placed": None})
        histories = [created, filled], [created, moved, filled, others]
        for events in itertools.chain(*map(itertools.permutations, histories)):
            store = self.make_store()
            for one in events:
                self.apply(store, one)
            customer = "Bo" if moved in events else "Ada"
            with self.subTest(positions=[one["source"]["position"][15] for one in events]):
                self.assertEqual(self.rows(store), [("orders", 1, customer, "7.00", "long")])

    def test_an_older_event_that_is_read_later_adds_no_column_to_a_row_that_has_all_columns(self):
        store = self.make_store()
        self.apply(store, event("u", at(3), after={"id": 1, "amount": "7.00"}))
        # The columns of a former version of the table.
        self.apply(store, event("c", at(1), after=row(1)))
        self.assertEqual([json.loads(one[-1]) for one in store.existing()], [{"id": 1, "amount": "7.00"}])
        # An event that is newer than the former one, and has all columns, ends the columns of older events.
        self.apply(store, event("r", at(4), after={"id": 1, "amount": "8.00"}), event("c", at(2), after=row(1)))
        self.assertEqual([json.loads(one[-1]) for one in store.existing()], [{"id": 1, "amount": "8.00"}])

    def test_a_row_of_a_backfill_gets_no_columns_of_a_deleted_row_that_are_read_later(self):
        deleted, filled = event("d", at(2), before=row(1)), event("r", at(3), after={"id": 1, "amount": "7.00"})
        for events in ([deleted, filled], [filled, deleted]):
            store = self.make_store()
            self.apply(store, *events)
            self.apply(store, event("c", at(1), after=row(1)))
            self.assertEqual([json.loads(one[-1]) for one in store.existing()], [{"id": 1, "amount": "7.00"}])

    def restart_positions(self, store):
        """The README's statements for a discontinuity after which positions start again."""
        store.execute(block("lambda_duckdb", "sql"))

    def test_after_a_divergence_smaller_positions_are_newer(self):
        store = self.make_store()
        for source in ("orders", "billing"):
            created = (event("c", at(1000 + id), after=row(id), source=source) for id in (1, 2, 3, 4))
            self.apply(store, *created, event("d", at(1011), before={"id": 2}, source=source))
        # Columns whose values are older than their row: a large one, and each one of a row whose delete has the key.
        self.apply(store, event("u", at(1010), after=row(1, "Bo", body=UNAVAILABLE)), event("t", at(900)))
        self.restart_positions(store)
        self.apply(store, event("u", at(20), after=row(3, "Cy", body=UNAVAILABLE)))
        self.apply(store, *(event("r", at(30), after=row(id, "new", body="new")) for id in (1, 2)))
        self.apply(store, event("u", at(31), after=row(1, "Di", body="newer")))
        said = {"control": "repaired", "since": f"{20:016x}", "tables": ["public.orders"]}
        self.apply(store, message("spillway.repaired", at(40), said))
        expected = [(1, "Di", "newer"), (2, "new", "new"), (3, "Cy", "long")]
        rows = [(id, customer, body) for source, id, customer, _, body in self.rows(store) if source == "orders"]
        self.assertEqual(rows, expected)
        # The positions of the other source are those of before.
        self.apply(store, event("u", at(900), after=row(1, "late"), source="billing"))
        others = [(id, customer) for source, id, customer, _, _ in self.rows(store) if source == "billing"]
        self.assertEqual(others, [(1, "Ada"), (3, "Ada"), (4, "Ada")])


class RulesOnMerge(Rules):
    """`merge.sql`, run by DuckDB."""

    def make_store(self):
        return MergeStore(duckdb.connect(), "?")


class Statements(unittest.TestCase):
    """Statements as a driver of DB-API receives them. Some drivers replace marks in comments, too."""

    def test_a_merge_has_a_mark_for_each_value(self):
        connection = mock.MagicMock()
        rows = [changes.RowId("orders", "public", "orders", f'{{"id":{id}}}') for id in (1, 2)]
        MergeStore(connection, "%s").save({id: consumer.Row(at(1), False, {}) for id in rows})
        statement, values = connection.cursor().execute.call_args.args
        self.assertEqual((statement.count("%s"), len(values)), (18, 18))


    def test_a_merge_locks_the_table_before_it_reads(self):
        connection = mock.MagicMock()
        store = MergeStore(connection, "%s", lock="lock table rows in share row exclusive mode")
        with store.transaction():
            pass
        said = [call.args[0] for call in connection.cursor().execute.call_args_list]
        self.assertEqual(said[-3:], ["begin", "lock table rows in share row exclusive mode", "commit"])


class DeletedRows(unittest.TestCase):
    """What docs/privacy.md says about the values of a deleted row."""

    def test_the_whole_row_is_kept_twice(self):
        for store in (DuckDbStore(":memory:"), MergeStore(duckdb.connect(), "?")):
            consumer.apply(store, changes_of(event("c", at(1), after=row(1))))
            consumer.apply(store, changes_of(event("d", at(2), before={"id": 1})))
            kept = store.execute("select row_key, deleted, data from rows order by row_key").fetchall()
            self.assertEqual([(key, deleted) for key, deleted, _ in kept], [(at(2)[:33], True), ('{"id": 1}', True)])
            for _, _, data in kept:
                self.assertEqual(json.loads(data), row(1))
            store.execute("delete from rows where deleted")
            self.assertEqual(store.execute("select count(*) from rows").fetchone(), (0,))


class Files(unittest.TestCase):
    """Files of Iceberg's table."""

    def values(self, store):
        """The customers that the files of the table have, in any file."""
        folder = Path(store.table.location().removeprefix("file://"))
        return [one for path in folder.glob("data/**/*.parquet")
                for one in pyarrow.parquet.read_table(path)["data"].to_pylist()]  # fmt: skip

    def test_the_compaction_of_the_readme_keeps_the_rows_in_one_file_and_deletes_no_file(self):
        store = iceberg_store()
        for id in range(1, 5):
            consumer.apply(store, changes_of(event("c", at(id), after=row(id))))
        rows, before = sorted(store.existing()), len(self.values(store))
        page = (EXAMPLES / "iceberg" / "README.md").read_text()
        exec(page.split("\n## One batch, one commit")[1].split("```python\n")[1].split("```")[0], {"store": store})
        self.assertEqual(sorted(store.existing()), rows)
        self.assertEqual(len(store.table.inspect.files()), 1)
        self.assertEqual(len(self.values(store)), before + len(rows))
        # As the README says: pyiceberg removes snapshots, and no files.
        store.table.maintenance.expire_snapshots().older_than(datetime.now() + timedelta(days=1)).commit()
        self.assertEqual(len(store.table.snapshots()), 1)
        self.assertEqual(len(self.values(store)), before + len(rows))


class ConcurrentFunctions(unittest.TestCase):
    def test_a_batch_that_another_commit_preceded_fails_and_is_applied_again(self):
        first = iceberg_store()
        second = IcebergStore(first.table.catalog)
        created = changes_of(event("c", at(1), after=row(1)))
        with self.assertRaises(CommitFailedException), second.transaction():
            consumer.merge(second, created)
            consumer.apply(first, changes_of(event("t", at(2))))
        consumer.apply(second, created)
        self.assertEqual(second.existing(), [])

    def test_a_table_that_exists_gets_the_property_that_forbids_repeated_commits(self):
        catalog = iceberg_store().table.catalog
        with catalog.load_table("spillway.rows").transaction() as transaction:
            transaction.remove_properties(*NO_RETRIES)
        IcebergStore(catalog)
        self.assertLessEqual(NO_RETRIES.items(), catalog.load_table("spillway.rows").properties.items())


class FormerVersions(unittest.TestCase):
    """Tables without the column values_at, which came later."""

    def check(self, store):
        consumer.apply(store, changes_of(event("u", at(2), after=row(1, "Bo", body=UNAVAILABLE))))
        consumer.apply(store, changes_of(event("c", at(3), after=row(2))))
        bodies = {json.loads(data)["id"]: json.loads(data)["body"] for *_, data in store.existing()}
        self.assertEqual(bodies, {1: "long", 2: "long"})

    def test_a_table_without_the_column_gets_it(self):
        for make in (DuckDbStore, lambda path: MergeStore(duckdb.connect(path), "?")):
            folder = FOLDERS.enter_context(tempfile.TemporaryDirectory())
            store = make(f"{folder}/rows.duckdb")
            consumer.apply(store, changes_of(event("c", at(1), after=row(1))))
            store.execute("alter table rows drop column values_at")
            store.connection.close()
            for _ in range(2):
                store = make(f"{folder}/rows.duckdb")
                self.check(store)
                store.connection.close()

    def test_a_table_of_iceberg_without_the_column_gets_it(self):
        store = iceberg_store()
        consumer.apply(store, changes_of(event("c", at(1), after=row(1))))
        with store.table.update_schema(allow_incompatible_changes=True) as update:
            update.delete_column("values_at")
        for _ in range(2):
            self.check(IcebergStore(store.table.catalog))


class RulesOnIceberg(Rules):
    def make_store(self):
        return iceberg_store()

    def restart_positions(self, store):
        exec(block("iceberg", "python"), {"store": store})


class RandomHistories(unittest.TestCase):
    def check(self, seed, histories, batches):
        store = DuckDbStore(":memory:")
        for batch in batches:
            consumer.apply(store, [change for one in batch for change in changes_of(one)])
        expected = sorted(sum((history.expected() for history in histories), []), key=lambda r: r[:2])
        self.assertEqual(Rules.rows(self, store), expected, seed)

    def test_the_rows_are_those_of_the_sources(self):
        for seed in range(20):
            chance = random.Random(seed)
            histories = [History(seed, source) for source in ("orders", "billing")]
            queues = [deliver(history, chance) for history in histories]
            self.check(seed, histories, [[one for _, one in batch] for queue in queues for batch in queue])

    def test_the_rows_are_those_of_the_sources_if_the_events_of_a_row_are_read_in_any_order(self):
        for seed in range(40):
            chance = random.Random(seed)
            some_columns = seed % 2 == 1
            histories = [History(seed, source, True, some_columns) for source in ("orders", "billing")]
            events = [one for history in histories for _, one in history.events]
            events += chance.sample(events, 10)
            chance.shuffle(events)
            self.check(seed, histories, [events[at : at + 5] for at in range(0, len(events), 5)])
