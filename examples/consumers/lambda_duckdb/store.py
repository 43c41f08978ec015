"""The store: one table of rows, in DuckDB, or in any warehouse that has `merge`.

`consumer.py` calls four methods of a store, in one transaction. `batches.py` then calls `refuse`. Tables of the sources
are views on `rows`: see the README. So a new column at a source needs no migration here.
"""

import contextlib
import json
from pathlib import Path

import duckdb

from changes import RowId
from consumer import Row

CREATE = """
create table if not exists rows (
    source_name varchar not null,
    schema_name varchar not null,
    table_name varchar not null,
    row_key varchar not null,
    position varchar not null,
    deleted boolean not null,
    waits_for varchar,
    values_at varchar not null,
    data varchar not null,
    primary key (source_name, schema_name, table_name, row_key))
"""
# Events that cannot be applied. `bytea` is the type of bytes in PostgreSQL and DuckDB.
CREATE_REFUSED = """
create table if not exists refused (
    sequence_number varchar not null,
    sub_sequence_number bigint not null,
    partition_key varchar not null,
    data bytea not null,
    primary key (sequence_number, sub_sequence_number))
"""
# A table of a former version has no such column. The values of its rows are as new as the rows.
ADD_VALUES_AT = "alter table rows add column values_at varchar default '{}'"
KEY = ["source_name", "schema_name", "table_name", "row_key"]
COLUMNS = [*KEY, "position", "deleted", "waits_for", "values_at", "data"]


class Store:
    """Common part of both forms.

    `mark` is the placeholder of the connection's parameters. `lock` is a statement at the begin of each transaction,
    after which no other function writes: a truncate or a changed key concerns rows of other shards, too.
    """

    def __init__(self, connection, mark, lock=None):
        self.connection, self.mark, self.lock = connection, mark, lock
        self.cursor = connection.cursor()
        self.cursor.execute(CREATE)
        self.cursor.execute(CREATE_REFUSED)
        self.cursor.execute("select * from rows where 1 = 0")
        if "values_at" not in [column[0] for column in self.cursor.description]:
            self.cursor.execute(ADD_VALUES_AT)

    @contextlib.contextmanager
    def transaction(self):
        """All that a batch changes, or nothing."""
        self.cursor.execute("begin")
        try:
            if self.lock:
                self.cursor.execute(self.lock)
            yield
        except BaseException:
            self.cursor.execute("rollback")
            raise
        self.cursor.execute("commit")

    def execute(self, sql, values=()):
        """Execute SQL in which `?` is a parameter."""
        self.cursor.execute(sql.replace("?", self.mark), list(values))
        return self.cursor

    def delete_before(self, table, position):
        """Delete the rows of a table (see `table_id`) that are older than a position. They stay for theirs."""
        self.execute(
            "update rows set deleted = true "
            "where source_name = ? and schema_name || '.' || table_name = ? and position < ?",
            [table.source, table.schema, position],
        )

    def waiting(self):
        """Rows that wait for a deleted row that has arrived: identity, row, and values of the deleted row."""
        columns = ", ".join(f"r.{column}" for column in COLUMNS)
        found = self.execute(
            f"select {columns}, d.data from rows as r join rows as d on d.source_name = r.source_name "
            "and d.schema_name = r.schema_name and d.table_name = r.table_name and d.row_key = r.waits_for "
            "where r.waits_for is not null and d.waits_for is null"
        ).fetchall()
        return [(*row_of(values[:-1]), json.loads(values[-1])) for values in found]

    def refuse(self, refused):
        """Store events that cannot be applied (see `changes.Refused`). An event that is sent again is stored once."""
        with self.transaction():
            for one in refused:
                id = [one.sequence_number, one.number]
                query = "select 1 from refused where sequence_number = ? and sub_sequence_number = ?"
                if not self.execute(query, id).fetchone():
                    self.execute("insert into refused values (?, ?, ?, ?)", [*id, one.partition_key, one.data])

    def refused(self):
        """The refused events: sequence number, number in the record, partition key, and data."""
        return self.execute("select * from refused order by sequence_number, sub_sequence_number").fetchall()

    def existing(self):
        """The rows that exist: source, schema, table, key, and data as JSON."""
        columns = ", ".join([*KEY, "data"])
        return self.execute(f"select {columns} from rows where not deleted").fetchall()


class DuckDbStore(Store):
    """A file of DuckDB. One process at a time may write to it."""

    def __init__(self, path):
        super().__init__(duckdb.connect(path), "?")

    def load(self, ids):
        """The stored rows of these identities."""
        found = self.execute(
            f"select {', '.join(COLUMNS)} from rows join ({json_rows(KEY)}) using ({', '.join(KEY)})",
            [json.dumps([dict(zip(KEY, id)) for id in ids])],
        )
        return dict(row_of(values) for values in found.fetchall())

    def save(self, rows):
        """Insert or update these rows."""
        self.execute(
            f"insert into rows by name {json_rows(COLUMNS)} on conflict do update set position = excluded.position, "
            "deleted = excluded.deleted, waits_for = excluded.waits_for, values_at = excluded.values_at, "
            "data = excluded.data where excluded.position >= rows.position",
            [json.dumps([dict(zip(COLUMNS, values_of(id, row))) for id, row in rows.items()])],
        )


class MergeStore(Store):
    """A warehouse: `merge` of the SQL standard, through any connection of Python's DB-API."""

    # Rows of one statement: servers limit the number of parameters.
    MOST = 1_000
    MERGE = Path(__file__).with_name("merge.sql").read_text()

    def load(self, ids):
        """The stored rows of these identities."""
        rows = {}
        for some in chunks(list(ids), self.MOST):
            marks = ", ".join(["(?, ?, ?, ?)"] * len(some))
            found = self.execute(
                f"select {', '.join(COLUMNS)} from rows "
                f"where (source_name, schema_name, table_name, row_key) in ({marks})",
                [value for id in some for value in id],
            )
            rows |= dict(row_of(values) for values in found.fetchall())
        return rows

    def save(self, rows):
        """Insert or update these rows."""
        for some in chunks([values_of(id, row) for id, row in rows.items()], self.MOST):
            marks = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?)"] * len(some))
            self.execute(self.MERGE.replace("(:rows)", marks), [value for values in some for value in values])


def json_rows(names):
    """Query for the objects of a JSON array, which is its parameter: DuckDB inserts them at once."""
    types = {name: "BOOLEAN" if name == "deleted" else "VARCHAR" for name in names}
    return f"select unnest(from_json(?::json, '[{json.dumps(types)}]'), recursive := true)"


def values_of(id, row):
    values_at, data = (json.dumps(object, ensure_ascii=False) for object in (row.values_at, row.data))
    return [*id, row.position, row.deleted, row.waits_for, values_at, data]


def row_of(values):
    *id, position, deleted, waits_for, values_at, data = values
    return RowId(*id), Row(position, deleted, json.loads(data), waits_for, json.loads(values_at))


def chunks(values, size):
    return [values[at : at + size] for at in range(0, len(values), size)]
