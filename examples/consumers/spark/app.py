"""Spark structured streaming that keeps the tables in DuckDB, by the rules of ../lambda_duckdb."""

import base64
import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession

sys.path.append(str(Path(__file__).resolve().parents[1] / "lambda_duckdb"))

import changes  # noqa: E402
import consumer  # noqa: E402
from store import DuckDbStore  # noqa: E402

REFUSED = """
create table if not exists refused (
    sequence_number varchar, sub_sequence_number bigint, partition_key varchar, data blob,
    primary key (sequence_number, sub_sequence_number))
"""


def start(session, store, options, checkpoint, after_batch=lambda records: None):
    """Start the query. `options` are those of the source, `checkpoint` is the folder of Spark's offsets."""
    create_refused(store)

    def each(batch, number):
        records = batch.select("partitionKey", "sequenceNumber", "data").collect()
        apply(store, records)
        after_batch(records)

    source = session.readStream.format("kinesis").options(**options).load()
    return source.writeStream.foreachBatch(each).option("checkpointLocation", checkpoint).start()


def create_refused(store):
    """Create the table of refused events, or upgrade that of a former version."""
    store.execute(REFUSED)
    columns = [column[0] for column in store.execute("select * from refused limit 0").description]
    if "sub_sequence_number" in columns:
        return
    # The former key has one row for each record, and would drop the other events of an aggregate.
    with store.transaction():
        store.execute("alter table refused rename to refused_records")
        store.execute(REFUSED)
        store.execute("insert into refused select sequence_number, 0, partition_key, data from refused_records")
        store.execute("drop table refused_records")


def apply(store, records):
    """Apply the records of a micro-batch in one transaction. Spark repeats a batch that failed."""
    found, refused = [], []
    for record in records:
        of_record, refused_events = changes.of_record(lambda_record(record))
        found += of_record
        refused += [(record.sequenceNumber, one.number, one.partition_key, one.data) for one in refused_events]
    # A micro-batch has records of many shards, in any order.
    found.sort(key=lambda change: (change.id.source, change.position))
    consumer.apply(store, found)
    for values in refused:
        store.execute("insert into refused values (?, ?, ?, ?) on conflict do nothing", values)


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
