"""Publishes at each QoS and receives it back, then lets a will fire. Arguments: port, protocol (3.1.1 or 5)."""
import queue
import socket
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port, v5 = int(sys.argv[1]), sys.argv[2] == "5"
WAIT = 30


def client(name):
    c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311)
    c.inbox, c.ready = queue.Queue(), queue.Queue()
    c.on_message = lambda c, _, m: c.inbox.put(m)
    c.on_subscribe = lambda c, _, mid, codes, props: c.ready.put(codes)
    return c


def connect(c):
    c.connect("127.0.0.1", port)
    c.loop_start()


sub = client("paho-sub")
connect(sub)
sub.subscribe("t/#", qos=2)
codes = sub.ready.get(timeout=WAIT)
assert [c.value for c in codes] == [2], codes

pub = client("paho-pub")
connect(pub)
for qos in (0, 1, 2):
    props = None
    if v5:
        props = Properties(PacketTypes.PUBLISH)
        props.UserProperty = [("unit", "bar")]
        props.ContentType = "text/plain"
        props.ResponseTopic = "replies"
        props.CorrelationData = b"42"
    info = pub.publish(f"t/{qos}", f"payload {qos}", qos=qos, properties=props)
    info.wait_for_publish(WAIT)
    assert info.is_published(), f"QoS {qos} was not acknowledged"
    m = sub.inbox.get(timeout=WAIT)
    assert (m.topic, m.payload, m.qos) == (f"t/{qos}", f"payload {qos}".encode(), qos), (m.topic, m.payload, m.qos)
    if v5:
        assert ("unit", "bar") in m.properties.UserProperty, m.properties
        assert (m.properties.ContentType, m.properties.ResponseTopic, m.properties.CorrelationData) == ("text/plain", "replies", b"42"), m.properties

dying = client("paho-dying")
dying.will_set("t/will", "gone", qos=1)
connect(dying)
while not dying.is_connected():
    pass
dying.socket().shutdown(socket.SHUT_RDWR)  # no DISCONNECT: the will must be published
dying.loop_stop()
m = sub.inbox.get(timeout=WAIT)
assert (m.topic, m.payload) == ("t/will", b"gone"), (m.topic, m.payload)
for c in (sub, pub):
    c.disconnect()
    c.loop_stop()
print("all done")
