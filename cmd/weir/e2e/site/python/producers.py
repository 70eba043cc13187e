"""Idempotent Kafka producers, one for each partition of a topic, that produce until standard input ends, then wait for what is not acknowledged.
Arguments: bootstrap, topic, number of partitions, name, records a second and producer.
A line for each acknowledgement: "ack <producer> <number> <partition> <offset>"."""
import sys
import threading

from confluent_kafka import Producer

bootstrap, topic, partitions, name, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], float(sys.argv[5])
WINDOW, DEADLINE = 200, 90
ended = threading.Event()


class Stream:
    def __init__(self, partition):
        self.name, self.partition, self.sent, self.open = f"{name}-k-{partition}", partition, 0, 0
        self.producer = Producer({
            "bootstrap.servers": bootstrap, "enable.idempotence": True, "acks": "all", "linger.ms": 5, "message.timeout.ms": 120000,
            "socket.timeout.ms": 3000, "request.timeout.ms": 3000, "reconnect.backoff.max.ms": 500, "socket.connection.setup.timeout.ms": 1500,
            "error_cb": self.error})

    def error(self, e):
        if e.fatal():
            print("fatal", self.name, e, flush=True)

    def produced(self, number):
        def heard(err, m):
            self.open -= 1
            if err:
                print("refused", self.name, number, err, flush=True)
            else:
                print("ack", self.name, number, m.partition(), m.offset(), flush=True)
        return heard

    def produce(self):
        if self.open >= WINDOW:
            return
        self.producer.produce(topic, f"{self.name}:{self.sent}", partition=self.partition, on_delivery=self.produced(self.sent))
        self.open += 1
        self.sent += 1


streams = [Stream(i) for i in range(partitions)]
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
while not ended.wait(1 / rate):
    for s in streams:
        s.produce()
        s.producer.poll(0)
for s in streams:
    left = s.producer.flush(DEADLINE)
    print("sent", s.name, s.sent, left, flush=True)
