"""What every Kafka client of ours has in common: how it connects, and how its blocking calls meet the event loop."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ClusterMetadata, PartitionMetadata

from codebank.eventlog.log import LogUnavailable
from codebank.settings import Settings

log = logging.getLogger(__name__)
_client_log = logging.getLogger(f"{__name__}.librdkafka")
Result = TypeVar("Result")

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


class Lane:
    """The one thread on which a client is used; calls come one after another."""

    def __init__(self, name: str) -> None:
        self.is_closed = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"kafka-{name}")

    async def run(self, function: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """Carry a blocking call out. Raises LogUnavailable for whatever the brokers or the client say."""
        try:
            return await self.try_run(function, *arguments, **named)
        except KafkaException as error:
            raise unavailable(error) from error

    async def try_run(self, function: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """Carry a blocking call out, and let the client's own errors through."""
        call = functools.partial(function, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def run_patiently(self, function: Callable[[float], Result]) -> Result:
        """Carry out a call that may be repeated, in slices, until it is done or patience ends."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            try:
                return await self.try_run(function, SLICE_SECONDS)
            except KafkaException as error:
                if not cause_of(error).retriable() or asyncio.get_running_loop().time() > deadline:
                    raise

    def close(self) -> None:
        """Let the thread end when its last call is over."""
        self.is_closed = True
        self._executor.shutdown(wait=False)


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
