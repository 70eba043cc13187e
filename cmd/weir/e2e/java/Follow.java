import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Writes each line of standard input to partition 0 and reads it back, with one producer and one consumer. Arguments: bootstrap topic. */
public final class Follow {
    public static void main(String[] args) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        var partition = new TopicPartition(args[1], 0);
        try (var producer = new KafkaProducer<>(p, new StringSerializer(), new StringSerializer());
                var consumer = new KafkaConsumer<>(p, new StringDeserializer(), new StringDeserializer())) {
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            var in = new BufferedReader(new InputStreamReader(System.in));
            for (String line; (line = in.readLine()) != null; ) {
                producer.send(new ProducerRecord<>(args[1], 0, null, line)).get();
                boolean seen = false;
                for (long end = System.nanoTime() + Duration.ofSeconds(40).toNanos(); !seen && System.nanoTime() < end; ) {
                    for (var record : consumer.poll(Duration.ofMillis(500))) {
                        seen |= record.value().equals(line);
                    }
                }
                if (seen) {
                    System.out.println("read " + line);
                }
            }
        }
    }
}
