"""Runs statements that are written for Redshift on DuckDB.

sqlglot parses each statement as Redshift's and writes it as DuckDB's. Its gaps are filled here: paths into SUPER,
functions that DuckDB lacks, and statements that have no meaning there.
"""

import functools
import logging
import re

import duckdb
import sqlglot
from sqlglot import exp

# sqlglot warns of properties that DuckDB has not, such as AUTO REFRESH.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

# Functions of Redshift for values as DuckDB has them: SUPER is JSON as text, VARBYTE is BLOB.
MACROS = """
create type super as varchar;
create macro can_json_parse(record) as json_valid(record);
create macro is_list(value) as json_valid(value) and starts_with(value, '[');
create macro is_object(value) as json_valid(value) and starts_with(value, '{');
create macro json_serialize(value) as value;
create macro to_varbyte(value, form) as from_base64(value);
create macro from_varbyte(value, form) as decode(value);
create macro text_of_length(value, size) as case when strlen(value) <= size then value end;
create macro json_extract_path_text(document, name) as json_extract_string(document, '$.' || name);
"""

# A schema of the stream's records is a table here. There is one session, so nothing is locked. The view is
# not stored, so it need not be refreshed.
IGNORED = ("create external schema", "lock table", "refresh materialized view")


def length_in_bytes(node):
    """The limit of a varchar, which DuckDB ignores.

    A cast of SUPER to a shorter varchar gives null, and no error. A table refuses a longer text.
    """
    sized = node.find(exp.DataTypeParam) if isinstance(node, exp.Cast | exp.ColumnDef) else None
    if not sized or not node.args.get("kind", node.args.get("to")).is_type(*exp.DataType.TEXT_TYPES):
        return node
    if isinstance(node, exp.Cast):
        return exp.func("text_of_length", node.this, sized.this)
    limit = exp.CheckColumnConstraint(this=exp.func("strlen", exp.column(node.name)) <= sized.this)
    node.append("constraints", exp.ColumnConstraint(kind=limit))
    return node


def super_value(node):
    """A path into SUPER (e.event.source.name) as text: DuckDB casts a string of JSON with its quotes."""
    if isinstance(node, exp.IsArray):
        # A form of our own: that of sqlglot fails at a text that is no JSON.
        return exp.func("is_list", node.this)
    names = [part.name for part in node.parts] if isinstance(node, exp.Column | exp.Dot) else []
    if len(names) > 2 and names[:2] == ["e", "event"]:
        path = "$" + "".join(f'."{name}"' for name in names[2:])
        return exp.func("json_extract_string", exp.column("event", "e"), exp.Literal.string(path))
    return node


def statements(text):
    """The statements of a file, with those inside of procedures apart: ({name: statements}, statements)."""
    procedures = {}

    def keep(match):
        procedures[match["name"]] = [s for s in match["body"].split(";") if s.strip()]
        return ""

    text = re.sub(
        r"create or replace procedure (?P<name>[\w.]+)\(\) as \$\$\s*begin\b"
        r"(?P<body>.*?)\bend;\s*\$\$ language plpgsql;",
        keep,
        without_comments(text),
        flags=re.DOTALL,
    )
    return procedures, [s.strip() for s in text.split(";") if s.strip()]


def without_comments(text):
    return "\n".join(line.split("--")[0] for line in text.splitlines())


def parse(statement):
    """The statement as sqlglot reads it; an error if it does not understand it as Redshift's."""
    tree = sqlglot.parse_one(statement, read="redshift")
    if isinstance(tree, exp.Command) and not statement.strip().lower().startswith((*IGNORED, "call ")):
        raise ValueError(f"not understood: {statement}")
    return tree


@functools.cache
def translated(statement):
    """The statement in DuckDB's words, and whether it is a query."""
    tree = parse(statement).transform(super_value).transform(length_in_bytes)
    return tree.sql(dialect="duckdb"), isinstance(tree, exp.Query)


class Redshift:
    """A database that runs the files of examples/consumers/redshift."""

    def __init__(self):
        self.database = duckdb.connect()
        self.database.execute("set timezone = 'UTC'")
        self.database.execute(MACROS)
        self.procedures = {}
        self.database.execute("create schema kinesis")
        self.database.execute("create schema public")
        self.database.execute(
            "create table kinesis.spillway (approximate_arrival_timestamp timestamp, shard_id varchar,"
            " sequence_number varchar, kinesis_data varchar)"
        )
        self.database.execute(
            "create table sys_stream_scan_states (mv_name varchar, skipped_rows bigint, scanned_rows bigint,"
            " partition_id varchar, record_time timestamp, stream_record_time_max timestamp)"
        )

    def run(self, text):
        """Runs each statement, and returns the rows of each query."""
        procedures, rest = statements(text)
        self.procedures |= procedures
        answers = []
        for statement in rest:
            called = re.fullmatch(r"call ([\w.]+)\(\)", statement)
            if called:
                self.call(called[1])
            else:
                answers.append(self.execute(statement))
        return [answer for answer in answers if answer is not None]

    def call(self, name):
        """Runs a procedure: in one transaction, as Redshift does."""
        self.database.execute("begin")
        for statement in self.procedures[name]:
            self.execute(statement)
        self.database.execute("commit")

    def execute(self, statement):
        if statement.strip().lower().startswith(IGNORED):
            return None
        text, is_query = translated(statement)
        view = re.match(r"create or replace view (\S+)", statement)
        former = self.columns(view[1]) if view else []
        rows = self.database.execute(text).fetchall()
        if former and former != self.columns(view[1]):
            raise ValueError(f"{view[1]} has other columns, so it must be dropped first")
        return rows if is_query else None

    def columns(self, view):
        """Names and types of the columns of a view; none if it does not exist."""
        try:
            return [column[:2] for column in self.database.execute(f"describe {view}").fetchall()]
        except duckdb.CatalogException:
            return []
