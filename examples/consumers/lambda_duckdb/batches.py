"""Batches of an event source mapping, with partial batch responses."""

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response

import changes
import consumer


class Batch:
    """The changes in the records before the first one that fails.

    Later records must wait for it, because they may be about the same keys.
    """

    def __init__(self):
        self.changes = []
        self.failed = False

    def add(self, record):
        """Add a record. Powertools reports it as failed if this raises an error."""
        if self.failed:
            raise RuntimeError("an earlier record of the batch failed")
        self.failed = True
        # A whole record or nothing of it: an aggregate has many events.
        self.changes += changes.of_record(record.raw_event)
        self.failed = False


def handle(store, event, context):
    """Apply a batch of records of one shard; returns the response.

    Lambda sends the records again from the first failed one on. An error of the store fails the whole batch.
    """
    batch = Batch()
    processor = BatchProcessor(event_type=EventType.KinesisDataStreams, raise_on_entire_batch_failure=False)
    response = process_partial_response(event, batch.add, processor, context)
    consumer.apply(store, batch.changes)
    return response
