"""Batches of an event source mapping, with partial batch responses."""

import logging

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response

import changes
import consumer

LOG = logging.getLogger(__name__)


class Batch:
    """The changes in the records up to the first one that fails, and the events that are refused.

    A refused event fails no record: it would fail in each attempt. A record fails after an unexpected error. Later
    records must wait for it, because they may be about the same keys.
    """

    def __init__(self):
        self.changes, self.refused = [], []
        self.failed = False

    def add(self, record):
        """Add a record. Powertools reports it as failed if this raises an error."""
        if self.failed:
            raise RuntimeError("an earlier record of the batch failed")
        self.failed = True
        found, refused = changes.of_record(record.raw_event)
        # The other events of an aggregate may be those of other tables.
        self.changes += found
        self.refused += refused
        if refused:
            errors = "; ".join(sorted({repr(one.error) for one in refused}))
            LOG.error("record %s: %d events refused: %s", record.kinesis.sequence_number, len(refused), errors)
        self.failed = False


def handle(store, event, context):
    """Apply a batch of records of one shard; returns the response.

    Lambda sends the records again from the first failed one on. An error of the store fails the whole batch. So no
    record is given up, as long as the mapping sets no limit for attempts.
    """
    batch = Batch()
    processor = BatchProcessor(event_type=EventType.KinesisDataStreams, raise_on_entire_batch_failure=False)
    response = process_partial_response(event, batch.add, processor, context)
    consumer.apply(store, batch.changes)
    if batch.refused:
        store.refuse(batch.refused)
    return response
