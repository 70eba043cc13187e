"""Lists topics over SASL SCRAM. Arguments: bootstrap user password."""
import sys

from confluent_kafka.admin import AdminClient

bootstrap, user, password = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": bootstrap, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-512",
                     "sasl.username": user, "sasl.password": password})
if len(admin.list_topics(timeout=20).brokers) != 1:
    sys.exit("no broker")
