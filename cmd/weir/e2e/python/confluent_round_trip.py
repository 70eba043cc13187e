"""librdkafka: an idempotent producer and a consumer group. Arguments: bootstrap, topic, count, compression, assignor."""
import sys

from confluent_kafka import Consumer, Producer

bootstrap, topic, count, compression, assignor = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
failures = []
producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "compression.type": compression})
for i in range(count):
    producer.produce(topic, key=f"device-{i % 10}", value=f"reading-{i}", headers={"n": str(i)},
                     on_delivery=lambda err, msg: failures.append(err) if err else None)
    producer.poll(0)
producer.flush(40)
assert not failures, failures[:3]

consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"rd-{topic}", "auto.offset.reset": "earliest",
                     "enable.auto.commit": False, "partition.assignment.strategy": assignor})
consumer.subscribe([topic])
seen, last = set(), {}
for _ in range(count * 10):
    m = consumer.poll(1.0)
    if m is None:
        continue
    assert not m.error(), m.error()
    n = int(m.value().decode().removeprefix("reading-"))
    assert n > last.get(m.key(), -1), f"{m.key()} out of order"
    last[m.key()] = n
    seen.add(n)
    if len(seen) == count:
        break
assert len(seen) == count, f"{len(seen)} of {count} records seen"
consumer.commit(asynchronous=False)
consumer.close()
print("consumed", len(seen))
