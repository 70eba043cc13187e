import java.util.ArrayList;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.errors.InvalidTxnStateException;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Commits transactions of ten records of 100 B one after the other, with so many producers at once. They begin together once each has committed its first; those of the
 * seconds after a warm-up of a third of that are counted. Prints how many those were in how many milliseconds, and how many there were in all. Arguments: bootstrap topic
 * producers seconds.
 *
 * The client (4.4) asks at times for the end of a transaction before it has sent any of it: Sender looks whether batches wait, and takes the next request under a lock, where
 * commitTransaction may have come in between. Apache Kafka refuses that, and the producer is of no use any more; another takes its place, and how many did is printed too.
 */
public final class Commits {
    static final byte[] VALUE = new byte[100];
    static long warmUp, counted; // ns
    static CyclicBarrier ready;
    static final AtomicInteger anew = new AtomicInteger();

    public static void main(String[] args) throws Exception {
        int producers = Integer.parseInt(args[2]);
        counted = (long) (Double.parseDouble(args[3]) * 1e9);
        warmUp = counted / 3;
        ready = new CyclicBarrier(producers);
        var pool = Executors.newFixedThreadPool(producers);
        var running = new ArrayList<Future<long[]>>();
        for (int i = 0; i < producers; i++) {
            String id = args[1] + "-" + i;
            running.add(pool.submit((Callable<long[]>) () -> commit(args[0], args[1], id)));
        }
        long commits = 0, all = 0;
        for (var one : running) {
            commits += one.get()[0];
            all += one.get()[1];
        }
        pool.shutdown();
        System.out.println(commits + " commits in " + counted / 1_000_000 + " ms, " + all + " in all");
    }

    static long[] commit(String bootstrap, String topic, String id) throws Exception {
        var p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("transactional.id", id);
        long commits = 0, all = 1, begin = 0, end = Long.MAX_VALUE;
        for (long now = 0; now < end;) {
            try (var producer = new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer())) {
                producer.initTransactions();
                if (begin == 0) {
                    transaction(producer, topic);
                    ready.await();
                    begin = System.nanoTime() + warmUp;
                    end = begin + counted;
                }
                for (now = System.nanoTime(); now < end;) {
                    transaction(producer, topic);
                    all++;
                    now = System.nanoTime();
                    if (now >= begin && now < end) {
                        commits++;
                    }
                }
            } catch (InvalidTxnStateException e) {
                anew.incrementAndGet();
            }
        }
        return new long[] {commits, all};
    }

    static void transaction(KafkaProducer<byte[], byte[]> producer, String topic) {
        producer.beginTransaction();
        for (int i = 0; i < 10; i++) {
            producer.send(new ProducerRecord<>(topic, VALUE));
        }
        producer.commitTransaction(); // sends what waits, whatever linger.ms says
    }
}
