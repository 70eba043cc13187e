"""Load while nodes are restarted one after the other, with nothing but the clients' own reconnect: nobody here publishes anything twice.

Arguments: the nodes' Kafka addresses, comma separated; then the nodes' MQTT ports. Prints "ready"; answers each line on standard input, once what was published by
then is with everybody, with a line of JSON: the longest wait in seconds of each client since the one before. At the end of input it stops, and prints what became
of everything.
"""
import collections
import json
import subprocess
import sys
import threading
import time

import paho.mqtt.client as mqtt
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

bootstrap, ports = sys.argv[1], [int(p) for p in sys.argv[2:]]
EVERY, WAIT = 0.04, 60
lock = threading.Lock()
waits, goodbyes = {}, collections.Counter()  # by client
sent, acked, failed = {}, {}, []  # by producer: when each number was handed over; the numbers that were acknowledged
got = collections.defaultdict(collections.Counter)  # by reader: times that each payload came
stop, over = threading.Event(), threading.Event()


def waited(client, since, until=None):
    took = (until or time.time()) - since
    with lock:
        waits[client] = max(waits.get(client, 0), took)


def payload(name, n):
    return f"{name} {n} {time.time()}"


def received(reader, text, when=None):
    name, n, at = text.split(" ")
    got[reader][f"{name} {n}"] += 1
    waited(f"{reader} of {name}", float(at), when)


def every(produce):
    n = 0
    while not stop.wait(EVERY):
        produce(n)
        n += 1


def paho(name, port, v5):
    if v5:
        c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
    else:
        c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)

    def ended(c, _, flags, reason, __):
        goodbyes[f"{name}: " + (reason.getName() if flags.is_disconnect_packet_from_server else "no word")] += 1

    c.on_disconnect = ended

    c.reconnect_delay_set(1, 2)

    def connect():
        props = None
        if v5:
            props = Properties(PacketTypes.CONNECT)
            props.SessionExpiryInterval = 3600
        c.connect("127.0.0.1", port, keepalive=20, **({"clean_start": False, "properties": props} if v5 else {}))
        c.loop_start()

    return c, connect


def publisher(name, port, qos, v5):
    c, connect = paho(name, port, v5)
    sent[name], acked[name] = {}, set()
    numbers, answers = {}, {}  # by packet identifier; whichever comes later is matched with the other
    matching = threading.Lock()

    def match(mid):
        with matching:
            if mid not in numbers or mid not in answers:
                return
            n, reason = numbers.pop(mid), answers.pop(mid)
        if reason.is_failure and reason.value != 0x92:  # the exchange was completed before the connection ended: MQTT 5 §3.7.2.1, no error then
            failed.append(f"{name} {n}: {reason}")
        else:
            acked[name].add(n)
            waited(name, sent[name][n])

    def published(c, _, mid, reason, __):
        answers[mid] = reason
        match(mid)

    def produce(n):
        sent[name][n] = time.time()
        info = c.publish(f"load/{name}", payload(name, n), qos=qos)
        numbers[info.mid] = n
        match(info.mid)
        if info.rc not in (mqtt.MQTT_ERR_SUCCESS, mqtt.MQTT_ERR_NO_CONN):  # without a connection it is kept
            failed.append(f"{name} {n}: {mqtt.error_string(info.rc)}")

    c.on_publish = published
    c.max_queued_messages_set(0)
    connect()
    every(produce)
    deadline = time.monotonic() + WAIT
    while len(acked[name]) < len(sent[name]) and time.monotonic() < deadline:
        time.sleep(0.05)
    c.loop_stop()


def subscriber(name, port, v5, ready):
    c, connect = paho(name, port, v5)
    c.on_message = lambda c, _, m: received(name, m.payload.decode())
    c.on_connect = lambda c, _, flags, reason, __: c.subscribe("load/#", qos=2) if not flags.session_present else None
    c.on_subscribe = lambda *a: ready.set()
    connect()
    over.wait()
    c.loop_stop()


def mosquitto_sub(name, port, ready):
    p = subprocess.Popen(["stdbuf", "-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-i", name, "-c", "-q", "2", "-t", "load/#", "-d", "-F", "at %U %p"],
                         stdout=subprocess.PIPE, text=True)
    threading.Thread(target=lambda: (over.wait(), p.kill()), daemon=True).start()
    for line in p.stdout:
        if line.startswith("at "):
            _, at, text = line.strip().split(" ", 2)
            received(name, text, float(at))
        elif "SUBACK" in line:
            ready.set()
    p.wait()


def mosquitto_pub(name, port):
    p = subprocess.Popen(["mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-i", name, "-c", "-q", "2", "-t", f"load/{name}", "-l"],
                         stdin=subprocess.PIPE, text=True)
    sent[name], acked[name] = {}, set()

    def produce(n):
        sent[name][n] = time.time()
        try:
            p.stdin.write(payload(name, n) + "\n")
            p.stdin.flush()
        except OSError as e:
            failed.append(f"{name} {n}: {e}")
            stop.wait(WAIT)

    every(produce)
    p.stdin.close()
    try:
        code = p.wait(WAIT)
    except subprocess.TimeoutExpired:
        p.kill()
        code = "no end"
    if code:
        failed.append(f"{name}: {code}")
    else:
        acked[name].update(sent[name])  # it ends well once all is acknowledged


def kafka_producer(name):
    p = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})
    sent[name], acked[name] = {}, set()

    def produce(n):
        def delivered(err, _):
            if err:
                failed.append(f"{name} {n}: {err}")
            else:
                acked[name].add(n)
                waited(name, sent[name][n])

        sent[name][n] = time.time()
        p.produce("orders", payload(name, n), key=str(n % 16), on_delivery=delivered)
        p.poll(0)

    polling = threading.Thread(target=lambda: [p.poll(0.02) for _ in iter(stop.is_set, True)])
    polling.start()
    every(produce)
    polling.join()
    p.flush(WAIT)


def kafka_consumer(name, ready):
    c = Consumer({"bootstrap.servers": bootstrap, "group.id": "rolling", "auto.offset.reset": "earliest", "client.id": name})
    c.subscribe(["orders"], on_assign=lambda _, parts: parts and len(parts) < 4 and ready.set())  # it shares them with the other one
    while not over.is_set():
        m = c.poll(0.2)
        if m is not None and not m.error():
            received("kafka-group", m.value().decode())
    c.close()


def stored(topic):
    """How often each payload is in the topic."""
    c = Consumer({"bootstrap.servers": bootstrap, "group.id": "check", "enable.auto.commit": False, "enable.partition.eof": True})
    parts = c.list_topics(topic, timeout=WAIT).topics[topic].partitions
    c.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in parts])
    times, left = collections.Counter(), set(parts)
    deadline = time.monotonic() + WAIT
    while left and time.monotonic() < deadline:
        m = c.poll(1)
        if m is None:
            continue
        if m.error():
            left.discard(m.partition())
        else:
            times[" ".join(m.value().decode().split(" ")[:2])] += 1
    c.close()
    return times


def caught_up(handed):
    """What a producer had handed over by then is acknowledged, and with all readers."""
    name, count = handed
    mine = ["kafka-group"] if name.startswith("kafka") else names
    return (len(acked[name]) >= count or name.startswith("mosquitto")) and all(f"{name} {n}" in got[r] for r in mine for n in range(count))


readers, producers = [], []
names = [f"{kind}-sub-{i}" for i in range(1, len(ports) + 1) for kind in ("paho", "mosquitto")]


def start(group, fn, *args):
    t = threading.Thread(target=fn, args=args)
    t.start()
    group.append(t)


for i, port in enumerate(ports, 1):
    for fn, args in ((subscriber, (f"paho-sub-{i}", port, i % 2 == 0)), (mosquitto_sub, (f"mosquitto-sub-{i}", port))):
        subscribed = threading.Event()
        start(readers, fn, *args, subscribed)
        assert subscribed.wait(WAIT), args
members = [threading.Event() for _ in range(2)]
for i, shares in enumerate(members):
    start(readers, kafka_consumer, f"consumer-{i}", shares)
assert all(shares.wait(WAIT) for shares in members)
for i, port in enumerate(ports, 1):
    start(producers, publisher, f"paho-qos1-{i}", port, 1, True)
    start(producers, publisher, f"paho-qos2-{i}", port, 2, i % 2 == 1)
    start(producers, mosquitto_pub, f"mosquitto-qos2-{i}", port)
start(producers, kafka_producer, "kafka-idempotent")
writers = [f"{kind}-{i}" for i in range(1, len(ports) + 1) for kind in ("paho-qos1", "paho-qos2", "mosquitto-qos2")] + ["kafka-idempotent"]
deadline = time.monotonic() + WAIT
while not all(sent.get(w) and caught_up((w, 1)) for w in writers):  # mosquitto_pub tries its first connection once
    assert time.monotonic() < deadline, "not all of them are at work"
    time.sleep(0.05)
with lock:
    waits = {}
print("ready", flush=True)
for _ in sys.stdin:
    handed = {name: len(s) for name, s in sent.items()}
    deadline = time.monotonic() + WAIT
    while not all(map(caught_up, handed.items())) and time.monotonic() < deadline:
        time.sleep(0.05)
    with lock:
        report, waits = waits, {}
    print(json.dumps({k: round(v, 3) for k, v in sorted(report.items())}), flush=True)
stop.set()
for t in producers:
    t.join()

# Everything that was acknowledged is with every reader, and in its topic.
mqtt_acked = {f"{name} {n}" for name in acked for n in acked[name] if not name.startswith("kafka")}
kafka_acked = {f"{name} {n}" for name in acked for n in acked[name] if name.startswith("kafka")}


def due(reader):
    return kafka_acked if reader.startswith("kafka") else mqtt_acked


names.append("kafka-group")
deadline = time.monotonic() + WAIT
while any(due(r) - got[r].keys() for r in names) and time.monotonic() < deadline:
    time.sleep(0.1)
time.sleep(1)  # a second copy would come now
over.set()
for t in readers:
    t.join()
telemetry, orders = stored("telemetry"), stored("orders")


def twice(times, which):
    return sorted(k for k, n in times.items() if n > 1 and which(k))


def exactly_once(k):
    return "qos2" in k or "idempotent" in k


print(json.dumps({
    "Sent": sum(len(s) for s in sent.values()),
    "Acked": len(mqtt_acked) + len(kafka_acked),
    "Failed": failed,
    "Lost": sorted((mqtt_acked - telemetry.keys()) | (kafka_acked - orders.keys())),
    "Twice": twice(telemetry, exactly_once) + twice(orders, exactly_once),
    "Unread": {r: sorted(due(r) - got[r].keys()) for r in names if due(r) - got[r].keys()},
    "ReadTwice": {r: twice(got[r], exactly_once) for r in names if r != "kafka-group" and twice(got[r], exactly_once)},
    "Goodbyes": goodbyes,
}), flush=True)
