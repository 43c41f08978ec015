"""The store of ../lambda_duckdb as an Iceberg table, written by pyiceberg.

A batch is one commit, which replaces the rows that the batch changed. Iceberg writes the files again that have such a
row, so large batches are cheap and small ones are not.
"""

import contextlib
import json
from dataclasses import replace

import pyarrow
from pyiceberg.expressions import And, EqualTo, In, LessThan, NotNull
from pyiceberg.types import StringType

from changes import RowId
from consumer import Row

SCHEMA = pyarrow.schema(
    [
        # The four names as JSON: Iceberg finds rows by the values of one column.
        pyarrow.field("row_id", pyarrow.string(), nullable=False),
        pyarrow.field("source_name", pyarrow.string(), nullable=False),
        pyarrow.field("schema_name", pyarrow.string(), nullable=False),
        pyarrow.field("table_name", pyarrow.string(), nullable=False),
        pyarrow.field("row_key", pyarrow.string(), nullable=False),
        pyarrow.field("position", pyarrow.string(), nullable=False),
        pyarrow.field("deleted", pyarrow.bool_(), nullable=False),
        pyarrow.field("waits_for", pyarrow.string()),
        pyarrow.field("values_at", pyarrow.string(), nullable=False),
        pyarrow.field("data", pyarrow.string(), nullable=False),
    ]
)

# Events that cannot be applied.
REFUSED = pyarrow.schema(
    [
        pyarrow.field("sequence_number", pyarrow.string(), nullable=False),
        pyarrow.field("sub_sequence_number", pyarrow.int64(), nullable=False),
        pyarrow.field("partition_key", pyarrow.string(), nullable=False),
        pyarrow.field("data", pyarrow.binary(), nullable=False),
    ]
)

# pyiceberg repeats a commit that fails because another one preceded it. But the rows of this one depend on the
# earlier state of the table: a truncate that was committed in between would not delete them.
NO_RETRIES = {"commit.retry.num-retries": "0"}


class IcebergStore:
    def __init__(self, catalog):
        catalog.create_namespace_if_not_exists("spillway")
        self.table = catalog.create_table_if_not_exists("spillway.rows", schema=SCHEMA, properties=NO_RETRIES)
        if not NO_RETRIES.items() <= self.table.properties.items():
            with self.table.transaction() as transaction:
                transaction.set_properties(NO_RETRIES)
        if "values_at" not in self.table.schema().column_names:
            # A table of a former version. The values of its rows are as new as the rows.
            with self.table.update_schema() as update:
                update.add_column("values_at", StringType())
        self.refused_table = catalog.create_table_if_not_exists("spillway.refused", schema=REFUSED)
        # Rows of the open transaction, which are not in the table yet.
        self.changed = {}
        # Identities of rows that the transaction has read from the table.
        self.stored = set()

    @contextlib.contextmanager
    def transaction(self):
        """All that a batch changes in one commit, or nothing."""
        self.changed, self.stored = {}, set()
        # Another function may have committed.
        self.table.refresh()
        yield
        rows = pyarrow.Table.from_pylist([record_of(*item) for item in self.changed.items()], SCHEMA)
        replaced = [row_id(id) for id in self.changed if id in self.stored]
        if replaced:
            self.table.overwrite(rows, overwrite_filter=In("row_id", replaced))
        elif self.changed:
            self.table.append(rows)

    def load(self, ids):
        """The rows of these identities."""
        ids = set(ids)
        stored = self.scan(In("row_id", [row_id(id) for id in ids]))
        return stored | {id: row for id, row in self.changed.items() if id in ids}

    def save(self, rows):
        """Insert or update these rows."""
        stored = self.load(rows)
        for id, row in rows.items():
            if id not in stored or row.position >= stored[id].position:
                self.changed[id] = row

    def delete_before(self, table, position):
        """Delete the rows of a table (see `table_id`) that are older than a position. They stay for theirs."""
        older = self.scan(And(EqualTo("source_name", table.source), LessThan("position", position))) | self.changed
        for id, row in older.items():
            if (id.source, f"{id.schema}.{id.table}") == table[:2] and row.position < position:
                self.changed[id] = replace(row, deleted=True)

    def waiting(self):
        """Rows that wait for a deleted row that has arrived: identity, row, and values of the deleted row."""
        rows = self.scan(NotNull("waits_for")) | self.changed
        rows = {id: row for id, row in rows.items() if row.waits_for}
        deleted = self.load({id._replace(key=row.waits_for) for id, row in rows.items()})
        found = ((id, row, deleted.get(id._replace(key=row.waits_for))) for id, row in rows.items())
        return [(id, row, old.data) for id, row, old in found if old and not old.waits_for]

    def refuse(self, refused):
        """Store events that cannot be applied. An event that is sent again is stored once."""
        self.refused_table.refresh()
        stored = {values[:2] for values in self.refused()}
        events = ((one.sequence_number, one.number, one.partition_key, one.data) for one in refused)
        rows = [dict(zip(REFUSED.names, values)) for values in events if values[:2] not in stored]
        if rows:
            self.refused_table.append(pyarrow.Table.from_pylist(rows, REFUSED))

    def refused(self):
        """The refused events: sequence number, number in the record, partition key, and data."""
        records = self.refused_table.scan().to_arrow().to_pylist()
        return sorted(tuple(record[name] for name in REFUSED.names) for record in records)

    def existing(self):
        """The rows that exist, read by DuckDB: source, schema, table, key, and data as JSON."""
        duckdb = self.table.scan().to_duckdb("rows")
        columns = "source_name, schema_name, table_name, row_key, data"
        return duckdb.execute(f"select {columns} from rows where not deleted").fetchall()

    def scan(self, row_filter):
        rows = dict(row_of(record) for record in self.table.scan(row_filter).to_arrow().to_pylist())
        self.stored |= rows.keys()
        return rows


def row_id(id):
    return json.dumps(id, ensure_ascii=False)


def record_of(id, row):
    names = {"source_name": id.source, "schema_name": id.schema, "table_name": id.table, "row_key": id.key}
    state = {"position": row.position, "deleted": row.deleted, "waits_for": row.waits_for}
    values_at, data = (json.dumps(object, ensure_ascii=False) for object in (row.values_at, row.data))
    return {"row_id": row_id(id), **names, **state, "values_at": values_at, "data": data}


def row_of(record):
    id = RowId(record["source_name"], record["schema_name"], record["table_name"], record["row_key"])
    values_at, data = json.loads(record["values_at"] or "{}"), json.loads(record["data"])
    return id, Row(record["position"], record["deleted"], data, record["waits_for"], values_at)
