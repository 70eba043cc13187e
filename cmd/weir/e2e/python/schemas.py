"""Serializers of confluent-kafka against a schema registry, and MQTT devices that know nothing of one.

schemas.py register REGISTRY                    the schemas of the routes; prints their ids
schemas.py round-trip REGISTRY BOOTSTRAP COUNT  records through each serializer and back through its deserializer
schemas.py publish HOST PORT FORMAT FIRST COUNT bare payloads over MQTT, QoS 1, and one that does not fit; prints what was acknowledged
schemas.py read REGISTRY BOOTSTRAP FORMAT COUNT what the devices published, through the deserializer
"""
import io
import json
import sys
import threading

import fastavro
import paho.mqtt.client as mqtt
from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

AVRO = {"type": "record", "name": "Vibration", "namespace": "plants", "fields": [
    {"name": "seq", "type": "long"}, {"name": "rms", "type": "double"}, {"name": "note", "type": ["null", "string"], "default": None}]}
JSON = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Vibration", "type": "object", "required": ["seq", "rms"],
        "properties": {"seq": {"type": "integer"}, "rms": {"type": "number"}, "note": {"type": ["null", "string"]}}, "additionalProperties": False}
PROTOBUF = """syntax = "proto3";
package plants;
message Vibration {
  int64 seq = 1;
  double rms = 2;
  string note = 3;
}
"""


def vibration_class():
    """The class that protoc would have made of PROTOBUF."""
    file = descriptor_pb2.FileDescriptorProto(name="vibration.proto", package="plants", syntax="proto3")
    message = file.message_type.add(name="Vibration")
    field = descriptor_pb2.FieldDescriptorProto
    for number, (name, kind) in enumerate([("seq", field.TYPE_INT64), ("rms", field.TYPE_DOUBLE), ("note", field.TYPE_STRING)], 1):
        message.field.add(name=name, number=number, type=kind, label=field.LABEL_OPTIONAL, json_name=name)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("plants.Vibration"))


Vibration = vibration_class()


def value(seq):
    return {"seq": seq, "rms": seq / 4, "note": f"läuft {seq}"}


def to_dict(v):
    return {"seq": v.seq, "rms": v.rms, "note": v.note} if isinstance(v, Vibration) else v


def serializers(registry):
    return {
        "avro": AvroSerializer(registry, json.dumps(AVRO)),
        "json": JSONSerializer(json.dumps(JSON), registry),
        "protobuf": ProtobufSerializer(Vibration, registry, {"use.deprecated.format": False}),
    }


def deserializer(registry, form):
    return {
        "avro": lambda: AvroDeserializer(registry),
        "json": lambda: JSONDeserializer(None, schema_registry_client=registry),
        # With a registry it asks for the file's descriptor instead of its text, which Apicurio has only of schemas that were registered so.
        "protobuf": lambda: ProtobufDeserializer(Vibration, {"use.deprecated.format": False}),
    }[form]()


def read(registry, bootstrap, topic, form, count):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"read-{topic}-{form}", "auto.offset.reset": "earliest", "enable.auto.commit": False})
    consumer.subscribe([topic])
    decode, seen = deserializer(registry, form), []
    while len(seen) < count:
        message = consumer.poll(60)
        if message is None:
            raise SystemExit(f"{topic}: {len(seen)} of {count} records within a minute")
        if message.error():
            raise SystemExit(f"{topic}: {message.error()}")
        seen.append(to_dict(decode(message.value(), SerializationContext(topic, MessageField.VALUE))))
    consumer.close()
    return sorted(seen, key=lambda v: v["seq"])


def register(url):
    registry = SchemaRegistryClient({"url": url})
    for form, text in {"avro": json.dumps(AVRO), "json": json.dumps(JSON), "protobuf": PROTOBUF}.items():
        print(form, registry.register_schema(f"vibration-{form}", Schema(text, form.upper())))


def round_trip(url, bootstrap, count):
    registry, count = SchemaRegistryClient({"url": url}), int(count)
    producer = Producer({"bootstrap.servers": bootstrap})
    for form, encode in serializers(registry).items():
        topic = f"serialized-{form}"
        for seq in range(count):
            v = Vibration(**value(seq)) if form == "protobuf" else value(seq)
            producer.produce(topic, encode(v, SerializationContext(topic, MessageField.VALUE)))
        producer.flush()
        if read(registry, bootstrap, topic, form, count) != [value(seq) for seq in range(count)]:
            raise SystemExit(f"{form}: not what was written")
        print("round trip", form)


def bare(form, seq):
    if form == "json":
        return json.dumps(value(seq)).encode()
    if form == "protobuf":
        return Vibration(**value(seq)).SerializeToString()
    out = io.BytesIO()
    fastavro.schemaless_writer(out, AVRO, value(seq))
    return out.getvalue()


def publish(host, port, form, first, count):
    first, count = int(first), int(count)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"device-{form}", protocol=mqtt.MQTTv5)
    reasons, done = {}, threading.Event()

    def on_publish(client, userdata, mid, reason, properties):
        reasons[mid] = str(reason)
        if len(reasons) == count + 1:
            done.set()

    client.on_publish = on_publish
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect(host, int(port))
    client.loop_start()
    if not connected.wait(60):
        raise SystemExit("not connected within a minute")
    for seq in range(first, first + count):
        client.publish(f"vibration/{form}", bare(form, seq), qos=1)
    bad = client.publish(f"vibration/{form}", b"\xff\xff\xff", qos=1)
    if not done.wait(120):
        raise SystemExit(f"{len(reasons)} of {count + 1} publishes were answered within two minutes: {reasons}")
    client.disconnect()
    client.loop_stop()
    print("published", sum(r == "Success" for r in reasons.values()), "and the bad one was answered", reasons[bad.mid])


def read_devices(url, bootstrap, form, count):
    count = int(count)
    seen = read(SchemaRegistryClient({"url": url}), bootstrap, f"vibration-{form}", form, count)
    if seen != [value(seq) for seq in range(count)]:
        raise SystemExit(f"{form}: not what the devices published: {seen}")
    print("read", form, len(seen))


if __name__ == "__main__":
    {"register": register, "round-trip": round_trip, "publish": publish, "read": read_devices}[sys.argv[1]](*sys.argv[2:])
