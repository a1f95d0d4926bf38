"""What every Kafka client of ours has in common: how it connects, and what its errors mean."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ClusterMetadata, PartitionMetadata

from codebank.eventlog.log import LogUnavailable
from codebank.settings import Settings

log = logging.getLogger(__name__)
_client_log = logging.getLogger(f"{__name__}.librdkafka")

#: A blocking call takes no longer, so that a client can be given up at any moment.
SLICE_SECONDS: Final = 1.0
#: How long one question to the brokers may take.
ANSWER_SECONDS: Final = SLICE_SECONDS * 5
_SAY_AGAIN_SECONDS: Final = 30
#: How long a request to the brokers may take altogether: longer than it takes to choose a new leader.
PATIENCE_SECONDS: Final = 15


def connection_of(settings: Settings) -> dict[str, Any]:
    """Write the settings as librdkafka's properties."""
    named = {
        "bootstrap.servers": settings.kafka,
        "security.protocol": settings.kafka_security_protocol,
        "ssl.ca.location": settings.kafka_ca_file,
        "ssl.certificate.location": settings.kafka_certificate_file,
        "ssl.key.location": settings.kafka_key_file,
        "sasl.mechanisms": settings.kafka_sasl_mechanism,
        "sasl.username": settings.kafka_sasl_username,
        "sasl.password": settings.kafka_sasl_password,
    }
    return {name: value for name, value in named.items() if value} | {
        "allow.auto.create.topics": False,
        # Brokers come and go: look for them more often than a client does by itself.
        "reconnect.backoff.max.ms": 1000,
        "topic.metadata.refresh.interval.ms": 10_000,
        "logger": _client_log,
        "error_cb": _note,
    }


class _SayOnce(logging.Filter):
    """Lets each kind of the client's complaints through now and then: with a broker down, each of them comes always."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind, now = record.getMessage().partition(" ")[0], time.monotonic()
        if now - self._said_at.get(kind, float("-inf")) < _SAY_AGAIN_SECONDS:
            return False
        self._said_at[kind] = now
        return True


_client_log.addFilter(_SayOnce())


def _note(error: KafkaError) -> None:
    log.debug("the Kafka client says: %s", error)


def places_of(metadata: ClusterMetadata, topic: str) -> Mapping[int, PartitionMetadata]:
    """Give a topic's partitions. Raises KafkaException where the brokers do not know them."""
    described = metadata.topics[topic]
    if described.error is not None:
        raise KafkaException(described.error)
    return described.partitions


def cause_of(error: KafkaException) -> KafkaError:
    """Give what the client says of an error."""
    cause = error.args[0]
    return cause if isinstance(cause, KafkaError) else KafkaError(KafkaError._FAIL, str(cause))


def unavailable(error: KafkaException | KafkaError) -> LogUnavailable:
    """Say of an error what a reader of our logs needs."""
    cause = cause_of(error) if isinstance(error, KafkaException) else error
    if cause.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
        return LogUnavailable(f"Kafka: {cause.str()}; `codebank topics` makes the topics")
    return LogUnavailable(f"Kafka: {cause.name()}: {cause.str()}")
