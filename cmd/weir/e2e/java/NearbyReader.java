import java.time.Duration;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Reads N records of partition 0 from where it is told to be. Prints "read N". Arguments: bootstrap topic rack count. */
public final class NearbyReader {
    public static void main(String[] args) {
        int count = Integer.parseInt(args[3]), seen = 0;
        Properties c = new Properties();
        c.put("bootstrap.servers", args[0]);
        c.put("client.rack", args[2]);
        c.put("max.partition.fetch.bytes", 4096); // many fetches
        try (var consumer = new KafkaConsumer<>(c, new StringDeserializer(), new StringDeserializer())) {
            var partition = new TopicPartition(args[1], 0);
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            for (long end = System.nanoTime() + Duration.ofSeconds(40).toNanos(); seen < count && System.nanoTime() < end; ) {
                seen += consumer.poll(Duration.ofMillis(500)).count();
            }
        }
        System.out.println("read " + seen);
    }
}
