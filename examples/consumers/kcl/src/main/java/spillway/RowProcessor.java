package spillway;

import java.io.IOException;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import software.amazon.kinesis.exceptions.InvalidStateException;
import software.amazon.kinesis.exceptions.KinesisClientLibDependencyException;
import software.amazon.kinesis.exceptions.ShutdownException;
import software.amazon.kinesis.exceptions.ThrottlingException;
import software.amazon.kinesis.lifecycle.events.InitializationInput;
import software.amazon.kinesis.lifecycle.events.LeaseLostInput;
import software.amazon.kinesis.lifecycle.events.ProcessRecordsInput;
import software.amazon.kinesis.lifecycle.events.ShardEndedInput;
import software.amazon.kinesis.lifecycle.events.ShutdownRequestedInput;
import software.amazon.kinesis.processor.RecordProcessorCheckpointer;
import software.amazon.kinesis.processor.ShardRecordProcessor;
import software.amazon.kinesis.retrieval.KinesisClientRecord;

/**
 * The processor of one shard.
 *
 * <p>KCL has separated aggregates when it calls this. It creates the processors of a shard's children after the
 * checkpoint of {@link #shardEnded}.
 */
final class RowProcessor implements ShardRecordProcessor {
    private static final Logger LOG = LoggerFactory.getLogger(RowProcessor.class);
    private static final int MAX_ATTEMPTS = 6;

    private final String url;
    private String shard;

    RowProcessor(String url) {
        this.url = url;
    }

    @Override
    public void initialize(InitializationInput input) {
        shard = input.shardId();
    }

    @Override
    public void processRecords(ProcessRecordsInput input) {
        List<KinesisClientRecord> records = input.records();
        if (records.isEmpty()) {
            return;
        }
        // If this method threw an exception, KCL would log it, and continue after these records.
        for (int attempt = 1; !tryStore(records, attempt); attempt++) {
            if (attempt == MAX_ATTEMPTS) {
                LOG.error("{}: the database accepts no rows, so this process ends without a checkpoint", shard);
                // halt, not exit: the shutdown hook would wait for this processor.
                Runtime.getRuntime().halt(1);
            }
            pause(attempt);
        }
        String last = records.get(records.size() - 1).sequenceNumber();
        LOG.info("{}: stored {} events through {}", shard, records.size(), last);
        checkpoint(input.checkpointer());
    }

    @Override
    public void leaseLost(LeaseLostInput input) {
        // Another worker reads the shard from the last checkpoint on.
    }

    @Override
    public void shardEnded(ShardEndedInput input) {
        checkpoint(input.checkpointer());
        LOG.info("{}: ended", shard);
    }

    @Override
    public void shutdownRequested(ShutdownRequestedInput input) {
        checkpoint(input.checkpointer());
    }

    private boolean tryStore(List<KinesisClientRecord> records, int attempt) {
        try (Store store = Store.begin(url)) {
            List<Change> changes = new ArrayList<>();
            for (KinesisClientRecord record : records) {
                byte[] data = new byte[record.data().remaining()];
                record.data().duplicate().get(data);
                try {
                    changes.addAll(Change.of(record.partitionKey(), data));
                } catch (IOException | IllegalArgumentException error) {
                    LOG.error("{}: record {} cannot be applied: see the table refused", shard, record.sequenceNumber());
                    store.refuse(shard, record.sequenceNumber(), record.subSequenceNumber(), record.partitionKey(),
                            data, error.getMessage());
                }
            }
            Rules.apply(store, changes);
            store.commit();
            return true;
        } catch (SQLException error) {
            LOG.warn("{}: attempt {} to store {} events failed", shard, attempt, records.size(), error);
            return false;
        } catch (RuntimeException error) {
            LOG.error("{}: internal error with {} events; the process ends, so that KCL does not skip them",
                    shard, records.size(), error);
            Runtime.getRuntime().halt(1);
            return false;
        }
    }

    /** Stores that all records so far are applied. A lost checkpoint costs duplicates, which are harmless. */
    private void checkpoint(RecordProcessorCheckpointer checkpointer) {
        for (int attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
            try {
                checkpointer.checkpoint();
                return;
            } catch (ShutdownException error) {
                LOG.info("{}: another worker has the lease", shard);
                return;
            } catch (ThrottlingException | KinesisClientLibDependencyException error) {
                LOG.warn("{}: attempt {} to checkpoint failed", shard, attempt, error);
                pause(attempt);
            } catch (InvalidStateException error) {
                throw new IllegalStateException(
                        "the lease table of " + shard + " does not accept a checkpoint", error);
            }
        }
    }

    private static void pause(int attempt) {
        try {
            Thread.sleep(500L << attempt);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
    }
}
