"""The statements of examples/consumers/redshift, on events as docs/events.md describes them.

They run on DuckDB: see redshift_on_duckdb. No test here has seen Redshift.
"""

import base64
import contextlib
import io
import json
import random
import re
import sys
import unittest
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

from events import OMITTED, UNAVAILABLE, History, deliver, event, message, place, row
from redshift_on_duckdb import Redshift, parse, statements
from sqlglot import exp

FILES = Path(__file__).resolve().parents[2] / "examples" / "consumers" / "redshift"
sys.path.insert(0, str(FILES))

import table_sql  # noqa: E402


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
        created, updated = event("c", place(1), after=row(1)), event("u", place(2), after=row(1, customer="Grace"))
        stream.merge(created, updated)
        self.assertEqual(stream.rows(), [("orders", 1, "Grace", "12.50", "long")])
        stream.merge(event("u", place(4), after=row(1, amount="7.00")))
        stream.merge(event("u", place(3), after=row(1, amount="9.00")))
        self.assertEqual(stream.rows(), [("orders", 1, "Ada", "7.00", "long")])

    def test_the_event_of_the_documentation_is_merged(self):
        page = (FILES.parents[2] / "docs" / "events.md").read_text()
        stream = Stream()
        stream.merge(json.loads(page.split("```json\n")[1].split("```")[0]))
        self.assertEqual(stream.rows(), [("orders", 1, "Ada", "12.50", None)])

    def test_duplicates_change_nothing(self):
        stream = Stream()
        events = [event("c", place(1), after=row(1)), event("d", place(2), before={"id": 1})]
        events += [event("c", place(3), after=row(2)), event("u", place(4), after=row(2, body=UNAVAILABLE))]
        stream.merge(*events, *events)
        for _ in range(2):
            self.assertEqual(stream.rows(), [("orders", 2, "Ada", "12.50", "long")])
            stream.merge(*events)
        # An update by two equal rows may be an error (error_on_nondeterministic_update).
        deleted = stream.redshift.database.execute("select count(*) from spillway.orders_deleted_body").fetchone()
        self.assertEqual(deleted, (1,))

    def test_an_older_change_does_not_revive_a_deleted_row(self):
        stream = Stream()
        stream.merge(event("d", place(2), before={"id": 1}))
        stream.merge(event("c", place(1), after=row(1)))
        self.assertEqual(stream.rows(), [])

    def test_a_deleted_row_is_kept_for_eight_days(self):
        stream = Stream()
        stream.merge(event("c", place(1), after=row(1)), event("c", place(2), after=row(2)), days_ago=30)
        stream.merge(event("d", place(3), before={"id": 1}), event("c", place(4), after=row(3)), days_ago=9)
        stream.merge(event("d", place(5), before={"id": 3}), days_ago=7)
        kept = stream.redshift.database.execute("select id, op from spillway.orders order by id").fetchall()
        self.assertEqual(kept, [(2, "c"), (3, "d")])

    def test_an_untouched_large_value_is_filled_in_a_batch_and_across_batches(self):
        stream = Stream()
        stream.merge(event("c", place(1), after=row(1)), event("u", place(2), after=row(1, "Grace", body=UNAVAILABLE)))
        self.assertEqual(stream.rows(), [("orders", 1, "Grace", "12.50", "long")])
        stream.merge(event("u", place(3), after=row(1, "Alan", body=UNAVAILABLE)))
        self.assertEqual(stream.rows(), [("orders", 1, "Alan", "12.50", "long")])
        stream.merge(event("u", place(4), after=row(1, body=None)))
        stream.merge(event("u", place(5), after=row(1, body=UNAVAILABLE)))
        self.assertEqual(stream.bodies(), {("orders", 1): None})

    def test_a_value_that_only_one_of_two_equal_events_has_is_kept(self):
        for first, second in (("new", UNAVAILABLE), (UNAVAILABLE, "new")):
            stream = Stream()
            stream.merge(event("c", place(1), after=row(1, body="old")))
            stream.merge(event("u", place(2), after=row(1, body=first)))
            stream.merge(event("u", place(3), after=row(1, body=UNAVAILABLE)))
            stream.merge(event("u", place(2), after=row(1, body=second)))
            self.assertEqual(stream.bodies(), {("orders", 1): "new"})

    def test_of_two_equal_creates_the_one_with_the_large_value_counts(self):
        for bodies in (("new", UNAVAILABLE), (UNAVAILABLE, "new")):
            creates = [event("c", place(9, 8, 1), after=row(2, body=body)) for body in bodies]
            for batches in ([creates], [creates[:1], creates[1:]]):
                stream = Stream()
                for batch in batches:
                    stream.merge(*batch)
                self.assertEqual(stream.bodies(), {("orders", 2): "new"})

    def test_a_changed_key_takes_the_large_value_of_the_old_row(self):
        deleted = event("d", place(9, 8, 0), before={"id": 1})
        created = event("c", place(9, 8, 1), after=row(2, body=UNAVAILABLE))
        for batches in ([[deleted, created]], [[created, deleted]], [[deleted], [created]], [[created], [deleted]]):
            stream = Stream()
            # 2 existed before, with another body.
            stream.merge(event("c", place(1), after=row(1)), event("c", place(2), after=row(2, body="former")))
            stream.merge(event("d", place(3), before={"id": 2}))
            for number, batch in enumerate(batches):
                stream.merge(*batch, shard=f"shardId-00000000000{number}")
            self.assertEqual(stream.bodies(), {("orders", 2): "long"})
            # 1 begins another life, and the change is sent again.
            stream.merge(event("c", place(10), after=row(1, body="other")), created, deleted)
            self.assertEqual(stream.bodies(), {("orders", 1): "other", ("orders", 2): "long"})

    def test_a_key_that_changes_three_times_in_one_batch_has_its_value_after_three_merges(self):
        stream = Stream()
        events = [event("c", place(1), after=row(1))]
        for id in (1, 2, 3):
            events.append(event("d", place(10 + id, 5, 0), before={"id": id}))
            events.append(event("c", place(10 + id, 5, 1), after=row(id + 1, body=UNAVAILABLE)))
        stream.merge(*events)
        stream.merge()
        stream.merge()
        self.assertEqual(stream.bodies(), {("orders", 4): "long"})

    def test_a_large_value_that_no_event_had_is_not_null(self):
        stream = Stream()
        stream.merge(event("u", place(2), after=row(1, "Grace", body=UNAVAILABLE)))
        self.assertEqual(stream.bodies(), {("orders", 1): UNAVAILABLE})
        self.assertEqual(stream.redshift.run((FILES / "check.sql").read_text())[5], [(1,)])
        stream.merge(event("c", place(1), after=row(1, body=None)))
        self.assertEqual(stream.rows(), [("orders", 1, "Grace", "12.50", None)])

    def test_an_omitted_value_is_not_the_former_one(self):
        stream = Stream()
        stream.merge(event("c", place(1), after=row(1)))
        stream.merge(event("u", place(2), after=row(1, body=UNAVAILABLE), omitted=["body"]))
        self.assertEqual(stream.bodies(), {("orders", 1): OMITTED})
        stream.merge(event("u", place(3), after=row(1, body=UNAVAILABLE)))
        self.assertEqual(stream.bodies(), {("orders", 1): OMITTED})
        self.assertEqual(stream.redshift.run((FILES / "check.sql").read_text())[5], [(1,)])

    def test_a_changed_key_does_not_take_the_former_value_of_an_omitted_one(self):
        deleted = event("d", place(9, 8, 0), before={"id": 1})
        created = event("c", place(9, 8, 1), after=row(2, body=UNAVAILABLE), omitted=["body"])
        for batches in ([[deleted, created]], [[created], [deleted]]):
            stream = Stream()
            stream.merge(event("c", place(1), after=row(1)))
            for number, batch in enumerate(batches):
                stream.merge(*batch, shard=f"shardId-00000000000{number}")
            self.assertEqual(stream.bodies(), {("orders", 2): OMITTED})

    def test_a_truncate_ends_the_rows_before_it_and_of_its_source(self):
        stream = Stream()
        stream.merge(event("c", place(1), after=row(1)), event("c", place(1), after=row(1), source="billing"))
        stream.merge(event("c", place(2), after=row(2)), event("t", place(3)), event("c", place(4), after=row(3)))
        self.assertEqual([r[:2] for r in stream.rows()], [("billing", 1), ("orders", 3)])
        stream.merge(event("u", place(2), after=row(4)))
        self.assertEqual([r[:2] for r in stream.rows()], [("billing", 1), ("orders", 3)])

    def test_two_sources_and_other_tables_do_not_mix(self):
        stream = Stream()
        stream.merge(event("c", place(5), after=row(1, "Ada")))
        stream.merge(event("c", place(2), after=row(1, "Bo"), source="billing"))
        stream.merge(event("u", place(3), after=row(1, "Cy"), source="billing"))
        stream.merge(event("c", place(9), after={"id": 1, "note": "x"}, table="notes"))
        self.assertEqual([r[:3] for r in stream.rows()], [("billing", 1, "Cy"), ("orders", 1, "Ada")])

    def test_a_renamed_key_is_the_same_row(self):
        stream = Stream()
        stream.merge(event("c", place(1), after=row(1)), event("c", place(1), after=row(2)))
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
        stream.merge(event("u", place(2), after=renamed), event("d", place(3), before={"order_id": 2}))
        self.assertEqual(stream.rows(), [("orders", 1, "Grace", "12.50", "long")])

    def test_a_change_without_a_key_is_left_out_and_counted(self):
        stream = Stream()
        stream.merge(event("c", place(1), after=row(None)), event("c", place(2), after=row(2)))
        self.assertEqual([r[:2] for r in stream.rows()], [("orders", 2)])
        answers = stream.redshift.run((FILES / "check.sql").read_text())
        self.assertEqual(answers[3:], [[(0,)], [(1,)], [(0,)], [("orders", 1, 2, answers[6][0][3])]])

    def test_a_record_that_cannot_be_read_is_counted(self):
        stream = Stream()
        stream.merge("\xf3\x89\x9a\xc2", raw=True)
        answers = stream.redshift.run((FILES / "check.sql").read_text())
        self.assertEqual(answers[1][0][0], 1)


class OtherTables(unittest.TestCase):
    def made(self, *arguments):
        with mock.patch.object(sys, "argv", ["", *arguments]), contextlib.redirect_stdout(io.StringIO()) as output:
            table_sql.main()
        return output.getvalue()

    def test_the_script_makes_the_file_of_orders(self):
        arguments = ["public.orders", "--key", "id bigint", "--column", "customer varchar(65535)", "--column"]
        arguments += ["amount decimal(12, 2)", "--column", "placed timestamptz", "--large", "body"]
        self.assertEqual(self.made(*arguments), (FILES / "orders.sql").read_text())

    def test_a_table_of_two_key_columns_and_two_large_ones_is_merged(self):
        arguments = ["sales.items", "--key", "shop varchar(64)", "--key", "id bigint", "--column", "sold boolean"]
        text = self.made(*arguments, "--large", "body", "--large", "notes")

        def item(shop, id, body, notes, sold=True):
            return {"shop": shop, "id": id, "sold": sold, "body": body, "notes": notes}

        def of(op, position, before=None, after=None):
            one = event(op, position, before, after, table="items")
            one["source"]["schema"] = "sales"
            return one

        stream = Stream()
        stream.redshift.run(text)
        stream.arrive(of("c", place(1), after=item("a", 1, "long", None)))
        stream.arrive(of("c", place(2), after=item("b", 1, "x", "y")))
        stream.arrive(of("u", place(3), after=item("a", 1, UNAVAILABLE, "new")))
        stream.arrive(of("d", place(4, 4, 0), before={"shop": "a", "id": 1}))
        stream.redshift.call("spillway.merge_items")
        stream.arrive(of("c", place(4, 4, 1), after=item("c", 1, UNAVAILABLE, UNAVAILABLE, sold=False)))
        stream.redshift.call("spillway.merge_items")
        rows = stream.redshift.database.execute("select * from public.items order by shop").fetchall()
        self.assertEqual(rows, [("orders", "b", 1, True, "x", "y"), ("orders", "c", 1, False, "long", "new")])

    def test_each_type_is_cast_as_the_page_says(self):
        page = (FILES.parents[2] / "docs" / "consume.md").read_text()
        lines = re.findall(r"^\| `([^`]+)` \|.*\| `([^`]+)` \| `[^`]+` \|$", page, re.MULTILINE)
        forms = {kind: re.sub(r"\bx\b", "y::varchar(65535)", form) for kind, form in lines}
        kinds = {"numeric(12,2)": "decimal(12, 2)", "double precision": "float8", "boolean": "boolean", "date": "DATE"}
        kinds |= {"time": "time", "timestamp": "timestamp without time zone", "timestamptz": "timestamptz"}
        kinds |= {"bytea": "varbyte", "interval": "varchar(65535)", "uuid": "varchar(65535)"}
        for of_postgresql, kind in kinds.items():
            with self.subTest(kind=kind):
                self.assertEqual(table_sql.cast("y", kind), forms[of_postgresql])
        # DuckDB does not cut texts.
        for kind in ("character varying(200)", "char(200)", "TEXT"):
            self.assertEqual(table_sql.cast("y", kind), f"y::varchar(65535)::{kind}")
        self.assertEqual(table_sql.cast("y", "VARCHAR(200)"), "y::VARCHAR(200)")

    def test_values_of_other_types_are_kept(self):
        stream = Stream()
        columns = {
            "a": ("VARCHAR(200)", "é", "é"),
            "f": ("real", "NaN", "nan"),
            "g": ("double precision", 0.1, "0.1"),
            "h": ("numeric(38, 2)", "1" * 36 + ".50", "1" * 36 + ".50"),
            "i": ("date", "2026-11-23Z", "2026-11-23"),
            "j": ("time", "12:00:01.5Z", "12:00:01.5"),
            "k": ("timestamp", "2026-11-23T12:00:00.123456Z", "2026-11-23 12:00:00.123456"),
            "l": ("varbyte", "AP8=", "00ff"),
            "m": ("super", ["a", None], '["a",null]'),
        }
        arguments = [argument for name, (kind, _, _) in columns.items() for argument in ("--column", f"{name} {kind}")]
        stream.redshift.run(self.made("public.items", "--key", "id INT8", *arguments))
        values = {name: value for name, (_, value, _) in columns.items()}
        stream.arrive(event("c", place(1), after={"id": 1, **values}, table="items"))
        stream.redshift.call("spillway.merge_items")
        names = ", ".join(f"hex({name})" if name == "l" else f"{name}::varchar" for name in columns)
        rows = stream.redshift.database.execute(f"select {names} from public.items").fetchall()
        self.assertEqual([r.lower() for r in rows[0]], [value for _, _, value in columns.values()])

    def test_an_untouched_list_is_the_former_one(self):
        stream = Stream()
        arguments = ["public.items", "--key", "id bigint", "--column", "n int", "--large", "body", "--nested", "tags"]
        text = self.made(*arguments)
        self.assertIn("--     --nested tags\n", text)
        stream.redshift.run(text)
        values = [(1, ["a", None]), (2, UNAVAILABLE), (3, {"x": 1}), (4, UNAVAILABLE), (5, None), (6, UNAVAILABLE)]
        found = []
        for n, tags in values:
            stream.arrive(event("u", place(n), after={"id": 1, "n": n, "body": "b", "tags": tags}, table="items"))
            stream.redshift.call("spillway.merge_items")
            found += stream.redshift.database.execute("select n, tags from public.items").fetchall()
        lists = ['["a",null]', '["a",null]', '{"x":1}', '{"x":1}', None, None]
        self.assertEqual(found, list(enumerate(lists, 1)))

    def test_names_may_have_capital_letters_dots_and_spaces_and_be_reserved_words(self):
        arguments = ["Shop.Order.Line", "--key", "order bigint", "--key", '"Line No" varchar(64)', "--column"]
        arguments += ["user varchar(64)", "--large", "Body", "--large", "group"]
        text = self.made(*arguments)
        for said in ('"user" varchar(64),', "= 'Order.Line'", "= 'Shop'", 'view public."Order.Line"', '"Body_at"'):
            self.assertIn(said, text)
        for made in (text, self.made('"Shop"."Order.Line"', *arguments[1:])):
            procedures, rest = statements(made)
            for statement in sum(procedures.values(), rest):
                parse(statement)

        def item(line, user, body, group):
            return {"order": 1, "Line No": line, "user": user, "Body": body, "group": group}

        def of(op, position, before=None, after=None, **of_source):
            one = event(op, position, before, after, table="Order.Line", **of_source)
            one["source"]["schema"] = "Shop"
            return one

        stream = Stream()
        stream.redshift.run(text)
        stream.arrive(of("c", place(1), after=item("a", "Ada", "long", "x")))
        stream.arrive(of("c", place(2), after=item("b", "Bo", "x", "y")))
        stream.redshift.call("spillway.merge_order_line")
        stream.arrive(of("u", place(3), after=item("b", "Cy", UNAVAILABLE, UNAVAILABLE), omitted=["Body"]))
        stream.arrive(of("d", place(4, 4, 0), before={"order": 1, "Line No": "a"}))
        stream.arrive(of("c", place(4, 4, 1), after=item("c", "Ada", UNAVAILABLE, "z")))
        stream.redshift.call("spillway.merge_order_line")
        rows = stream.redshift.database.execute('select * from public."Order.Line" order by 3').fetchall()
        self.assertEqual(rows, [("orders", 1, "b", "Cy", OMITTED, "y"), ("orders", 1, "c", "Ada", "long", "z")])

    def test_a_column_without_a_type_is_an_error(self):
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
            self.made("public.orders", "--key", "id")

    def test_a_column_gets_another_type(self):
        stream = Stream()
        stream.merge(event("c", place(1), after=row(1, amount="12.50")), event("c", place(2), after=row(2)))
        readme = (FILES / "README.md").read_text()
        stream.redshift.run(readme.split("## A column gets another type")[1].split("```sql\n")[1].split("```")[0])
        arguments = ["public.orders", "--key", "id bigint", "--column", "customer varchar(65535)", "--column"]
        arguments += ["amount decimal(14, 4)", "--column", "placed timestamptz", "--large", "body"]
        text = self.made(*arguments)
        stream.redshift.run(text[text.index("-- What queries read.") :])
        stream.merge(event("u", place(3), after=row(2, amount="7.1234", body=UNAVAILABLE)))
        rows = [("orders", 1, "Ada", "12.5000", "long"), ("orders", 2, "Ada", "7.1234", "long")]
        self.assertEqual(stream.rows(), rows)

    def test_a_table_without_large_columns_is_merged(self):
        stream = Stream()
        stream.redshift.run(self.made("public.users", "--key", "id bigint", "--column", "name varchar(64)"))
        stream.arrive(event("c", place(1), after={"id": 1, "name": "Ada"}, table="users"))
        stream.arrive(event("c", place(2), after={"id": 2, "name": "Bo"}, table="users"))
        stream.arrive(event("d", place(3), before={"id": 2}, table="users"))
        stream.redshift.call("spillway.merge_users")
        rows = stream.redshift.database.execute("select * from public.users").fetchall()
        self.assertEqual(rows, [("orders", 1, "Ada")])


class Repair(unittest.TestCase):
    def repaired(self, stream, source="orders"):
        text = (FILES / "repair.sql").read_text().replace("'SOURCE'", f"'{source}'")
        return stream.redshift.run(text)

    def test_rows_of_the_source_that_were_not_sent_again_are_removed(self):
        stream = Stream()
        stream.merge(*(event("c", place(id), after=row(id)) for id in (1, 2, 3)))
        stream.merge(event("c", place(1), after=row(1), source="billing"))
        # Row 2 was deleted, and 4 was created, in the gap. 3 changes while it is read.
        stream.merge(message("spillway.gap_accepted", place(100), {"control": "gap_accepted"}))
        stream.arrive(event("r", place(0x19CEE79 + 5), after=row(1)), shard="shardId-000000000001")
        stream.arrive(event("r", place(0x19CEE79 + 5), after=row(4)))
        stream.arrive(event("u", place(0x19CEE79 + 7), after=row(3, "Cy")))
        said = {"control": "repaired", "since": f"{0x19CEE79:016x}", "tables": ["public.orders"]}
        stream.arrive(message("spillway.repaired", place(0x19CEE79 + 9), said))
        found = self.repaired(stream)[0]
        self.assertEqual(json.loads(found[0][3]), said)
        self.assertEqual([r[:3] for r in stream.rows()], [
            ("billing", 1, "Ada"), ("orders", 1, "Ada"), ("orders", 3, "Cy"), ("orders", 4, "Ada"),
        ])  # fmt: skip
        # What arrives again from before the repair stays away.
        stream.merge(event("u", place(2), after=row(2)))
        self.assertNotIn(("orders", 2), stream.bodies())
        self.repaired(stream)
        self.assertEqual(len(stream.rows()), 4)

    def test_without_the_message_nothing_is_removed(self):
        stream = Stream()
        stream.merge(event("c", place(1), after=row(1)), event("c", place(1), after=row(1), source="billing"))
        said = {"control": "repaired", "since": f"{9:016x}", "tables": ["public.orders"]}
        stream.merge(message("foreign.spillway.repaired", place(10), said))
        stream.merge(message("spillway.repaired", place(10), said, source="billing"))
        self.assertEqual(self.repaired(stream)[0], [])
        self.assertEqual([r[:2] for r in stream.rows()], [("billing", 1), ("orders", 1)])

    def test_a_repair_of_another_table_removes_nothing(self):
        stream = Stream()
        stream.merge(event("c", place(1), after=row(1)))
        said = {"control": "repaired", "since": f"{9:016x}", "tables": ["public.notes"]}
        stream.merge(message("spillway.repaired", place(10), said))
        self.repaired(stream)
        self.assertEqual(len(stream.rows()), 1)

    def test_after_a_divergence_smaller_positions_are_newer(self):
        stream = Stream()
        stream.merge(*(event("c", place(1000 + id), after=row(id)) for id in (1, 2)))
        stream.merge(event("d", place(1010), before={"id": 3}), event("t", place(900)))
        # No event had the body of row 5.
        stream.merge(event("u", place(1011), after=row(5, body=UNAVAILABLE)))
        stream.redshift.run((FILES / "restart_positions.sql").read_text().replace("'SOURCE'", "'orders'"))
        self.assertEqual(stream.bodies(), {("orders", 1): "long", ("orders", 2): "long", ("orders", 5): UNAVAILABLE})
        self.assertEqual(stream.redshift.run((FILES / "check.sql").read_text())[5], [(1,)])
        stream.merge(event("u", place(19), after=row(5, "Eve", body=UNAVAILABLE)))
        self.assertEqual(stream.bodies()["orders", 5], UNAVAILABLE)
        stream.arrive(message("spillway.gap_accepted", place(20), {"control": "gap_accepted"}))
        stream.arrive(event("r", place(30), after=row(1, "Grace")), event("r", place(30), after=row(3)))
        said = {"control": "repaired", "since": f"{25:016x}", "tables": ["public.orders"]}
        stream.arrive(message("spillway.repaired", place(40), said))
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
