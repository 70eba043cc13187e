"""librdkafka consumers of one group come and go; every record is read, none twice.
Arguments: bootstrap, assignor (of the client, or "broker-" and one of the broker), "static" or "dynamic"."""
import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

bootstrap, assignor, static = sys.argv[1], sys.argv[2], sys.argv[3] == "static"
brokers = assignor.startswith("broker-")  # the broker assigns, by the consumer protocol (KIP-848)
topic = group = f"rd-{assignor}-{sys.argv[3]}"
PARTITIONS, WAIT = 6, 40
seen, lock, sent = {}, threading.Lock(), 0

admin = AdminClient({"bootstrap.servers": bootstrap})
for f in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
    f.result(WAIT)
producer = Producer({"bootstrap.servers": bootstrap})


class Member:
    """A consumer on its own thread that commits each record before it asks for the next."""

    def __init__(self, instance):
        conf = {"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        if brokers:
            conf |= {"group.protocol": "consumer", "group.remote.assignor": assignor.removeprefix("broker-")}
        else:
            conf |= {"partition.assignment.strategy": assignor, "session.timeout.ms": 10000, "heartbeat.interval.ms": 200}
        if static:
            conf["group.instance.id"] = instance
        self.owned, self.moves, self.error, self.stop = set(), 0, None, False
        self.consumer = Consumer(conf)
        self.consumer.subscribe([topic], on_assign=self.assigned, on_revoke=self.revoked, on_lost=self.revoked)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def assigned(self, _, partitions):
        self.moves += 1
        self.owned |= {p.partition for p in partitions}

    def revoked(self, _, partitions):
        self.moves += 1
        self.owned -= {p.partition for p in partitions}

    def run(self):
        try:
            while not self.stop:
                m = self.consumer.poll(0.1)
                if m is None:
                    continue
                assert not m.error(), m.error()
                with lock:
                    seen[m.partition(), m.offset()] = seen.get((m.partition(), m.offset()), 0) + 1
                self.consumer.commit(message=m, asynchronous=False)
        except Exception as e:
            self.error = e

    def close(self):
        self.stop = True
        self.thread.join()
        self.consumer.close()
        assert self.error is None, self.error


def wait(what, ok):
    end = time.monotonic() + WAIT
    while not ok():
        assert time.monotonic() < end, f"not so after {WAIT} s: {what}; {len(seen)} of {sent} records were read"
        time.sleep(0.02)


def produce_and_wait():
    global sent
    for i in range(60):
        producer.produce(topic, f"r{sent + i}", partition=i % PARTITIONS)
    assert producer.flush(WAIT) == 0
    sent += 60
    wait("all is read", lambda: len(seen) == sent)
    twice = [k for k, n in seen.items() if n > 1]
    assert not twice, f"read more than once: {twice}"


members = [Member("a")]
produce_and_wait()
members += [Member("b"), Member("c")]
wait("two partitions each", lambda: all(len(m.owned) == 2 for m in members))
produce_and_wait()
if static:
    others = members[1].moves + members[2].moves
    members[0].close()
    members[0] = Member("a")
    produce_and_wait()
    assert members[1].moves + members[2].moves == others, "the restart of a static member moved partitions of others"
else:
    members.pop(0).close()
    wait("three partitions each", lambda: all(len(m.owned) == 3 for m in members))
    produce_and_wait()
for m in members:
    m.close()
committed = Consumer({"bootstrap.servers": bootstrap, "group.id": group}).committed([TopicPartition(topic, p) for p in range(PARTITIONS)], WAIT)
assert sum(p.offset for p in committed) == sent, committed
print("read", sent)
