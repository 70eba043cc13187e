"""Compares what an uplink had to carry to an MQTT broker with what a subscriber there has got, by origin and by a hash of the payload. The source is read with librdkafka.

uplink_compare_mqtt.py SOURCE CLUSTER FILE SOURCE-TOPIC=PREFIX…

FILE has a line for each message, as `mosquitto_sub -F '%t\\t%x\\t%P'` prints it: topic, payload in hexadecimal, user properties. A record is to come under PREFIX and the MQTT topic
under which it was published, or <topic>/<key>, or <topic> alone.

Prints one JSON object: records at the source, distinct ones that arrived, missing, duplicates (each repeat), differing, disordered (a record that came for the first time behind a
later one of its partition), strange, and rewinds: how often at most a partition went back to what had come already.
"""
import hashlib
import json
import re
import sys

from uplink_compare import ORIGIN, read

PROPERTY = re.compile(r"(?:^| )" + re.escape(ORIGIN) + r":(\S+)")


def published(m, topic):
    for k, v in m.headers() or []:
        if k == "mqtt.topic":
            return v.decode()
    return f"{topic}/{m.key().decode()}" if m.key() is not None else topic


def main():
    source, cluster, file, pairs = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
    out = dict(records=0, arrived=0, missing=0, duplicates=0, differing=0, disordered=0, strange=0, rewinds=0, examples=[])

    def note(kind, what):
        out[kind] += 1
        if len(out["examples"]) < 20:
            out["examples"].append(f"{kind}: {what}")

    want = {}
    for pair in pairs:
        topic, prefix = pair.split("=")
        for m in read(source, topic):
            want[f"{cluster}/{topic}/{m.partition()}/{m.offset()}"] = prefix + published(m, topic), hashlib.sha256(m.value() or b"").digest()
    out["records"] = len(want)
    seen, first, last, rewinds = set(), {}, {}, {}
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            topic, payload, properties = line.rstrip("\n").split("\t", 2)
            origins = PROPERTY.findall(properties)
            if len(origins) != 1 or origins[0] not in want:
                note("strange", f"{topic} with origin {origins}")
                continue
            origin = origins[0]
            if want[origin] != (topic, hashlib.sha256(bytes.fromhex(payload)).digest()):
                note("differing", origin)
            stream, _, offset = origin.rpartition("/")
            offset = int(offset)
            if offset <= last.get(stream, -1):
                rewinds[stream] = rewinds.get(stream, 0) + 1
            last[stream] = offset
            if origin in seen:
                note("duplicates", origin)
                continue
            seen.add(origin)
            if offset < first.get(stream, -1):
                note("disordered", origin)
            first[stream] = max(offset, first.get(stream, -1))
    out["arrived"] = len(seen)
    out["rewinds"] = max(rewinds.values(), default=0)
    for origin in want.keys() - seen:
        note("missing", origin)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
