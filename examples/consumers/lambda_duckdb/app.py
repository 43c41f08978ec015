"""Lambda function for an event source mapping of the stream."""

import os

import batches
from store import DuckDbStore

# For a warehouse: MergeStore(connection, "%s", lock), with a connection of its DB-API driver. The README has the lock.
store = DuckDbStore(os.environ.get("DUCKDB_FILE", "/mnt/store/spillway.duckdb"))


def lambda_handler(event, context):
    return batches.handle(store, event, context)
