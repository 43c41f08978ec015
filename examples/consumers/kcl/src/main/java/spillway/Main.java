package spillway;

import java.net.InetAddress;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import software.amazon.awssdk.http.Protocol;
import software.amazon.awssdk.http.nio.netty.NettyNioAsyncHttpClient;
import software.amazon.awssdk.services.cloudwatch.CloudWatchAsyncClient;
import software.amazon.awssdk.services.dynamodb.DynamoDbAsyncClient;
import software.amazon.awssdk.services.kinesis.KinesisAsyncClient;
import software.amazon.kinesis.common.ConfigsBuilder;
import software.amazon.kinesis.common.InitialPositionInStream;
import software.amazon.kinesis.common.InitialPositionInStreamExtended;
import software.amazon.kinesis.coordinator.Scheduler;
import software.amazon.kinesis.metrics.NullMetricsFactory;
import software.amazon.kinesis.processor.SingleStreamTracker;
import software.amazon.kinesis.retrieval.polling.PollingConfig;

/** Reads the stream until it is stopped by SIGTERM. The README describes the variables. */
final class Main {
    private Main() {}

    public static void main(String[] arguments) throws Exception {
        String url = variable("JDBC_URL", null);
        Store.create(url);
        Scheduler scheduler = scheduler(url);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(scheduler)));
        scheduler.run();
    }

    private static Scheduler scheduler(String url) throws Exception {
        // KCL's own client uses HTTP/2, which only enhanced fan-out needs.
        KinesisAsyncClient kinesis = KinesisAsyncClient.builder()
                .httpClientBuilder(NettyNioAsyncHttpClient.builder().protocol(Protocol.HTTP1_1))
                .build();
        InitialPositionInStreamExtended oldest =
                InitialPositionInStreamExtended.newInitialPosition(InitialPositionInStream.TRIM_HORIZON);
        String stream = variable("STREAM_NAME", null);
        String worker = InetAddress.getLocalHost().getHostName() + ":" + UUID.randomUUID();
        ConfigsBuilder configs = new ConfigsBuilder(new SingleStreamTracker(stream, oldest),
                variable("APPLICATION_NAME", "spillway-rows"), kinesis, DynamoDbAsyncClient.create(),
                CloudWatchAsyncClient.create(), variable("WORKER_ID", worker), () -> new RowProcessor(url));
        // The other times keep their ratio to KCL's own.
        long failover = Long.parseLong(variable("FAILOVER_MILLIS", "10000"));
        return new Scheduler(configs.checkpointConfig(),
                configs.coordinatorConfig().parentShardPollIntervalMillis(failover),
                configs.leaseManagementConfig()
                        .failoverTimeMillis(failover)
                        .shardSyncIntervalMillis(6 * failover)
                        .dynamoDbLockBasedLeaderLeaseDurationInMillis(12 * failover)
                        .dynamoDbLockBasedLeaderHeartbeatPeriodInMillis(3 * failover),
                configs.lifecycleConfig(),
                configs.metricsConfig().metricsFactory(new NullMetricsFactory()),
                configs.processorConfig(),
                configs.retrievalConfig().retrievalSpecificConfig(new PollingConfig(stream, kinesis)));
    }

    /** Lets each processor finish its batch and checkpoint. */
    private static void stop(Scheduler scheduler) {
        try {
            scheduler.startGracefulShutdown().get(30, TimeUnit.SECONDS);
        } catch (Exception error) {
            System.err.println("stopped without the last checkpoints: " + error);
        }
    }

    private static String variable(String name, String otherwise) {
        String value = System.getenv().getOrDefault(name, otherwise);
        if (value == null) {
            throw new IllegalArgumentException(name + " is not set: the README describes it");
        }
        return value;
    }
}
