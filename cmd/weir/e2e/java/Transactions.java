import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeSet;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Exactly once as an application does it: writes N numbers to topic "in" in transactions of ten, of which every third is aborted first and written again; copies them to
 * "out" with the offsets in the same transactions; reads "out" as committed. Prints "copied N exactly once". Then it checks that a
 * producer which has been replaced is fenced. Arguments: bootstrap in out count.
 */
public final class Transactions {
    static Properties base(String bootstrap) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        return p;
    }

    static KafkaProducer<String, String> producer(String bootstrap, String id) {
        Properties p = base(bootstrap);
        p.put("transactional.id", id);
        p.put("delivery.timeout.ms", "60000");
        p.put("request.timeout.ms", "10000");
        var producer = new KafkaProducer<>(p, new StringSerializer(), new StringSerializer());
        producer.initTransactions();
        return producer;
    }

    static KafkaConsumer<String, String> consumer(String bootstrap, String group, String topic) {
        Properties p = base(bootstrap);
        p.put("group.id", group);
        p.put("auto.offset.reset", "earliest");
        p.put("enable.auto.commit", "false");
        p.put("isolation.level", "read_committed");
        var consumer = new KafkaConsumer<>(p, new StringDeserializer(), new StringDeserializer());
        consumer.subscribe(List.of(topic));
        return consumer;
    }

    public static void main(String[] args) throws Exception {
        String bootstrap = args[0], in = args[1], out = args[2];
        int count = Integer.parseInt(args[3]);
        long deadline = System.nanoTime() + Duration.ofSeconds(120).toNanos();

        try (var producer = producer(bootstrap, "writer-" + in)) {
            for (int from = 0, round = 0; from < count; round++) {
                boolean abort = round % 3 == 1;
                producer.beginTransaction();
                for (int i = from; i < Math.min(from + 10, count); i++) {
                    producer.send(new ProducerRecord<>(in, "k" + i % 7, (abort ? "void-" : "") + i));
                }
                if (abort) {
                    producer.flush();
                    producer.abortTransaction();
                    continue;
                }
                producer.commitTransaction();
                from += 10;
            }
        }

        int copied = 0, transactions = 0;
        try (var consumer = consumer(bootstrap, "copy-" + in, in); var producer = producer(bootstrap, "copier-" + in)) {
            while (copied < count && System.nanoTime() < deadline) {
                var records = consumer.poll(Duration.ofMillis(500));
                if (records.isEmpty()) {
                    continue;
                }
                Map<TopicPartition, OffsetAndMetadata> next = new HashMap<>();
                producer.beginTransaction();
                for (ConsumerRecord<String, String> r : records) {
                    producer.send(new ProducerRecord<>(out, r.key(), r.value()));
                    next.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
                }
                producer.sendOffsetsToTransaction(next, consumer.groupMetadata());
                if (transactions++ == 0) { // as if it had gone wrong: what was read comes again
                    producer.abortTransaction();
                    for (TopicPartition at : consumer.assignment()) {
                        var committed = consumer.committed(java.util.Set.of(at)).get(at);
                        if (committed == null) {
                            consumer.seekToBeginning(List.of(at));
                        } else {
                            consumer.seek(at, committed.offset());
                        }
                    }
                    continue;
                }
                producer.commitTransaction();
                copied += records.count();
            }
        }

        TreeSet<Integer> seen = new TreeSet<>();
        int read = 0;
        try (var consumer = consumer(bootstrap, "check-" + out, out)) {
            while (read < count && System.nanoTime() < deadline) {
                for (var r : consumer.poll(Duration.ofMillis(500))) {
                    read++;
                    if (r.value().startsWith("void-") || !seen.add(Integer.parseInt(r.value()))) {
                        throw new IllegalStateException("twice, or aborted: " + r.value());
                    }
                }
            }
        }
        if (copied != count || seen.size() != count) {
            throw new IllegalStateException("copied " + copied + ", read " + seen.size() + " of " + count);
        }
        System.out.println("copied " + count + " exactly once");

        var old = producer(bootstrap, "zombie-" + in);
        old.beginTransaction();
        old.send(new ProducerRecord<>(out, "z", "z")).get();
        producer(bootstrap, "zombie-" + in).close();
        try {
            old.send(new ProducerRecord<>(out, "z", "z")).get();
            old.commitTransaction();
            throw new IllegalStateException("the old producer committed");
        } catch (java.util.concurrent.ExecutionException | KafkaException e) {
            Throwable cause = e instanceof java.util.concurrent.ExecutionException ? e.getCause() : e;
            System.out.println("the old producer is fenced: " + cause.getClass().getSimpleName());
        }
        System.exit(0);
    }
}
