import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;

/**
 * Consumers of one group come and go; every record is read, none twice. Arguments: bootstrap, assignor, "static" or "dynamic". With "moves"
 * the members are restarted one after the other with the consumer protocol, and then back with the classic one.
 * Then the Admin client describes the group, reads its offsets, removes static members and deletes it.
 */
public class GroupMembers {
    static final int PARTITIONS = 6, WAIT_SECONDS = 40;
    static final Map<String, Integer> seen = new ConcurrentHashMap<>();
    static String bootstrap, assignor, group;
    static int sent;

    /** A consumer on its own thread that commits what it polled before it polls again. */
    static class Member implements ConsumerRebalanceListener {
        final AtomicInteger owned = new AtomicInteger(), moves = new AtomicInteger();
        final Thread thread;
        volatile boolean stop;
        volatile Throwable error;

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
                c.subscribe(List.of(group), this);
                while (!stop) {
                    ConsumerRecords<String, String> records = c.poll(Duration.ofMillis(100));
                    for (ConsumerRecord<String, String> r : records) seen.merge(r.partition() + "/" + r.offset(), 1, Integer::sum);
                    if (!records.isEmpty()) c.commitSync();
                }
            } catch (Throwable e) {
                error = e;
            }
        }

        @Override public void onPartitionsRevoked(Collection<TopicPartition> ps) { owned.addAndGet(-ps.size()); moves.incrementAndGet(); }
        @Override public void onPartitionsAssigned(Collection<TopicPartition> ps) { owned.addAndGet(ps.size()); moves.incrementAndGet(); }

        void close() throws Exception {
            stop = true;
            thread.join();
            if (error != null) throw new Exception("consumer", error);
        }
    }

    static void await(String what, BooleanSupplier ok) throws Exception {
        for (long end = System.nanoTime() + WAIT_SECONDS * 1_000_000_000L; !ok.getAsBoolean(); Thread.sleep(20))
            check(System.nanoTime() < end, "not so after " + WAIT_SECONDS + " s: " + what + "; " + seen.size() + " of " + sent + " records were read");
    }

    static void check(boolean ok, String message) throws Exception {
        if (!ok) throw new Exception(message);
    }

    static void produceAndAwait(Producer<String, String> producer) throws Exception {
        List<Future<RecordMetadata>> acks = new ArrayList<>();
        for (int i = 0; i < 60; i++) acks.add(producer.send(new ProducerRecord<>(group, i % PARTITIONS, null, "r" + (sent + i))));
        for (Future<RecordMetadata> ack : acks) ack.get();
        sent += 60;
        await("all is read", () -> seen.size() == sent);
        check(seen.values().stream().allMatch(n -> n == 1), "read more than once: " + seen);
    }

    public static void main(String[] args) throws Exception {
        try {
            members(args);
        } catch (Throwable e) {
            e.printStackTrace();
            System.exit(1); // whatever consumers still run
        }
    }

    static void moves(Producer<String, String> producer) throws Exception {
        Member[] ms = {new Member(null), new Member(null), new Member(null)};
        BooleanSupplier even = () -> Arrays.stream(ms).allMatch(m -> m.owned.get() == 2);
        await("two partitions each", even);
        produceAndAwait(producer);
        for (String protocol : List.of("uniform", assignor)) {
            for (int i = 0; i < ms.length; i++) {
                if (i % 2 == 0) ms[i].close(); // else the new one comes before the old one goes
                Member old = ms[i];
                ms[i] = new Member(null, protocol);
                if (i % 2 == 1) {
                    await("a partition for the new one", () -> ms[1].owned.get() > 0);
                    old.close();
                }
                await("two partitions each, member " + i + " moved to " + protocol, even);
                produceAndAwait(producer);
            }
        }
        for (Member m : ms) m.close();
    }

    static void members(String[] args) throws Exception {
        bootstrap = args[0];
        assignor = args[1];
        boolean fixed = args[2].equals("static");
        group = "java-" + assignor + "-" + args[2]; // and topic
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        try (Admin admin = Admin.create(p); Producer<String, String> producer = new KafkaProducer<>(p, new StringSerializer(), new StringSerializer())) {
            admin.createTopics(List.of(new NewTopic(group, PARTITIONS, (short) 1))).all().get();
            if (args[2].equals("moves")) {
                moves(producer);
                System.out.println("read " + sent);
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
