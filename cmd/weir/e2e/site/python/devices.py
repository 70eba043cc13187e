"""MQTT devices that publish until standard input ends, then wait for what is not acknowledged. They reconnect by paho's own means, to the next
broker in turn, and publish nothing twice by themselves. Arguments: hosts with commas, name, number of devices, readings a second and device.
Devices take QoS 1 and 2 in turn. A line for each acknowledgement: "ack <client> <number>"."""
import sys
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

hosts, name, count, rate = sys.argv[1].split(","), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
WINDOW, DEADLINE = 100, 90
out = threading.Lock()


def say(*words):
    with out:
        print(*words, flush=True)


class Client(mqtt.Client):
    """At a second attempt to connect paho 2.2.0 forgets that PUBREL is due, and publishes the message anew."""

    def _messages_reconnect_reset_out(self):
        with self._out_message_mutex:
            due = [m for m in self._out_messages.values() if m.state == mqtt.mqtt_ms_resend_pubrel]
            super()._messages_reconnect_reset_out()
            for m in due:
                m.state = mqtt.mqtt_ms_resend_pubrel


class Device:
    def __init__(self, i):
        self.qos = 1 + i % 2
        self.name, self.sent, self.numbers, self.turn = f"{name}-q{self.qos}-{i}", 0, {}, i
        self.lock = threading.Lock()
        c = self.client = Client(mqtt.CallbackAPIVersion.VERSION2, client_id=self.name, protocol=mqtt.MQTTv5)
        c.reconnect_delay_set(1, 1)
        c.connect_timeout = 1.5
        c.max_inflight_messages_set(20)
        c.on_publish, c.on_connect, c.on_disconnect, c.on_connect_fail = self.published, self.connected, self.next_host, self.next_host
        self.open = False
        self.connect_to(i)

    def connect_to(self, turn):
        lasting = Properties(PacketTypes.CONNECT)
        lasting.SessionExpiryInterval = 3600
        self.client.connect_async(hosts[turn % len(hosts)], 1883, keepalive=2, clean_start=False, properties=lasting)

    # paho sends what is new before what it has to send again when it is told to publish before it has read the CONNACK, or just then. So nothing is
    # published until something was acknowledged: paho's thread sends everything again before it reads that.
    def connected(self, _, __, ___, code, ____):
        print(time.time(), self.name, "connected to", hosts[self.turn % len(hosts)], code, file=sys.stderr)
        with self.lock:
            self.open = not self.numbers

    def next_host(self, *what):
        print(time.time(), self.name, "lost", hosts[self.turn % len(hosts)], *what[3:4], file=sys.stderr)
        with self.lock:
            self.open = False
        self.turn += 1
        self.connect_to(self.turn)  # names the host only; when to connect is paho's affair

    def published(self, _, __, mid, code, ___):
        with self.lock:
            self.open = True
            if mid in self.numbers:
                number = self.numbers.pop(mid)
            else:  # publish has not returned yet
                number, self.numbers[mid] = self.sent, None
        refused = code.is_failure and code.value != 0x92  # "packet identifier not found" answers a PUBREL that comes again after its PUBCOMP was lost
        say("refused" if refused else "ack", self.name, number, *([code] if refused else []))

    def publish(self):
        with self.lock:
            if not self.open or len(self.numbers) >= WINDOW:
                return
        info = self.client.publish(f"site/{self.name}", f"{self.name}:{self.sent}", qos=self.qos)  # without the lock: paho has its own around callbacks
        with self.lock:
            if self.numbers.pop(info.mid, self) is self:
                self.numbers[info.mid] = self.sent
            self.sent += 1


devices = [Device(i) for i in range(count)]
for d in devices:
    d.client.loop_start()
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
while not ended.wait(1 / rate):
    for d in devices:
        d.publish()
deadline = time.monotonic() + DEADLINE
while any(d.numbers for d in devices) and time.monotonic() < deadline:
    time.sleep(0.02)
for d in devices:
    say("sent", d.name, d.sent, len(d.numbers))
    d.client.disconnect()
