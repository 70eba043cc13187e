import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.serialization.*;

/**
 * Consumers of one group come and go; every record is read, none twice. Arguments: bootstrap, assignor, "static" or "dynamic". With "moves"
 * the members are restarted one after the other with the consumer protocol, and then back with the classic one, while records come. With "restart"
 * it says "flowing" and the broker may be killed and started: the members go on with what they have.
 * Then the Admin client describes the group, reads its offsets, removes static members and deletes it.
 */
public class GroupMembers {
    static final int PARTITIONS = 6, WAIT_SECONDS = 40;
    static final Map<String, Integer> seen = new ConcurrentHashMap<>();
    static String bootstrap, assignor, group;
    static int sent;
    static volatile Throwable failed; // of some consumer

    /** A consumer on its own thread that commits what it polled before it polls again, or at the latest before it gives a partition up. */
    static class Member implements ConsumerRebalanceListener {
        final AtomicInteger owned = new AtomicInteger(), moves = new AtomicInteger();
        final Thread thread;
        volatile boolean stop;
        volatile Throwable error;
        KafkaConsumer<String, String> consumer;

        Member(String instance) { this(instance, assignor); }

        /** The assignor is a class of the client's, for the classic protocol, or a broker's name, for the consumer protocol (KIP-848). */
        Member(String instance, String assignor) {
            Properties p = new Properties();
            p.put("bootstrap.servers", bootstrap);
            p.put("group.id", group);
            p.put("enable.auto.commit", "false");
            p.put("auto.offset.reset", "earliest");
            if (Character.isLowerCase(assignor.charAt(0))) {
                p.put("group.protocol", "consumer");
                p.put("group.remote.assignor", assignor);
            } else {
                p.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer." + assignor);
                p.put("session.timeout.ms", "10000");
                p.put("heartbeat.interval.ms", "200");
            }
            if (instance != null) p.put("group.instance.id", instance);
            thread = new Thread(() -> run(p));
            thread.start();
        }

        void run(Properties p) {
            try (KafkaConsumer<String, String> c = new KafkaConsumer<>(p, new StringDeserializer(), new StringDeserializer())) {
                consumer = c;
                c.subscribe(List.of(group), this);
                while (!stop) {
                    ConsumerRecords<String, String> records = c.poll(Duration.ofMillis(100));
                    for (ConsumerRecord<String, String> r : records) seen.merge(r.partition() + "/" + r.offset(), 1, Integer::sum);
                    if (!records.isEmpty()) commit();
                }
            } catch (Throwable e) {
                failed = error = e;
            }
        }

        void commit() {
            try {
                consumer.commitSync();
            } catch (RebalanceInProgressException e) { // of the classic protocol: goes on with the next poll, which commits before it gives up anything
            }
        }

        @Override public void onPartitionsRevoked(Collection<TopicPartition> ps) { commit(); owned.addAndGet(-ps.size()); moves.incrementAndGet(); }
        @Override public void onPartitionsAssigned(Collection<TopicPartition> ps) { owned.addAndGet(ps.size()); moves.incrementAndGet(); }

        void close() throws Exception {
            stop = true;
            thread.join();
            if (error != null) throw new Exception("consumer", error);
        }
    }

    static void await(String what, BooleanSupplier ok) throws Exception {
        for (long end = System.nanoTime() + WAIT_SECONDS * 1_000_000_000L; !ok.getAsBoolean(); Thread.sleep(20)) {
            if (failed != null) throw new Exception("consumer", failed);
            check(System.nanoTime() < end, "not so after " + WAIT_SECONDS + " s: " + what + "; " + seen.size() + " of " + sent + " records were read");
        }
    }

    static void check(boolean ok, String message) throws Exception {
        if (!ok) throw new Exception(message);
    }

    static void readOnce() throws Exception {
        List<String> again = seen.entrySet().stream().filter(e -> e.getValue() > 1).map(Map.Entry::getKey).toList();
        check(again.isEmpty(), "read more than once: " + again);
    }

    static void produceAndAwait(Producer<String, String> producer) throws Exception {
        List<Future<RecordMetadata>> acks = new ArrayList<>();
        for (int i = 0; i < 60; i++) acks.add(producer.send(new ProducerRecord<>(group, i % PARTITIONS, null, "r" + (sent + i))));
        for (Future<RecordMetadata> ack : acks) ack.get();
        sent += 60;
        await("all is read", () -> seen.size() == sent);
        readOnce();
    }

    public static void main(String[] args) throws Exception {
        try {
            members(args);
        } catch (Throwable e) {
            e.printStackTrace();
            System.exit(1); // whatever consumers still run
        }
    }

    /** Sends a record every 10 ms. */
    static class Flow implements AutoCloseable {
        final Thread thread;
        volatile boolean stop;
        volatile Throwable error;

        Flow(Producer<String, String> producer) {
            thread = new Thread(() -> {
                List<Future<RecordMetadata>> acks = new ArrayList<>();
                try {
                    for (int i = 0; !stop; i++, Thread.sleep(10)) acks.add(producer.send(new ProducerRecord<>(group, i % PARTITIONS, null, "flow")));
                    for (Future<RecordMetadata> ack : acks) ack.get();
                    sent += acks.size();
                } catch (Throwable e) {
                    error = e;
                }
            });
            thread.start();
        }

        /** Stops, and waits until all that was sent is read, each record once. */
        @Override public void close() throws Exception {
            stop = true;
            thread.join();
            if (error != null) throw new Exception("producer", error);
            await("all is read", () -> seen.size() == sent);
            readOnce();
        }
    }

    static void moves(Admin admin, Producer<String, String> producer, Member[] ms) throws Exception {
        try (Flow flow = new Flow(producer)) {
            for (String protocol : List.of("uniform", assignor)) {
                for (int i = 0; i < ms.length; i++) {
                    if (i % 2 == 0) ms[i].close(); // else the new one comes before the old one goes
                    Member old = ms[i];
                    ms[i] = new Member(null, protocol);
                    if (i % 2 == 1) {
                        await("a partition for the new one", () -> ms[1].owned.get() > 0);
                        old.close();
                    }
                    await("two partitions each, member " + i + " moved to " + protocol, () -> Arrays.stream(ms).allMatch(m -> m.owned.get() == 2));
                }
                String type = protocol.equals(assignor) ? "Classic" : "Consumer";
                await("the group is of type " + type, () -> {
                    try {
                        return admin.listGroups().all().get().stream().anyMatch(g -> g.groupId().equals(group) && g.type().get().toString().equals(type));
                    } catch (Exception e) {
                        return false;
                    }
                });
            }
        }
    }

    static void restart(Producer<String, String> producer, Member[] ms) throws Exception {
        int before = Arrays.stream(ms).mapToInt(m -> m.moves.get()).sum();
        try (Flow flow = new Flow(producer)) {
            System.out.println("flowing");
            Thread.sleep(10_000);
        }
        int after = Arrays.stream(ms).mapToInt(m -> m.moves.get()).sum();
        check(before == after, "the broker's restart moved partitions: " + (after - before) + " times");
    }

    static void members(String[] args) throws Exception {
        bootstrap = args[0];
        assignor = args[1];
        boolean fixed = args[2].equals("static");
        group = "java-" + assignor + "-" + args[2]; // and topic
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        try (Admin admin = Admin.create(p); Producer<String, String> producer = new KafkaProducer<>(p, new StringSerializer(), new StringSerializer())) {
            admin.createTopics(List.of(new NewTopic(group, Optional.of(PARTITIONS), Optional.empty()))).all().get();
            if (args[2].equals("moves") || args[2].equals("restart")) {
                Member[] ms = {new Member(null), new Member(null), new Member(null)};
                await("two partitions each", () -> Arrays.stream(ms).allMatch(m -> m.owned.get() == 2));
                produceAndAwait(producer);
                if (args[2].equals("moves")) moves(admin, producer, ms); else restart(producer, ms);
                for (Member m : ms) m.close();
                System.out.println("read all");
                return;
            }
            Member a = new Member(fixed ? "a" : null);
            produceAndAwait(producer);
            Member b = new Member(fixed ? "b" : null), c = new Member(fixed ? "c" : null);
            Member first = a;
            await("two partitions each", () -> first.owned.get() == 2 && b.owned.get() == 2 && c.owned.get() == 2);
            produceAndAwait(producer);
            int others = b.moves.get() + c.moves.get();
            a.close();
            if (fixed) {
                a = new Member("a");
                produceAndAwait(producer);
                check(b.moves.get() + c.moves.get() == others, "the restart of a static member moved partitions of others");
                a.close();
            } else {
                await("three partitions each", () -> b.owned.get() == 3 && c.owned.get() == 3);
                produceAndAwait(producer);
            }
            int members = admin.describeConsumerGroups(List.of(group)).all().get().get(group).members().size();
            check(members == (fixed ? 3 : 2), "described with " + members + " members");
            b.close();
            c.close();
            if (fixed) admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions()).all().get();
            long committed = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().values().stream().mapToLong(OffsetAndMetadata::offset).sum();
            check(committed == sent, "committed " + committed + " of " + sent);
            admin.deleteConsumerGroups(List.of(group)).all().get();
        }
        System.out.println("read " + sent);
    }
}
