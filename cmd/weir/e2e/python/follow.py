"""librdkafka: writes each line of standard input to partition 0 and reads it back, with one producer and one consumer. Arguments: bootstrap, topic."""
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition

bootstrap, topic = sys.argv[1], sys.argv[2]
producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "none", "enable.auto.commit": False})
consumer.assign([TopicPartition(topic, 0, 0)])
for line in sys.stdin:
    line, failed, end = line.strip(), [], time.monotonic() + 40
    producer.produce(topic, value=line, partition=0, on_delivery=lambda err, msg: failed.append(err) if err else None)
    assert producer.flush(40) == 0 and not failed, failed
    while time.monotonic() < end:
        m = consumer.poll(0.5)
        if m is not None and not m.error() and m.value().decode() == line:
            print("read", line, flush=True)
            break
