"""Reader of a stream's records on standard input, one JSON object a line.

`shard` is the shard's name, `start` and `end` are the bounds of its hash keys, `data` is in base64.
"""

import base64
import json
import sys


def read():
    """Yield each record, with `data` as bytes and the bounds as numbers."""
    for line in sys.stdin:
        record = json.loads(line)
        record["data"] = base64.b64decode(record["data"])
        record["start"], record["end"] = int(record["start"]), int(record["end"])
        yield record
