"""An event source mapping of Lambda, for the handler of an example in examples/consumers.

Standard input has a JSON object a line: a record (`shard`, `parents`, `partition_key`, `data` in base64) or
`{"flush": true}`. The records of a shard are in order. A flush processes all records read so far, and prints a line
with the figures so far. The end of the input does the same, and prints each stored row.

As Lambda does, this calls the handler with batches of one shard, a shard after its parents, and different shards at
random, some of which lag far behind. It repeats a batch from the first failed record on, and gives up no record, as
with `MaximumRetryAttempts: -1`. It also fails some records once, and loses some answers. At the end it sends some old
records again.
"""

import argparse
import base64
import collections
import contextlib
import importlib
import json
import os
import pathlib
import random
import sys

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples" / "consumers"
STREAM = "arn:aws:kinesis:eu-central-1:111122223333:stream/s"
# Calls with the same first record, after which the test fails: more than a record that fails once needs.
MAX_ATTEMPTS = 10


class Shard:
    """A shard's records that are not processed yet."""

    def __init__(self, name, parents, weight):
        self.name, self.parents = name, parents
        # How fast it is read, compared with other shards.
        self.weight = weight
        self.records = collections.deque()
        # Calls of the handler with the same first record.
        self.attempts = 0


class Mapping:
    """The event source mapping, and its figures."""

    def __init__(self, handler, settings):
        self.handler, self.settings = handler, settings
        self.random = random.Random(settings.seed)
        self.shards = {}
        self.number = 0
        # Records that succeeded, and are sent again at the end.
        self.late = []
        self.figures = dict.fromkeys(["records", "batches", "partial", "sent_again", "late"], 0)

    def add(self, line):
        """Add a record to its shard."""
        if self.settings.lose and self.random.random() < self.settings.lose:
            return
        weight = self.random.choice([0.01, 1, 100])
        shard = self.shards.setdefault(line["shard"], Shard(line["shard"], line["parents"], weight))
        self.number += 1
        kinesis = {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": line["partition_key"],
            "sequenceNumber": f"{self.number:056d}",
            "data": line["data"],
            "approximateArrivalTimestamp": 1795443751.5,
        }
        event = {
            "kinesis": kinesis,
            "eventSource": "aws:kinesis",
            "eventVersion": "1.0",
            "eventID": f"{shard.name}:{kinesis['sequenceNumber']}",
            "eventName": "aws:kinesis:record",
            "invokeIdentityArn": "arn:aws:iam::111122223333:role/consumer",
            "awsRegion": "eu-central-1",
            "eventSourceARN": STREAM,
        }
        shard.records.append(event)
        self.figures["records"] += 1

    def flush(self):
        """Process all records."""
        while ready := [shard for shard in self.shards.values() if shard.records and not self.waits(shard)]:
            self.call(*self.random.choices(ready, [shard.weight for shard in ready]))

    def waits(self, shard):
        return any(name in self.shards and self.shards[name].records for name in shard.parents)

    def call(self, shard):
        """Call the handler with the next batch of a shard."""
        size = min(len(shard.records), self.random.randint(1, self.settings.batch))
        batch = [shard.records[at] for at in range(size)]
        failed = self.failed_of(batch)
        first = next((at for at, event in enumerate(batch) if event["kinesis"]["sequenceNumber"] in failed), size)
        self.figures["batches"] += 1
        if not self.figures["sent_again"] or self.random.random() < self.settings.again:
            # The answer is lost, as when the function's time is over. So the whole batch is sent again.
            self.figures["sent_again"] += 1
            return
        self.figures["partial"] += 0 < first < size
        done = [shard.records.popleft() for _ in range(first)]
        self.late += [event for event in done if self.random.random() < self.settings.late]
        shard.attempts = shard.attempts + 1 if first == 0 else int(first < size)
        if shard.attempts >= MAX_ATTEMPTS:
            sys.exit(f"record {batch[0]['kinesis']['sequenceNumber']} fails in each attempt")

    def send_late(self):
        """Send old records again, in any order."""
        self.random.shuffle(self.late)
        for event in self.late:
            self.failed_of([event])
        self.figures["late"] = len(self.late)

    def failed_of(self, batch):
        answer = self.handler({"Records": batch}, None)
        return {item["itemIdentifier"] for item in answer["batchItemFailures"]}


def fail_once(decode, settings):
    """The function `decode` that fails once for some records, as after an error of another service."""
    seen = set()
    at_random = random.Random(settings.seed)

    def flaky(record):
        number = record["kinesis"]["sequenceNumber"]
        if number not in seen:
            seen.add(number)
            if at_random.random() < settings.fails:
                raise ConnectionError("this record fails once")
        return decode(record)

    return flaky


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("example")
    arguments.add_argument("--store", help="instead of the example's: merge, in the PostgreSQL of libpq's variables")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--batch", type=int, default=20, help="largest batch")
    arguments.add_argument("--fails", type=float, default=0.05, help="part of the records that fail once")
    arguments.add_argument("--late", type=float, default=0.2, help="part of the records that are sent again at the end")
    arguments.add_argument("--again", type=float, default=0.2, help="part of the answers that are lost")
    arguments.add_argument("--lose", type=float, default=0, help="part of the records that never arrive: a fault")
    settings = arguments.parse_args()
    sys.path.insert(0, str(EXAMPLES / settings.example))
    # Standard output has our lines only.
    with contextlib.redirect_stdout(sys.stderr):
        app = importlib.import_module("app")
        if settings.store == "merge":
            app.store = merge_store()
    changes = sys.modules["changes"]
    changes.of_record = fail_once(changes.of_record, settings)
    mapping = Mapping(app.lambda_handler, settings)
    for line in map(json.loads, sys.stdin):
        if "flush" not in line:
            mapping.add(line)
            continue
        mapping.flush()
        print_figures(mapping, app.store)
    mapping.flush()
    mapping.send_late()
    print_figures(mapping, app.store)
    rows = app.store.existing()
    if len({tuple(values[:4]) for values in rows}) < len(rows):
        sys.exit("the store has a row twice")
    for source, schema, table, key, data in rows:
        # Not parsed: numbers keep all their digits.
        print(f'{{"id":{json.dumps([source, schema, table, key])},"row":{data}}}')


def print_figures(mapping, store):
    """Print the figures. An event is given up if the handler refused it."""
    print(json.dumps(mapping.figures | {"given_up": len(store.refused())}), flush=True)


def merge_store():
    """The example's store for a warehouse, which is PostgreSQL here."""
    import pg8000.dbapi

    from store import MergeStore

    connection = pg8000.dbapi.connect(
        host=os.environ["PGHOST"],
        port=int(os.environ["PGPORT"]),
        user=os.environ["PGUSER"],
        password=os.environ["PGPASSWORD"],
        database=os.environ["PGDATABASE"],
    )
    connection.autocommit = True
    return MergeStore(connection, "%s", lock="lock table rows in share row exclusive mode")


if __name__ == "__main__":
    main()
