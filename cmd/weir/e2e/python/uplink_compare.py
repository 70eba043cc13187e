"""Compares what an uplink had to carry with what arrived, by the origin header and by a hash of the record, with librdkafka at both ends.

uplink_compare.py SOURCE TARGET CLUSTER SOURCE-TOPIC=TARGET-TOPIC…

Prints one JSON object: records at the source, distinct ones that arrived, missing, duplicates, differing, disordered, strange. Readers see committed records only.
"""
import hashlib
import json
import sys

from confluent_kafka import Consumer, KafkaError, TopicPartition

ORIGIN = "weir.origin"


def read(bootstrap, topic):
    """Every committed record of a topic, from the beginning to its present end, partition by partition."""
    c = Consumer({"bootstrap.servers": bootstrap, "group.id": "compare", "enable.auto.commit": False, "isolation.level": "read_committed",
                  "enable.partition.eof": True, "auto.offset.reset": "error", "check.crcs": True})
    meta = c.list_topics(topic, 30).topics[topic]
    if meta.error is not None:
        raise SystemExit(f"{topic} at {bootstrap}: {meta.error}")
    for p in sorted(meta.partitions):
        low, high = c.get_watermark_offsets(TopicPartition(topic, p), 30)
        c.assign([TopicPartition(topic, p, low)])
        while low < high:
            m = c.poll(60)
            if m is None:
                raise SystemExit(f"{topic}/{p} at {bootstrap}: nothing more after offset {low} of {high}")
            if m.error():
                if m.error().code() == KafkaError._PARTITION_EOF:  # of committed ones
                    break
                raise SystemExit(f"{topic}/{p} at {bootstrap}: {m.error()}")
            low = m.offset() + 1
            yield m
    c.close()


def fingerprint(m, headers):
    h = hashlib.sha256()
    for part in [m.key(), m.value()] + [x for k, v in headers for x in (k.encode(), v)]:
        h.update(b"-" if part is None else b"%d:" % len(part) + part)
    h.update(str(m.timestamp()[1]).encode())
    return h.digest()


def main():
    source, target, cluster, pairs = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
    out = dict(records=0, arrived=0, missing=0, duplicates=0, differing=0, disordered=0, strange=0, examples=[])

    def note(kind, what):
        out[kind] += 1
        if len(out["examples"]) < 20:
            out["examples"].append(f"{kind}: {what}")

    for pair in pairs:
        here, there = pair.split("=")
        want = {f"{cluster}/{here}/{m.partition()}/{m.offset()}": fingerprint(m, m.headers() or []) for m in read(source, here)}
        out["records"] += len(want)
        seen, last = set(), {}
        for m in read(target, there):
            headers = m.headers() or []
            origins = [v.decode() for k, v in headers if k == ORIGIN]
            if len(origins) != 1 or origins[0] not in want:
                note("strange", f"{there}/{m.partition()}/{m.offset()} with origin {origins}")
                continue
            origin = origins[0]
            if origin in seen:
                note("duplicates", origin)
                continue
            seen.add(origin)
            if fingerprint(m, [(k, v) for k, v in headers if k != ORIGIN]) != want[origin]:
                note("differing", origin)
            stream, _, offset = origin.rpartition("/")
            if int(offset) < last.get((stream, m.partition()), -1):
                note("disordered", origin)
            last[stream, m.partition()] = int(offset)
        out["arrived"] += len(seen)
        for origin in want.keys() - seen:
            note("missing", origin)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
