import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Produces N keyed records with the client's defaults (idempotence, acks=all) and reads them back in a consumer group.
 * Prints "partition KEY P" for each key it produced, then "consumed N". Arguments: bootstrap topic count compression assignor.
 */
public final class RoundTrip {
    public static void main(String[] args) throws Exception {
        String bootstrap = args[0], topic = args[1];
        int count = Integer.parseInt(args[2]);

        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("compression.type", args[3]);
        Map<String, Integer> partitions = new HashMap<>();
        try (var producer = new KafkaProducer<>(p, new StringSerializer(), new StringSerializer())) {
            for (int i = 0; i < count; i++) {
                String key = "device-" + i % 10;
                producer.send(new ProducerRecord<>(topic, key, "reading-" + i), (meta, error) -> {
                    if (error != null) {
                        error.printStackTrace();
                        System.exit(1);
                    }
                    synchronized (partitions) {
                        partitions.put(key, meta.partition());
                    }
                });
            }
            producer.flush();
        }
        partitions.forEach((key, partition) -> System.out.println("partition " + key + " " + partition));

        Properties c = new Properties();
        c.put("bootstrap.servers", bootstrap);
        c.put("group.id", "java-" + topic);
        c.put("auto.offset.reset", "earliest");
        c.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer." + args[4]);
        int seen = 0;
        try (var consumer = new KafkaConsumer<>(c, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            for (long end = System.nanoTime() + Duration.ofSeconds(40).toNanos(); seen < count && System.nanoTime() < end; ) {
                for (var record : consumer.poll(Duration.ofMillis(500))) {
                    if (!record.value().startsWith("reading-")) {
                        throw new IllegalStateException("unexpected value " + record.value());
                    }
                    seen++;
                }
            }
            consumer.commitSync();
        }
        System.out.println("consumed " + seen);
    }
}
