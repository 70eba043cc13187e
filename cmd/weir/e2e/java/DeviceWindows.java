import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Comparator;
import java.util.Optional;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.sink.TransactionNamingStrategy;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/**
 * Flink, a cluster in one process: counts readings of each device by windows of five seconds and writes each count once, in transactions that commit with Flink's checkpoints.
 * Started again it goes on from the newest checkpoint. Arguments: bootstrap, topic, where the counts go, checkpoint directory, INCREMENTING or POOLING.
 */
public final class DeviceWindows {
    public static void main(String[] args) throws Exception {
        Configuration conf = new Configuration();
        conf.setString("execution.checkpointing.interval", "1s");
        conf.setString("execution.checkpointing.mode", "EXACTLY_ONCE");
        conf.setString("execution.checkpointing.dir", "file://" + args[3]);
        conf.setString("execution.checkpointing.externalized-checkpoint-retention", "RETAIN_ON_CANCELLATION");
        conf.setString("restart-strategy.type", "fixed-delay");
        conf.setString("restart-strategy.fixed-delay.attempts", "100");
        conf.setString("restart-strategy.fixed-delay.delay", "1s");
        Optional<Path> newest = newestCheckpoint(Path.of(args[3]));
        newest.ifPresent(p -> conf.setString("execution.state-recovery.path", "file://" + p));
        System.out.println("begins " + newest.map(p -> "at " + p.getFileName()).orElse("anew"));

        StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment(conf);
        env.setParallelism(2);
        KafkaSource<String> source = KafkaSource.<String>builder()
            .setBootstrapServers(args[0])
            .setTopics(args[1])
            .setGroupId("device-windows")
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setProperty("isolation.level", "read_committed")
            .setDeserializer(new DeviceOf())
            .build();
        KafkaSink<String[]> sink = KafkaSink.<String[]>builder()
            .setBootstrapServers(args[0])
            .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
            .setTransactionalIdPrefix("device-windows")
            .setTransactionNamingStrategy(TransactionNamingStrategy.valueOf(args[4]))
            .setProperty("transaction.timeout.ms", "300000")
            .setRecordSerializer(KafkaRecordSerializationSchema.<String[]>builder()
                .setTopic(args[2])
                .setKeySerializationSchema(new Element(0))
                .setValueSerializationSchema(new Element(1))
                .build())
            .build();
        env.fromSource(source, WatermarkStrategy.forBoundedOutOfOrderness(Duration.ofSeconds(3)), "readings")
            .keyBy(device -> device)
            .window(TumblingEventTimeWindows.of(Duration.ofSeconds(5)))
            .process(new Count())
            .sinkTo(sink);
        env.execute("device-windows");
    }

    /** The newest checkpoint of all jobs that has been completed. */
    private static Optional<Path> newestCheckpoint(Path dir) throws IOException {
        try (var files = Files.walk(dir)) {
            return files.filter(p -> p.endsWith("_metadata")).max(Comparator.comparing(p -> p.toFile().lastModified())).map(Path::getParent);
        }
    }

    private static final class DeviceOf implements KafkaRecordDeserializationSchema<String> {
        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<String> out) {
            out.collect(new String(record.key(), StandardCharsets.UTF_8));
        }

        @Override
        public TypeInformation<String> getProducedType() {
            return Types.STRING;
        }
    }

    private static final class Count extends ProcessWindowFunction<String, String[], String, TimeWindow> {
        @Override
        public void process(String device, Context context, Iterable<String> readings, Collector<String[]> out) {
            int n = 0;
            for (String ignored : readings) n++;
            out.collect(new String[] {device + "@" + context.window().getStart() / 1000, Integer.toString(n)});
        }
    }

    private static final class Element implements SerializationSchema<String[]> {
        private final int of;

        Element(int of) {
            this.of = of;
        }

        @Override
        public byte[] serialize(String[] count) {
            return count[of].getBytes(StandardCharsets.UTF_8);
        }
    }
}
