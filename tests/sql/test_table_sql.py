"""The files that examples/consumers/redshift/table_sql.py makes, run on DuckDB."""

import contextlib
import io
import re
import sys
import unittest
from unittest import mock

import duckdb
from events import OMITTED, UNAVAILABLE, event, at, row
from redshift_on_duckdb import parse, statements
from test_redshift import FILES, Stream

sys.path.insert(0, str(FILES))

import table_sql  # noqa: E402

SETUP = (FILES / "setup.sql").read_text()


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
        stream.arrive(of("c", at(1), after=item("a", 1, "long", None)))
        stream.arrive(of("c", at(2), after=item("b", 1, "x", "y")))
        stream.arrive(of("u", at(3), after=item("a", 1, UNAVAILABLE, "new")))
        stream.arrive(of("d", at(4, 4, 0), before={"shop": "a", "id": 1}))
        stream.redshift.call("spillway.merge_items")
        stream.arrive(of("c", at(4, 4, 1), after=item("c", 1, UNAVAILABLE, UNAVAILABLE, sold=False)))
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
        # The table checks the length of a text. A cast would cut it.
        for kind in ("character varying(200)", "char(200)", "nvarchar(200)", "bpchar", "TEXT", "VARCHAR(200)"):
            self.assertEqual(table_sql.cast("y", kind), "y::varchar(65535)")

    def test_a_text_that_exceeds_its_column_in_bytes_fails_the_merge(self):
        columns = ["public.users", "--key", "name varchar(20)", "--column", "city varchar(20)"]
        for user in ({"name": "ä" * 20, "city": "Ulm"}, {"name": "Ada", "city": "ä" * 20}):
            stream = Stream()
            stream.redshift.run(self.made(*columns))
            stream.arrive(event("c", at(1), after={"name": "ä" * 10, "city": "ä" * 10}, table="users"))
            stream.redshift.call("spillway.merge_users")
            rows = stream.redshift.database.execute("select * from public.users").fetchall()
            self.assertEqual(rows, [("orders", "ä" * 10, "ä" * 10)])
            stream.arrive(event("c", at(2), after=user, table="users"))
            with self.subTest(user=user), self.assertRaises(duckdb.ConstraintException):
                stream.redshift.call("spillway.merge_users")

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
        stream.arrive(event("c", at(1), after={"id": 1, **values}, table="items"))
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
            stream.arrive(event("u", at(n), after={"id": 1, "n": n, "body": "b", "tags": tags}, table="items"))
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
        stream.arrive(of("c", at(1), after=item("a", "Ada", "long", "x")))
        stream.arrive(of("c", at(2), after=item("b", "Bo", "x", "y")))
        stream.redshift.call("spillway.merge_order_line")
        stream.arrive(of("u", at(3), after=item("b", "Cy", UNAVAILABLE, UNAVAILABLE), omitted=["Body"]))
        stream.arrive(of("d", at(4, 4, 0), before={"order": 1, "Line No": "a"}))
        stream.arrive(of("c", at(4, 4, 1), after=item("c", "Ada", UNAVAILABLE, "z")))
        stream.redshift.call("spillway.merge_order_line")
        rows = stream.redshift.database.execute('select * from public."Order.Line" order by "Line No"').fetchall()
        self.assertEqual(rows, [("orders", 1, "b", "Cy", OMITTED, "y"), ("orders", 1, "c", "Ada", "long", "z")])

    def test_a_column_without_a_type_is_an_error(self):
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
            self.made("public.orders", "--key", "id")

    def refusal(self, *arguments):
        """The error of the script for arguments that it refuses."""
        with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit):
            self.made(*arguments)
        return said.getvalue()

    def test_a_table_of_spillways_own_names_is_refused(self):
        own = re.findall(r"^create (?:table|view|materialized view) spillway\.(\w+)", SETUP, re.MULTILINE)
        self.assertEqual(sorted(own), ["control_messages", "events", "floors", "progress"])
        for name in own:
            with self.subTest(name=name):
                said = self.refusal(f"public.{name}", "--key", "id bigint")
                self.assertIn(f"spillway.{name} exists", said)
                self.assertIn(f"public.{name}_rows", said)

    def test_a_column_of_a_name_that_the_file_defines_is_refused(self):
        own = ("source_name", "op", "position", "arrived", "shard_id", "sequence_number")
        # moved_at is in the tables of the deleted rows, with moved or moved_at.
        for name in (*own, "body_at", "moved", "moved_at"):
            large = ("--large", "--nested")
            for option in large if name.startswith("moved") else ("--key", "--column", *large):
                named = name if option in large else f"{name} bigint"
                key = [] if option == "--key" else ["--key", "id bigint"]
                with self.subTest(name=name, option=option):
                    said = self.refusal("public.items", *key, option, named, "--large", "body")
                    self.assertRegex(said, f"{name} .*{name}_of_row")

    def test_a_column_that_is_named_twice_is_refused(self):
        for option, named in (("--column", "id int"), ("--large", "id"), ("--nested", "id")):
            self.assertIn("id is named twice", self.refusal("public.items", "--key", "id bigint", option, named))
        # Objects are made for both, and names of objects have no capital letters.
        said = self.refusal("public.items", "--key", "id bigint", "--large", "Body", "--large", "body")
        self.assertRegex(said, "Body .*Body_of_row")

    def test_a_refused_name_is_read_as_the_message_says(self):
        arguments = ["--key", "id bigint", "--column", "position_of_row int", "--large", "op_of_row"]
        text = self.made("public.events_rows", *arguments)
        for made, own in (("= 'events_rows'\n    and e.", "= 'events'\n    and e."),
                          ("after.position_of_row", "after.position"), ("after.op_of_row", "after.op"),
                          ("""'"op_of_row"'""", """'"op"'""")):  # fmt: skip
            self.assertIn(made, text)
            text = text.replace(made, own)
        stream = Stream()
        stream.redshift.run(text)
        stream.arrive(event("c", at(1), after={"id": 1, "position": 7, "op": "x"}, table="events"))
        omitted = event("c", at(2), after={"id": 2, "position": 8}, table="events", omitted=["op"])
        stream.arrive(omitted)
        stream.redshift.call("spillway.merge_events_rows")
        rows = stream.redshift.database.execute("select * from public.events_rows order by id").fetchall()
        self.assertEqual(rows, [("orders", 1, 7, "x"), ("orders", 2, 8, OMITTED)])

    def test_an_omitted_column_is_not_one_of_a_similar_name(self):
        stream = Stream()
        large = ["--large", "note_1", "--large", "note11"]
        stream.redshift.run(self.made("public.items", "--key", "id bigint", *large))
        stream.arrive(event("c", at(1), after={"id": 1, "note_1": "a", "note11": "b"}, table="items"))
        after = {"id": 1, "note_1": UNAVAILABLE, "note11": UNAVAILABLE}
        stream.arrive(event("u", at(2), after=after, table="items", omitted=["note11"]))
        stream.redshift.call("spillway.merge_items")
        rows = stream.redshift.database.execute("select note_1, note11 from public.items").fetchall()
        self.assertEqual(rows, [("a", OMITTED)])

    def test_a_column_gets_another_type(self):
        stream = Stream()
        stream.merge(event("c", at(1), after=row(1, amount="12.50")), event("c", at(2), after=row(2)))
        readme = (FILES / "README.md").read_text()
        stream.redshift.run(readme.split("## A column gets another type")[1].split("```sql\n")[1].split("```")[0])
        arguments = ["public.orders", "--key", "id bigint", "--column", "customer varchar(65535)", "--column"]
        arguments += ["amount decimal(14, 4)", "--column", "placed timestamptz", "--large", "body"]
        text = self.made(*arguments)
        stream.redshift.run(text[text.index("-- View for queries.") :])
        stream.merge(event("u", at(3), after=row(2, amount="7.1234", body=UNAVAILABLE)))
        rows = [("orders", 1, "Ada", "12.5000", "long"), ("orders", 2, "Ada", "7.1234", "long")]
        self.assertEqual(stream.rows(), rows)

    def test_a_table_without_large_columns_is_merged(self):
        stream = Stream()
        stream.redshift.run(self.made("public.users", "--key", "id bigint", "--column", "name varchar(64)"))
        stream.arrive(event("c", at(1), after={"id": 1, "name": "Ada"}, table="users"))
        stream.arrive(event("c", at(2), after={"id": 2, "name": "Bo"}, table="users"))
        stream.arrive(event("d", at(3), before={"id": 2}, table="users"))
        stream.redshift.call("spillway.merge_users")
        rows = stream.redshift.database.execute("select * from public.users").fetchall()
        self.assertEqual(rows, [("orders", 1, "Ada")])


if __name__ == "__main__":
    unittest.main()
