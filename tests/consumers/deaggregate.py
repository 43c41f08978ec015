"""Print the sub-records that Amazon's `aws-kinesis-agg` finds in the records, one JSON object a line.

A record that is not an aggregate is its own only sub-record. Fails if the hash key of a sub-record is outside of its
shard's range, because the KCL drops such a sub-record. Fails if `aws-kinesis-agg` cannot read an aggregate.
"""

import base64
import contextlib
import hashlib
import io
import json
import sys

import aws_kinesis_agg
from aws_kinesis_agg import deaggregator

import records

for record in records.read():
    # The form in which a Lambda function receives a record.
    kinesis = {
        "kinesisSchemaVersion": "1.0",
        "sequenceNumber": "",
        "approximateArrivalTimestamp": 0,
        "partitionKey": record["partition_key"],
        "data": base64.b64encode(record["data"]),
    }
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        found = deaggregator.deaggregate_records([{"kinesis": kinesis}])
    # It prints a message and drops the rest of a broken aggregate, or it returns the whole as a plain record.
    aggregated = record["data"].startswith(aws_kinesis_agg.MAGIC)
    if stderr.getvalue() or any(it["kinesis"].get("aggregated", False) != aggregated for it in found):
        sys.exit(f"{record['shard']} has a broken aggregate, {record['partition_key']}: {stderr.getvalue()}")
    for it in (it["kinesis"] for it in found):
        key, explicit = it["partitionKey"], it.get("explicitHashKey")
        by_key = int.from_bytes(hashlib.md5(key.encode()).digest(), "big")
        hash_key = int(explicit) if explicit is not None else by_key
        # Kinesis chose the shard of a plain record, and does not return its explicit hash key.
        if aggregated and not record["start"] <= hash_key <= record["end"]:
            sys.exit(f"{key} has the hash key {hash_key}, which does not belong to {record['shard']}")
        sub_record = {"shard": record["shard"], "partition_key": key, "aggregated": aggregated}
        print(json.dumps(sub_record | {"data": it["data"].decode()}))
