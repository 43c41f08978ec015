"""The records of a stream as every program of this folder takes them: one JSON object a line on standard input, with
`shard`, the first and the last hash key of its range in `start` and `end`, `partition_key`, and `data` in base64.
"""

import base64
import json
import sys


def read():
    """Each record, its `data` as bytes and the ends of the range as numbers."""
    for line in sys.stdin:
        record = json.loads(line)
        record["data"] = base64.b64decode(record["data"])
        record["start"], record["end"] = int(record["start"]), int(record["end"])
        yield record
