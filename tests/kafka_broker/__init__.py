"""A real broker for the tests and for `make kafka`: Apache Kafka itself, from its jars."""

from tests.kafka_broker.broker import SCRAM_PASSWORD, SCRAM_USER, KafkaBroker
from tests.kafka_broker.installation import CannotRun, installed

__all__ = ["SCRAM_PASSWORD", "SCRAM_USER", "CannotRun", "KafkaBroker", "installed"]
