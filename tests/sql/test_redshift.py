"""The statements of examples/consumers/redshift, on events as docs/events.md describes them.

They run on DuckDB: see redshift_on_duckdb. No test here has seen Redshift.
"""

import json
import random
import unittest
from datetime import datetime, timedelta
from pathlib import Path

from events import OMITTED, UNAVAILABLE, History, deliver, event, message, at, row
from redshift_on_duckdb import Redshift, parse, statements
from sqlglot import exp

FILES = Path(__file__).resolve().parents[2] / "examples" / "consumers" / "redshift"


class Stream:
    """A stream of some shards that Redshift reads."""

    def __init__(self):
        self.redshift = Redshift()
        for name in ("setup.sql", "orders.sql"):
            self.redshift.run((FILES / name).read_text())
        self.records = 0

    def arrive(self, *events, shard="shardId-000000000000", raw=False, days_ago=0):
        """Records that a refresh reads."""
        for one in events:
            self.records += 1
            data = one if raw else json.dumps(one)
            arrived = datetime.now() + timedelta(milliseconds=self.records, days=-days_ago)
            self.redshift.database.execute(
                "insert into kinesis.spillway values (?, ?, ?, ?)", [arrived, shard, str(self.records), data]
            )

    def merge(self, *events, **of_arrival):
        self.arrive(*events, **of_arrival)
        self.redshift.call("spillway.merge_orders")

    def rows(self):
        return self.redshift.database.execute(
            "select source_name, id, customer, amount::varchar, body from public.orders order by all"
        ).fetchall()

    def bodies(self):
        return {(source, id): body for source, id, _, _, body in self.rows()}


class Syntax(unittest.TestCase):
    def test_a_parser_for_redshift_reads_each_statement(self):
        for path in sorted(FILES.glob("*.sql")):
            procedures, rest = statements(path.read_text())
            for statement in sum(procedures.values(), rest):
                with self.subTest(file=path.name, statement=statement.strip()[:60]):
                    parse(statement)

    def test_the_merge_has_what_redshift_allows(self):
        procedures, _ = statements((FILES / "orders.sql").read_text())
        merge, = (s for s in map(parse, procedures["spillway.merge_orders"]) if isinstance(s, exp.Merge))
        self.assertIsInstance(merge.args["using"], exp.Table)
        for condition in merge.args["on"].flatten():
            self.assertIsInstance(condition, exp.EQ)
        whens = merge.args["whens"].expressions
        self.assertEqual([(w.args["matched"], w.args.get("condition")) for w in whens], [(True, None), (False, None)])

    def test_qualify_follows_an_alias_as_redshift_requires(self):
        for path in sorted(FILES.glob("*.sql")):
            procedures, rest = statements(path.read_text())
            for statement in map(parse, sum(procedures.values(), rest)):
                for select in statement.find_all(exp.Select):
                    if select.args.get("qualify"):
                        self.assertTrue(select.args["from_"].this.alias, select.sql())

    def test_a_statement_that_the_parser_does_not_know_is_an_error(self):
        for statement in ("selct 1", "select from where", "merge orders using x"):
            with self.assertRaises(Exception):
                parse(statement)


class Merge(unittest.TestCase):
    def test_the_newest_change_of_a_row_counts_in_a_batch_and_across_batches(self):
        stream = Stream()
        created, updated = event("c", at(1), after=row(1)), event("u", at(2), after=row(1, customer="Grace"))
        stream.merge(created, updated)
        self.assertEqual(stream.rows(), [("orders", 1, "Grace", "12.50", "long")])
        stream.merge(event("u", at(4), after=row(1, amount="7.00")))
        stream.merge(event("u", at(3), after=row(1, amount="9.00")))
        self.assertEqual(stream.rows(), [("orders", 1, "Ada", "7.00", "long")])

    def test_the_event_of_the_documentation_is_merged(self):
        page = (FILES.parents[2] / "docs" / "events.md").read_text()
        stream = Stream()
        stream.merge(json.loads(page.split("```json\n")[1].split("```")[0]))
        self.assertEqual(stream.rows(), [("orders", 1, "Ada", "12.50", None)])

    def test_duplicates_change_nothing(self):
        stream = Stream()
        events = [event("c", at(1), after=row(1)), event("d", at(2), before={"id": 1})]
        events += [event("c", at(3), after=row(2)), event("u", at(4), after=row(2, body=UNAVAILABLE))]
        stream.merge(*events, *events)
        for _ in range(2):
            self.assertEqual(stream.rows(), [("orders", 2, "Ada", "12.50", "long")])
            stream.merge(*events)
        # An update by two equal rows may be an error (error_on_nondeterministic_update).
        deleted = stream.redshift.database.execute("select count(*) from spillway.orders_deleted_body").fetchone()
        self.assertEqual(deleted, (1,))

    def test_an_older_change_does_not_revive_a_deleted_row(self):
        stream = Stream()
        stream.merge(event("d", at(2), before={"id": 1}))
        stream.merge(event("c", at(1), after=row(1)))
        self.assertEqual(stream.rows(), [])

    def test_a_deleted_row_is_kept_for_eight_days(self):
        stream = Stream()
        stream.merge(event("c", at(1), after=row(1)), event("c", at(2), after=row(2)), days_ago=30)
        stream.merge(event("d", at(3), before={"id": 1}), event("c", at(4), after=row(3)), days_ago=9)
        stream.merge(event("d", at(5), before={"id": 3}), days_ago=7)
        kept = stream.redshift.database.execute("select id, op from spillway.orders order by id").fetchall()
        self.assertEqual(kept, [(2, "c"), (3, "d")])

    def kept(self, stream):
        """Values of rows that the tables keep: those of rows, and those of deleted rows."""
        database = stream.redshift.database
        rows = database.execute("select id, op, customer, amount, body from spillway.orders order by id").fetchall()
        bodies = database.execute("select body from spillway.orders_deleted_body order by body").fetchall()
        return rows, [body for body, in bodies]

    def test_of_a_deleted_row_its_key_and_its_large_values_are_kept(self):
        # As docs/privacy.md says.
        stream = Stream()
        stream.merge(event("c", at(1), after=row(1, body="first")), event("c", at(2), after=row(2, body="second")))
        # The first delete has the whole row, as with replica identity full.
        stream.merge(event("d", at(3), before=row(1, body="first")), event("d", at(4), before={"id": 2}))
        rows = [(1, "d", None, None, "first"), (2, "d", None, None, "second")]
        self.assertEqual(self.kept(stream), (rows, ["first", "second"]))
        # A truncate does not empty the second table.
        stream.merge(event("t", at(5)))
        self.assertEqual(self.kept(stream), ([], ["first", "second"]))

    def test_what_is_kept_of_a_deleted_row_is_removed_eight_days_after_the_delete(self):
        stream = Stream()
        stream.merge(event("c", at(1), after=row(1)), days_ago=30)
        stream.merge(event("d", at(2), before={"id": 1}), days_ago=7)
        self.assertEqual(self.kept(stream), ([(1, "d", None, None, "long")], ["long"]))
        for table in ("orders", "orders_deleted_body"):
            stream.redshift.database.execute(f"update spillway.{table} set arrived = arrived - interval 2 days")
        stream.merge()
        self.assertEqual(self.kept(stream), ([], []))

    def test_an_untouched_large_value_is_filled_in_a_batch_and_across_batches(self):
        stream = Stream()
        stream.merge(event("c", at(1), after=row(1)), event("u", at(2), after=row(1, "Grace", body=UNAVAILABLE)))
        self.assertEqual(stream.rows(), [("orders", 1, "Grace", "12.50", "long")])
        stream.merge(event("u", at(3), after=row(1, "Alan", body=UNAVAILABLE)))
        self.assertEqual(stream.rows(), [("orders", 1, "Alan", "12.50", "long")])
        stream.merge(event("u", at(4), after=row(1, body=None)))
        stream.merge(event("u", at(5), after=row(1, body=UNAVAILABLE)))
        self.assertEqual(stream.bodies(), {("orders", 1): None})

    def test_a_value_that_only_one_of_two_equal_events_has_is_kept(self):
        for first, second in (("new", UNAVAILABLE), (UNAVAILABLE, "new")):
            stream = Stream()
            stream.merge(event("c", at(1), after=row(1, body="old")))
            stream.merge(event("u", at(2), after=row(1, body=first)))
            stream.merge(event("u", at(3), after=row(1, body=UNAVAILABLE)))
            stream.merge(event("u", at(2), after=row(1, body=second)))
            self.assertEqual(stream.bodies(), {("orders", 1): "new"})

    def test_of_two_equal_creates_the_one_with_the_large_value_counts(self):
        for bodies in (("new", UNAVAILABLE), (UNAVAILABLE, "new")):
            creates = [event("c", at(9, 8, 1), after=row(2, body=body)) for body in bodies]
            for batches in ([creates], [creates[:1], creates[1:]]):
                stream = Stream()
                for batch in batches:
                    stream.merge(*batch)
                self.assertEqual(stream.bodies(), {("orders", 2): "new"})

    def test_a_changed_key_takes_the_large_value_of_the_old_row(self):
        deleted = event("d", at(9, 8, 0), before={"id": 1})
        created = event("c", at(9, 8, 1), after=row(2, body=UNAVAILABLE))
        for batches in ([[deleted, created]], [[created, deleted]], [[deleted], [created]], [[created], [deleted]]):
            stream = Stream()
            # 2 existed before, with another body.
            stream.merge(event("c", at(1), after=row(1)), event("c", at(2), after=row(2, body="former")))
            stream.merge(event("d", at(3), before={"id": 2}))
            for number, batch in enumerate(batches):
                stream.merge(*batch, shard=f"shardId-00000000000{number}")
            self.assertEqual(stream.bodies(), {("orders", 2): "long"})
            # 1 begins another life, and the change is sent again.
            stream.merge(event("c", at(10), after=row(1, body="other")), created, deleted)
            self.assertEqual(stream.bodies(), {("orders", 1): "other", ("orders", 2): "long"})

    def test_a_key_that_changes_three_times_in_one_batch_has_its_value_after_three_merges(self):
        stream = Stream()
        events = [event("c", at(1), after=row(1))]
        for id in (1, 2, 3):
            events.append(event("d", at(10 + id, 5, 0), before={"id": id}))
            events.append(event("c", at(10 + id, 5, 1), after=row(id + 1, body=UNAVAILABLE)))
        stream.merge(*events)
        stream.merge()
        stream.merge()
        self.assertEqual(stream.bodies(), {("orders", 4): "long"})

    def test_a_large_value_that_no_event_had_is_not_null(self):
        stream = Stream()
        stream.merge(event("u", at(2), after=row(1, "Grace", body=UNAVAILABLE)))
        self.assertEqual(stream.bodies(), {("orders", 1): UNAVAILABLE})
        self.assertEqual(stream.redshift.run((FILES / "check.sql").read_text())[5], [(1,)])
        stream.merge(event("c", at(1), after=row(1, body=None)))
        self.assertEqual(stream.rows(), [("orders", 1, "Grace", "12.50", None)])

    def test_an_omitted_value_is_not_the_former_one(self):
        stream = Stream()
        stream.merge(event("c", at(1), after=row(1)))
        stream.merge(event("u", at(2), after=row(1, body=UNAVAILABLE), omitted=["body"]))
        self.assertEqual(stream.bodies(), {("orders", 1): OMITTED})
        stream.merge(event("u", at(3), after=row(1, body=UNAVAILABLE)))
        self.assertEqual(stream.bodies(), {("orders", 1): OMITTED})
        self.assertEqual(stream.redshift.run((FILES / "check.sql").read_text())[5], [(1,)])

    def test_a_changed_key_does_not_take_the_former_value_of_an_omitted_one(self):
        deleted = event("d", at(9, 8, 0), before={"id": 1})
        created = event("c", at(9, 8, 1), after=row(2, body=UNAVAILABLE), omitted=["body"])
        for batches in ([[deleted, created]], [[created], [deleted]]):
            stream = Stream()
            stream.merge(event("c", at(1), after=row(1)))
            for number, batch in enumerate(batches):
                stream.merge(*batch, shard=f"shardId-00000000000{number}")
            self.assertEqual(stream.bodies(), {("orders", 2): OMITTED})

    def test_a_truncate_ends_the_rows_before_it_and_of_its_source(self):
        stream = Stream()
        stream.merge(event("c", at(1), after=row(1)), event("c", at(1), after=row(1), source="billing"))
        stream.merge(event("c", at(2), after=row(2)), event("t", at(3)), event("c", at(4), after=row(3)))
        self.assertEqual([r[:2] for r in stream.rows()], [("billing", 1), ("orders", 3)])
        stream.merge(event("u", at(2), after=row(4)))
        self.assertEqual([r[:2] for r in stream.rows()], [("billing", 1), ("orders", 3)])

    def test_two_sources_and_other_tables_do_not_mix(self):
        stream = Stream()
        stream.merge(event("c", at(5), after=row(1, "Ada")))
        stream.merge(event("c", at(2), after=row(1, "Bo"), source="billing"))
        stream.merge(event("u", at(3), after=row(1, "Cy"), source="billing"))
        stream.merge(event("c", at(9), after={"id": 1, "note": "x"}, table="notes"))
        self.assertEqual([r[:3] for r in stream.rows()], [("billing", 1, "Cy"), ("orders", 1, "Ada")])

    def test_a_renamed_key_is_the_same_row(self):
        stream = Stream()
        stream.merge(event("c", at(1), after=row(1)), event("c", at(1), after=row(2)))
        view = (FILES / "orders.sql").read_text()
        view = view[view.index("create or replace view spillway.orders_changes") :]
        view = view[: view.index(";") + 1]
        # As the README says.
        for name in ("before", "after"):
            key = f"e.event.{name}.id::bigint"
            self.assertIn(key, view)
            view = view.replace(key, f"coalesce(e.event.{name}.order_id::bigint, {key})")
            self.assertIn(f"\ncoalesce(e.event.{name}.order_id::bigint, {key})\n", (FILES / "README.md").read_text())
        stream.redshift.run(view)
        renamed = row(1, "Grace", body=UNAVAILABLE)
        renamed["order_id"] = renamed.pop("id")
        stream.merge(event("u", at(2), after=renamed), event("d", at(3), before={"order_id": 2}))
        self.assertEqual(stream.rows(), [("orders", 1, "Grace", "12.50", "long")])

    def test_a_change_without_a_key_is_left_out_and_counted(self):
        stream = Stream()
        stream.merge(event("c", at(1), after=row(None)), event("c", at(2), after=row(2)))
        self.assertEqual([r[:2] for r in stream.rows()], [("orders", 2)])
        answers = stream.redshift.run((FILES / "check.sql").read_text())
        self.assertEqual(answers[3:], [[(0,)], [(1,)], [(0,)], [("orders", 1, 2, answers[6][0][3])]])

    def test_a_record_that_cannot_be_read_is_counted(self):
        stream = Stream()
        stream.merge("\xf3\x89\x9a\xc2", raw=True)
        answers = stream.redshift.run((FILES / "check.sql").read_text())
        self.assertEqual(answers[1][0][0], 1)


class Repair(unittest.TestCase):
    def repaired(self, stream, source="orders"):
        text = (FILES / "repair.sql").read_text().replace("'SOURCE'", f"'{source}'")
        return stream.redshift.run(text)

    def test_rows_of_the_source_that_were_not_sent_again_are_removed(self):
        stream = Stream()
        stream.merge(*(event("c", at(id), after=row(id)) for id in (1, 2, 3)))
        stream.merge(event("c", at(1), after=row(1), source="billing"))
        # Row 2 was deleted, and 4 was created, in the gap. 3 changes while it is read.
        stream.merge(message("spillway.gap_accepted", at(100), {"control": "gap_accepted"}))
        stream.arrive(event("r", at(0x19CEE79 + 5), after=row(1)), shard="shardId-000000000001")
        stream.arrive(event("r", at(0x19CEE79 + 5), after=row(4)))
        stream.arrive(event("u", at(0x19CEE79 + 7), after=row(3, "Cy")))
        said = {"control": "repaired", "since": f"{0x19CEE79:016x}", "tables": ["public.orders"]}
        stream.arrive(message("spillway.repaired", at(0x19CEE79 + 9), said))
        found = self.repaired(stream)[0]
        self.assertEqual(json.loads(found[0][3]), said)
        self.assertEqual([r[:3] for r in stream.rows()], [
            ("billing", 1, "Ada"), ("orders", 1, "Ada"), ("orders", 3, "Cy"), ("orders", 4, "Ada"),
        ])  # fmt: skip
        # What arrives again from before the repair stays away.
        stream.merge(event("u", at(2), after=row(2)))
        self.assertNotIn(("orders", 2), stream.bodies())
        self.repaired(stream)
        self.assertEqual(len(stream.rows()), 4)

    def test_without_the_message_nothing_is_removed(self):
        stream = Stream()
        stream.merge(event("c", at(1), after=row(1)), event("c", at(1), after=row(1), source="billing"))
        said = {"control": "repaired", "since": f"{9:016x}", "tables": ["public.orders"]}
        stream.merge(message("foreign.spillway.repaired", at(10), said))
        stream.merge(message("spillway.repaired", at(10), said, source="billing"))
        self.assertEqual(self.repaired(stream)[0], [])
        self.assertEqual([r[:2] for r in stream.rows()], [("billing", 1), ("orders", 1)])

    def test_a_repair_of_another_table_removes_nothing(self):
        stream = Stream()
        stream.merge(event("c", at(1), after=row(1)))
        said = {"control": "repaired", "since": f"{9:016x}", "tables": ["public.notes"]}
        stream.merge(message("spillway.repaired", at(10), said))
        self.repaired(stream)
        self.assertEqual(len(stream.rows()), 1)

    def test_a_repair_of_a_table_of_a_similar_name_removes_nothing(self):
        text = (FILES / "repair.sql").read_text().replace("'SOURCE'", "'orders'")
        text = text.replace('"public.orders"', '"public.order_items"')
        for repaired, floors in (("public.order-items", 0), ("public.order_items", 1)):
            stream = Stream()
            stream.merge(event("c", at(1), after=row(1)))
            said = {"control": "repaired", "since": f"{9:016x}", "tables": ["public.notes", repaired]}
            stream.merge(message("spillway.repaired", at(10), said))
            stream.redshift.run(text)
            found = stream.redshift.database.execute("select count(*) from spillway.floors").fetchone()
            self.assertEqual(found, (floors,), repaired)

    def test_after_a_divergence_smaller_positions_are_newer(self):
        stream = Stream()
        stream.merge(*(event("c", at(1000 + id), after=row(id)) for id in (1, 2)))
        stream.merge(event("d", at(1010), before={"id": 3}), event("t", at(900)))
        # No event had the body of row 5.
        stream.merge(event("u", at(1011), after=row(5, body=UNAVAILABLE)))
        stream.redshift.run((FILES / "restart_positions.sql").read_text().replace("'SOURCE'", "'orders'"))
        self.assertEqual(stream.bodies(), {("orders", 1): "long", ("orders", 2): "long", ("orders", 5): UNAVAILABLE})
        self.assertEqual(stream.redshift.run((FILES / "check.sql").read_text())[5], [(1,)])
        stream.merge(event("u", at(19), after=row(5, "Eve", body=UNAVAILABLE)))
        self.assertEqual(stream.bodies()["orders", 5], UNAVAILABLE)
        stream.arrive(message("spillway.gap_accepted", at(20), {"control": "gap_accepted"}))
        stream.arrive(event("r", at(30), after=row(1, "Grace")), event("r", at(30), after=row(3)))
        said = {"control": "repaired", "since": f"{25:016x}", "tables": ["public.orders"]}
        stream.arrive(message("spillway.repaired", at(40), said))
        self.repaired(stream)
        self.assertEqual([r[:3] for r in stream.rows()], [("orders", 1, "Grace"), ("orders", 3, "Ada")])


class RandomHistories(unittest.TestCase):
    def test_the_rows_are_those_of_the_sources(self):
        for seed in range(8):
            with self.subTest(seed=seed):
                stream, chance = Stream(), random.Random(seed)
                histories = [History(seed, source) for source in ("orders", "billing")]
                queues = [deliver(history, chance) for history in histories]
                while any(queues):
                    for shard, one in chance.choice([q for q in queues if q]).pop(0):
                        stream.arrive(one, shard=f"shardId-00000000000{shard}")
                    if chance.random() < 0.7:
                        stream.merge()
                # A row whose key changed n times since a merge has its body after n merges.
                for _ in range(12):
                    stream.merge()
                self.assertEqual(stream.rows(), sorted(sum((h.expected() for h in histories), []), key=lambda r: r[:2]))


if __name__ == "__main__":
    unittest.main()
