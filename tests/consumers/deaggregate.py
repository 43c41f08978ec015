"""The sub-records that Amazon's `aws-kinesis-agg` finds in the records, one JSON object a line; a record that is no
aggregate is its own only sub-record. Fails when the hash of one lies outside of the range of its shard, where a KCL
would drop it, and where `aws-kinesis-agg` gives up without a failure of its own.
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
    # As a Lambda function is given it.
    kinesis = {
        "kinesisSchemaVersion": "1.0",
        "sequenceNumber": "",
        "approximateArrivalTimestamp": 0,
        "partitionKey": record["partition_key"],
        "data": base64.b64encode(record["data"]),
    }
    with contextlib.redirect_stderr(io.StringIO()) as complaint:
        found = deaggregator.deaggregate_records([{"kinesis": kinesis}])
    # Of a broken aggregate it prints a word and drops the rest, or passes the whole on as if it were none.
    aggregated = record["data"].startswith(aws_kinesis_agg.MAGIC)
    if complaint.getvalue() or any(it["kinesis"].get("aggregated", False) != aggregated for it in found):
        sys.exit(f"{record['shard']} has a broken aggregate under {record['partition_key']}: {complaint.getvalue()}")
    for it in (it["kinesis"] for it in found):
        key, explicit = it["partitionKey"], it.get("explicitHashKey")
        by_key = int.from_bytes(hashlib.md5(key.encode()).digest(), "big")
        hash_key = int(explicit) if explicit is not None else by_key
        # The hash key of a record that is no aggregate was checked by Kinesis, which does not tell it.
        if aggregated and not record["start"] <= hash_key <= record["end"]:
            sys.exit(f"{key} has the hash {hash_key}, which is not {record['shard']}'s")
        sub_record = {"shard": record["shard"], "partition_key": key, "aggregated": aggregated}
        print(json.dumps(sub_record | {"data": it["data"].decode()}))
