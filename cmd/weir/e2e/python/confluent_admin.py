"""librdkafka's administrative client, which still replaces configs as a whole (AlterConfigs). Argument: bootstrap."""
import sys

from confluent_kafka import ElectionType, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec

admin = AdminClient({"bootstrap.servers": sys.argv[1]})


def done(futures):
    return {key: future.result(30) for key, future in futures.items()}


def own(topic):
    (configs,) = done(admin.describe_configs([ConfigResource("topic", topic)])).values()
    return {c.name: c.value for c in configs.values() if not c.is_default}


done(admin.create_topics([NewTopic("named", num_partitions=2, replica_assignment=[[1], [1]], config={"retention.ms": "1000"})]))
assert own("named") == {"retention.ms": "1000"}, own("named")
done(admin.alter_configs([ConfigResource("topic", "named", set_config={"max.message.bytes": "5000"})]))
assert own("named") == {"max.message.bytes": "5000"}, own("named")
more = ConfigEntry("retention.ms", "2000", incremental_operation=AlterConfigOpType.SET)
done(admin.incremental_alter_configs([ConfigResource("topic", "named", incremental_configs=[more])]))
assert own("named") == {"max.message.bytes": "5000", "retention.ms": "2000"}, own("named")
done(admin.create_partitions([NewPartitions("named", 3, [[1]])]))
(outcome,) = admin.elect_leaders(ElectionType.PREFERRED, [TopicPartition("named", 2)]).result(30).values()
assert outcome.code() == KafkaError.ELECTION_NOT_NEEDED, outcome
(latest,) = done(admin.list_offsets({TopicPartition("named", 2): OffsetSpec.latest()})).values()
assert latest.offset == 0, latest.offset
assert [n.id for n in admin.describe_cluster().result(30).nodes] == [1]
done(admin.delete_topics(["named"]))
print("administered")
