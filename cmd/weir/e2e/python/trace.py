"""librdkafka: what a producer and a group's consumer ask, for a recorder. Arguments: bootstrap, topic."""
import sys
import time

from confluent_kafka import Consumer, Producer

bootstrap, topic = sys.argv[1], sys.argv[2]
failures = []
producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
for i in range(10):
    producer.produce(topic, key=f"k{i}", value=f"v{i}", on_delivery=lambda err, msg: failures.append(err) if err else None)
producer.flush(40)
assert not failures, failures[:3]

consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"trace-{topic}", "auto.offset.reset": "earliest",
                     "enable.auto.commit": False, "heartbeat.interval.ms": 100})
consumer.subscribe([topic])
seen, end = 0, time.monotonic() + 40
while seen < 10 and time.monotonic() < end:
    m = consumer.poll(0.5)
    if m is not None:
        assert not m.error(), m.error()
        seen += 1
assert seen == 10, f"{seen} of 10 records seen"
consumer.commit(asynchronous=False)
consumer.poll(1)  # some heartbeats
transactional = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"trace-{topic}"})
transactional.init_transactions(40)
transactional.begin_transaction()
transactional.produce(topic, value="in a transaction")
transactional.send_offsets_to_transaction(consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 40)
transactional.commit_transaction(40)
consumer.close()
print("traced")
