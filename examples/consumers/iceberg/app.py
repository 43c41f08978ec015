"""Lambda function for an event source mapping of the stream, into an Iceberg table."""

import os
import sys
from pathlib import Path

from pyiceberg.catalog.sql import SqlCatalog

# This example shares everything but the store.
sys.path.append(str(Path(__file__).resolve().parents[1] / "lambda_duckdb"))

import batches
from iceberg_store import IcebergStore

# A local catalog and warehouse. On AWS: load_catalog("glue", type="glue", warehouse="s3://…").
WAREHOUSE = Path(os.environ["WAREHOUSE"]).absolute()
WAREHOUSE.mkdir(parents=True, exist_ok=True)
store = IcebergStore(SqlCatalog("local", uri=f"sqlite:///{WAREHOUSE}/catalog.db", warehouse=f"file://{WAREHOUSE}"))


def lambda_handler(event, context):
    return batches.handle(store, event, context)
