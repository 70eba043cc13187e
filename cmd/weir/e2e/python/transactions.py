"""Exactly once with librdkafka, whose transactions are of version 1: writes N numbers in transactions of ten, of which every third is aborted and written again, copies them to
another topic with the offsets in the same transactions, and reads that as committed. What the client says may be tried again is; where it asks for an abort the transaction is done
anew. Arguments: bootstrap, in, out, N. Prints "copied N exactly once"."""
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer

bootstrap, source, target, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
deadline = time.monotonic() + 120


def until_known(ask):
    """Asks until it is known what became of it: False is that the transaction has to be aborted."""
    while True:
        assert time.monotonic() < deadline, "time is over"
        try:
            ask()
            return True
        except KafkaException as e:
            if e.args[0].txn_requires_abort():
                return False
            if not e.args[0].retriable():
                raise


def producer(name):
    p = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"python-{name}", "transaction.timeout.ms": 60000})
    until_known(lambda: p.init_transactions(10))
    return p


def consumer(group, topic):
    c = Consumer({"bootstrap.servers": bootstrap, "group.id": f"python-{group}", "auto.offset.reset": "earliest", "enable.auto.commit": False,
                  "isolation.level": "read_committed"})
    c.subscribe([topic])
    return c


def read(c, most):
    return [m for m in c.consume(most, 0.5) if not m.error()]


writer, done, turn, redone = producer("writer"), 0, 0, 0
while done < count:
    void = turn % 3 == 1
    turn += 1
    writer.begin_transaction()
    for i in range(done, done + 10):
        writer.produce(source, key=f"k{i % 7}", value=f"{'void-' if void else ''}{i}")
    if void:
        writer.flush(30)
        until_known(lambda: writer.abort_transaction(10))
    elif until_known(lambda: writer.commit_transaction(10)):
        done += 10
    else:
        redone += 1
        until_known(lambda: writer.abort_transaction(10))

copier, reader, copied = producer("copier"), consumer("copy", source), 0
while copied < count:
    assert time.monotonic() < deadline, f"{copied} of {count} copied"
    batch = read(reader, 50)
    if not batch:
        continue
    copier.begin_transaction()
    for m in batch:
        copier.produce(target, key=m.key(), value=m.value())
    at = reader.position(reader.assignment())
    if until_known(lambda: copier.send_offsets_to_transaction(at, reader.consumer_group_metadata(), 10)) and until_known(lambda: copier.commit_transaction(10)):
        copied += len(batch)
        continue
    redone += 1
    until_known(lambda: copier.abort_transaction(10))
    committed = []
    until_known(lambda: committed.extend(reader.committed(reader.assignment(), 10)))
    for p in committed:
        p.offset = max(p.offset, 0)
        reader.seek(p)

checker, seen = consumer("check", target), []
while len(seen) < count and time.monotonic() < deadline:
    seen += [m.value().decode() for m in read(checker, 500)]
assert sorted(seen, key=lambda v: int(v.removeprefix("void-"))) == [str(i) for i in range(count)], f"{len(seen)} of {count}: {seen[:20]}"
print(f"copied {count} exactly once, {redone} transactions were done anew")
