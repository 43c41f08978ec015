"""Records of the stream as changes of rows.

The function must run with ENVELOPE=debezium and PARTITION_BY=key, its defaults. AGGREGATION may be none or kpl. The
partition key is the key of the row, but for the tables in PARTITION_KEYS. ROW_KEYS names the keys of these tables.
"""

import base64
import json
import os
import re
from typing import NamedTuple

from aws_kinesis_agg.deaggregator import iter_deaggregate_records

# Debezium's mark of a large value that an update left unchanged. The event does not contain the value.
UNAVAILABLE = "__debezium_unavailable_value"
# Our own mark, for a value that OVERSIZE=omit left out. It did change, so the stored value is not valid any
# more.
OMITTED = "__omitted_because_of_its_size"

# Columns of the key of each table that has an entry in PARTITION_KEYS: {"public.orders": ["id"]}.
ROW_KEYS = json.loads(os.environ.get("ROW_KEYS", "{}"))

# Tables without a key that have inserts only: public.log,public.audit. Their rows may have the bare name of the table
# as partition key: with KEYLESS=table, with test_decoding, or if the table was altered, dropped or truncated before the
# rows were drained.
KEYLESS_TABLES = os.environ.get("KEYLESS_TABLES", "").split(",")

# Half of a pair of UTF-16, which is no character. Stores accept none, and Spillway writes none.
ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class RowId(NamedTuple):
    """Identity of a row. `{"id":1}` alone names neither the database nor the table."""

    source: str
    schema: str
    table: str
    key: str


class Change(NamedTuple):
    """A change of one row, or of a whole table."""

    # Of a table: see `table_id`.
    id: RowId
    # Positions of one source compare as strings. Those of two sources must never be compared.
    position: str
    # c (create), u (update), d (delete), r (row of a backfill). Of a table, t: rows that are older than the
    # position do not exist, because of a truncate or a repair.
    op: str
    # The new row, or the old row of a delete, which may have the key only.
    row: dict


class Refused(NamedTuple):
    """An event that cannot be applied."""

    sequence_number: str
    # Of the event in its record, from 0 on.
    number: int
    partition_key: str
    data: bytes
    error: Exception


def table_id(source, name):
    """Identity of a table. Control events have its name as one text, without quotes: `public.orders`."""
    return RowId(source, name, "", "")


def of_record(record):
    """Changes in a record of a Lambda event, and its events that are refused. An aggregate has many events."""
    found, refused = [], []
    for number, event in enumerate(iter_deaggregate_records([record])):
        key, data = event["kinesis"]["partitionKey"], base64.b64decode(event["kinesis"]["data"])
        try:
            found += of_event(key, data)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            # Some stores accept no byte 0 in a text.
            refused.append(Refused(record["kinesis"]["sequenceNumber"], number, key.replace("\0", " "), data, error))
    return found, refused


def of_event(partition_key, data):
    """Changes of one event: one as a rule, none for a message of an application.

    Raises an error if Spillway did not write the event, or if the key of its row is not known.
    """
    if not data:  # a tombstone of TOMBSTONES_ON_DELETE
        return []
    event = json.loads(data)
    if ESCAPED_SURROGATE.search(data):
        json.dumps(event, ensure_ascii=False).encode()
    source, op = event["source"], event["op"]
    if op == "m":
        return of_message(source, event["message"])
    name, position, schema, own_name = (text(source[field]) for field in ("name", "position", "schema", "table"))
    table = f"{schema}.{own_name}"
    if op == "t":
        return [Change(table_id(name, table), position, op, {})]
    if op not in ("c", "u", "d", "r"):
        raise ValueError(f"unknown op {op}")
    row = {column: value for column, value in (event["after"] or event["before"] or {}).items()}
    row |= {column: OMITTED for column in source.get("omitted", []) if column in row}
    key = partition_key
    if key == table or key.startswith(f"{table}#"):
        # With the bare name, the row may have an unknown key. So an insert is refused, too: no later change would find
        # the appended row.
        if op in "ud" or (key == table and table not in KEYLESS_TABLES):
            raise ValueError(
                f"{table}: the key of this row is not known. Give the table a key if it has none, and repair it. "
                "If it has inserts only, add it to KEYLESS_TABLES"
            )
        # Only the position distinguishes such a row from its duplicate.
        key = position
    elif table in ROW_KEYS:
        key = json.dumps({column: row[column] for column in ROW_KEYS[table]}, ensure_ascii=False)
    return [Change(RowId(name, schema, own_name, text(key)), position, op, row)]


def of_message(source, message):
    """Changes by the end of a repair. Its prefix is reserved, so no application can forge it."""
    if message["prefix"] != "spillway.repaired":
        return []
    control = json.loads(base64.b64decode(message["content"]))
    source, since = text(source["name"]), text(control["since"])
    return [Change(table_id(source, text(table)), since, "t", {}) for table in control["tables"]]


def text(value):
    """A value that must be a text which each store accepts. Otherwise its batch would fail in each attempt."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("the event has another form than Spillway's")
    return value
