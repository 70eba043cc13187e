import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Uses each part of the protocol that Java programs use, so that a recorder sees in which versions: the admin client's requests, a
 * producer's, and those of a consumer that goes on at offsets it has committed and then idles. Arguments: bootstrap topic.
 */
public final class Trace {
    public static void main(String[] args) throws Exception {
        String bootstrap = args[0], topic = args[1];
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        var first = new TopicPartition(topic, 0);
        var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        try (var admin = Admin.create(p)) {
            admin.createTopics(List.of(new NewTopic(topic, Optional.of(2), Optional.empty()))).all().get();
            admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(3))).all().get();
            admin.describeConfigs(List.of(resource)).all().get();
            admin.incrementalAlterConfigs(Map.of(resource, List.of(new AlterConfigOp(new ConfigEntry("retention.ms", "3600000"), AlterConfigOp.OpType.SET)))).all().get();
            admin.describeCluster().nodes().get();

            p.put("linger.ms", 0);
            try (var producer = new KafkaProducer<>(p, new StringSerializer(), new StringSerializer())) {
                for (int i = 0; i < 30; i++) {
                    producer.send(new ProducerRecord<>(topic, i % 3, "k", "v" + i)).get();
                }
            }
            for (var spec : List.of(OffsetSpec.earliest(), OffsetSpec.latest(), OffsetSpec.maxTimestamp(), OffsetSpec.forTimestamp(0),
                    OffsetSpec.earliestLocal(), OffsetSpec.latestTiered(), OffsetSpec.earliestPendingUpload())) {
                System.out.println("offset " + spec.getClass().getSimpleName() + " " + admin.listOffsets(Map.of(first, spec)).partitionResult(first).get().offset());
            }

            consume(bootstrap, "trace-" + topic, "classic", topic, 30);
            try (var producer = new KafkaProducer<>(p, new StringSerializer(), new StringSerializer())) {
                producer.send(new ProducerRecord<>(topic, 0, "k", "last")).get();
            }
            consume(bootstrap, "trace-" + topic, "classic", topic, 1); // from the committed offsets on

            Properties t = new Properties();
            t.putAll(p);
            t.put("transactional.id", "trace");
            try (var producer = new KafkaProducer<>(t, new StringSerializer(), new StringSerializer())) {
                producer.initTransactions();
                producer.beginTransaction();
                producer.send(new ProducerRecord<>(topic, 0, "k", "in a transaction"));
                producer.sendOffsetsToTransaction(Map.of(first, new OffsetAndMetadata(1)), new ConsumerGroupMetadata("trace-transactions"));
                producer.commitTransaction();
            }
            admin.listTransactions().all().get();
            admin.describeTransactions(List.of("trace")).all().get();
            admin.describeProducers(List.of(first)).all().get();

            consume(bootstrap, "trace-new-" + topic, "consumer", topic, 32);
            admin.describeConsumerGroups(List.of("trace-new-" + topic)).all().get();
            int node = admin.describeCluster().nodes().get().iterator().next().id();
            admin.describeLogDirs(List.of(node)).allDescriptions().get();
            admin.electLeaders(ElectionType.PREFERRED, Set.of(first)).partitions().get();
            admin.alterPartitionReassignments(Map.of(first, Optional.of(new NewPartitionReassignment(List.of(node))))).all().get();
            admin.listPartitionReassignments().reassignments().get();
            admin.describeTopics(List.of(topic)).allTopicNames().get();
            admin.listConfigResources().all().get();

            String group = "trace-" + topic;
            admin.listGroups().all().get();
            admin.describeConsumerGroups(List.of(group)).all().get();
            admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
            admin.deleteConsumerGroupOffsets(group, Set.of(first)).all().get();
            admin.deleteConsumerGroups(List.of(group)).all().get();
            admin.deleteRecords(Map.of(first, RecordsToDelete.beforeOffset(5))).all().get();
            admin.deleteTopics(List.of(topic)).all().get();
        }
        System.out.println("traced");
    }

    /** Reads count records, polls some more without any, commits and leaves. */
    private static void consume(String bootstrap, String group, String protocol, String topic, int count) {
        Properties c = new Properties();
        c.put("bootstrap.servers", bootstrap);
        c.put("group.id", group);
        c.put("group.protocol", protocol);
        c.put("auto.offset.reset", "earliest");
        c.put("fetch.max.wait.ms", 50);
        if (protocol.equals("classic")) {
            c.put("heartbeat.interval.ms", 100);
        }
        try (var consumer = new KafkaConsumer<>(c, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            int seen = 0;
            for (long end = System.nanoTime() + Duration.ofSeconds(40).toNanos(); seen < count && System.nanoTime() < end; ) {
                seen += consumer.poll(Duration.ofMillis(500)).count();
            }
            if (seen != count) {
                throw new IllegalStateException(seen + " records instead of " + count);
            }
            consumer.poll(Duration.ofMillis(500));
            consumer.commitSync();
        }
    }
}
