#!/usr/bin/env python3
"""A consumer group that writes telemetry of all sites to PostgreSQL, each reading once.

How far it is stands in the database, in the transaction that has the readings: whatever is killed, none is lost and none is there twice.
Run as many as there are to be members of the group. Needs: pip install confluent-kafka 'psycopg[binary]'"""
import argparse
import json
import signal
import sys

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition

args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
args.add_argument("--bootstrap", default="127.0.0.1:19092", help="of the centre")
args.add_argument("--topics", default=r"^.*\.telemetry$", help="a topic, or a pattern that begins with ^ (default: %(default)s)")
args.add_argument("--group", default="analytics")
args.add_argument("--postgres", default="dbname=telemetry", help="connection string")
args.add_argument("--until", type=int, help="end when the table has so many readings")
args = args.parse_args()

db = psycopg.connect(args.postgres)
consumer = Consumer({
    "bootstrap.servers": args.bootstrap, "group.id": args.group, "isolation.level": "read_committed", "enable.auto.commit": False,
    "auto.offset.reset": "earliest", "session.timeout.ms": 10000, "topic.metadata.refresh.interval.ms": 5000, "partition.assignment.strategy": "cooperative-sticky",
})


def assigned(consumer, parts):
    """Begin where the database is, not where the group thinks."""
    with db.transaction():
        known = {(t, p): n for t, p, n in db.execute("SELECT topic, partition, next FROM progress")}
    consumer.incremental_assign([TopicPartition(p.topic, p.partition, known.get((p.topic, p.partition), -2)) for p in parts])


def rows(messages):
    for m in messages:
        headers = dict(m.headers() or [])
        device = (headers.get("mqtt.client") or m.key() or b"?").decode()
        origin = headers.get("weir.origin", f"{m.topic()}/{m.partition()}/{m.offset()}".encode()).decode()
        reading = json.loads(m.value())
        yield origin, m.topic().split(".")[0], device, reading.get("seq"), m.timestamp()[1] / 1000, json.dumps(reading)


def store(messages):
    good, ahead = [], {}
    for m in messages:
        ahead[m.topic(), m.partition()] = m.offset() + 1
        try:
            good += rows([m])
        except (ValueError, TypeError, AttributeError) as e:
            print(f"{m.topic()}/{m.partition()} offset {m.offset()} is no JSON object, and is passed over: {e}", file=sys.stderr)
    insert = "INSERT INTO readings VALUES (%s, %s, %s, %s, to_timestamp(%s), %s) ON CONFLICT DO NOTHING"
    with db.transaction(), db.cursor() as cur:
        try:
            with db.transaction():
                cur.executemany(insert, good)
        except psycopg.DataError:  # of one of them, as JSON with \u0000 or a number that is none of SQL's: the others are not to wait for it
            for row in good:
                try:
                    with db.transaction():
                        cur.execute(insert, row)
                except psycopg.DataError as e:
                    print(f"{row[0]} is nothing that PostgreSQL takes, and is passed over: {e}", file=sys.stderr)
        cur.executemany("INSERT INTO progress VALUES (%s, %s, %s) ON CONFLICT (topic, partition) DO UPDATE SET next = greatest(progress.next, excluded.next)",
                        [(t, p, n) for (t, p), n in ahead.items()])
    consumer.commit(offsets=[TopicPartition(t, p, n) for (t, p), n in ahead.items()], asynchronous=True)  # for those who watch the group's lag


stopping = []
for s in (signal.SIGTERM, signal.SIGINT):
    signal.signal(s, lambda *_: stopping.append(1))
consumer.subscribe([args.topics], on_assign=assigned)
while not stopping:
    messages = consumer.consume(num_messages=1000, timeout=1.0)
    for m in messages:
        if m.error() and m.error().fatal():
            raise KafkaException(m.error())
    messages = [m for m in messages if not m.error()]
    if messages:
        store(messages)
    if args.until:
        with db.transaction():
            n = db.execute("SELECT count(*) FROM readings").fetchone()[0]
        if n >= args.until:
            break
consumer.close()
