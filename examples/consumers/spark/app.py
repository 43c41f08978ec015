"""Spark structured streaming that keeps the tables in DuckDB, by the rules of ../lambda_duckdb."""

import base64
import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession

sys.path.append(str(Path(__file__).resolve().parents[1] / "lambda_duckdb"))

import changes  # noqa: E402
import consumer  # noqa: E402
from store import CREATE_REFUSED, DuckDbStore  # noqa: E402


def start(session, store, options, checkpoint, after_batch=lambda records: None):
    """Start the query. `options` are those of the source, `checkpoint` is the folder of Spark's offsets."""
    upgrade_refused(store)

    def each(batch, number):
        records = batch.select("partitionKey", "sequenceNumber", "data").collect()
        apply(store, records)
        after_batch(records)

    source = session.readStream.format("kinesis").options(**options).load()
    return source.writeStream.foreachBatch(each).option("checkpointLocation", checkpoint).start()


def upgrade_refused(store):
    """Upgrade the table of refused events of a former version."""
    columns = [column[0] for column in store.execute("select * from refused limit 0").description]
    if "sub_sequence_number" in columns:
        return
    # The former key has one row for each record, and would drop the other events of an aggregate.
    with store.transaction():
        store.execute("alter table refused rename to refused_records")
        store.execute(CREATE_REFUSED)
        store.execute("insert into refused select sequence_number, 0, partition_key, data from refused_records")
        store.execute("drop table refused_records")


def apply(store, records):
    """Apply the records of a micro-batch in one transaction. Spark repeats a batch that failed."""
    found, refused = [], []
    for record in records:
        of_record, refused_events = changes.of_record(lambda_record(record))
        found += of_record
        refused += refused_events
    # A micro-batch has records of many shards, in any order.
    found.sort(key=lambda change: (change.id.source, change.position))
    consumer.apply(store, found)
    if refused:
        store.refuse(refused)


def lambda_record(record):
    """The record in the form of a Lambda event, which the library for aggregates expects."""
    kinesis = {
        "kinesisSchemaVersion": "1.0",
        "partitionKey": record.partitionKey,
        "sequenceNumber": record.sequenceNumber,
        "data": base64.b64encode(record.data).decode(),
        "approximateArrivalTimestamp": 0,
    }
    return {"kinesis": kinesis, "eventSource": "aws:kinesis", "eventID": record.sequenceNumber}


if __name__ == "__main__":
    region = os.environ["AWS_REGION"]
    options = {
        "streamName": os.environ["STREAM_NAME"],
        "endpointUrl": os.environ.get("KINESIS_ENDPOINT", f"https://kinesis.{region}.amazonaws.com"),
        "startingPosition": "TRIM_HORIZON",
    }
    session = SparkSession.builder.appName("spillway").getOrCreate()
    start(session, DuckDbStore(os.environ["DUCKDB_FILE"]), options, os.environ["CHECKPOINT"]).awaitTermination()
