import io.apicurio.registry.serde.avro.AvroKafkaDeserializer;
import io.apicurio.registry.serde.avro.AvroKafkaSerializer;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Writes records through Apicurio's Avro serializer, reads them back, then reads what devices have published by MQTT and weir has framed.
 * Prints "read TOPIC N" for each. Arguments: registry bootstrap topic count deviceTopic deviceCount.
 */
public final class Registry {
    static final Schema SCHEMA = new Schema.Parser().parse("{\"type\": \"record\", \"name\": \"Meter\", \"fields\": [{\"name\": \"seq\", \"type\": \"long\"}]}");

    public static void main(String[] args) throws Exception {
        Map<String, Object> registry = Map.of(
            "apicurio.registry.url", args[0],
            "apicurio.registry.auto-register", "true",
            "apicurio.registry.as-confluent", "true",
            "apicurio.registry.use-id", "contentId",
            "apicurio.registry.headers.enabled", "false");
        int count = Integer.parseInt(args[3]);
        Properties p = new Properties();
        p.putAll(registry);
        p.put("bootstrap.servers", args[1]);
        p.put("key.serializer", StringSerializer.class.getName());
        p.put("value.serializer", AvroKafkaSerializer.class.getName());
        try (var producer = new KafkaProducer<String, GenericRecord>(p)) {
            for (long i = 0; i < count; i++) {
                GenericRecord r = new GenericData.Record(SCHEMA);
                r.put("seq", i);
                producer.send(new ProducerRecord<>(args[2], r)).get();
            }
        }
        read(registry, args[1], args[2], count);
        read(registry, args[1], args[4], Integer.parseInt(args[5]));
    }

    /** Reads records whose seq are 0 to count-1, in any order. */
    static void read(Map<String, Object> registry, String bootstrap, String topic, int count) {
        Properties p = new Properties();
        p.putAll(registry);
        p.put("bootstrap.servers", bootstrap);
        p.put("group.id", "registry-" + topic);
        p.put("auto.offset.reset", "earliest");
        p.put("key.deserializer", StringDeserializer.class.getName());
        p.put("value.deserializer", AvroKafkaDeserializer.class.getName());
        long sum = 0;
        int seen = 0;
        try (var consumer = new KafkaConsumer<String, GenericRecord>(p)) {
            consumer.subscribe(List.of(topic));
            long end = System.nanoTime() + Duration.ofSeconds(60).toNanos();
            while (seen < count && System.nanoTime() < end) {
                for (var r : consumer.poll(Duration.ofMillis(200))) {
                    sum += (Long) r.value().get("seq");
                    seen++;
                }
            }
        }
        if (seen != count || sum != (long) count * (count - 1) / 2) {
            throw new IllegalStateException(topic + ": " + seen + " of " + count + " records, their seq sum up to " + sum);
        }
        System.out.println("read " + topic + " " + seen);
    }
}
