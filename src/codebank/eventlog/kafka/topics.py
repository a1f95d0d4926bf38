"""Topics: made as they must be, corrected where that is safe, and refused with the difference where it is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicMetadata,
)

from codebank.errors import Code, CodebankError
from codebank.eventlog.kafka.client import ANSWER_SECONDS, cause_of, connection_of, places_of
from codebank.eventlog.log import PARTITIONS
from codebank.events import DEAD_LETTERS_TOPIC, PAYMENTS_TOPIC, SEARCH_DEAD_LETTERS_TOPIC
from codebank.settings import Settings

Result = TypeVar("Result")

#: Topic → how many partitions it has.
TOPICS: Final = {PAYMENTS_TOPIC: PARTITIONS, DEAD_LETTERS_TOPIC: PARTITIONS, SEARCH_DEAD_LETTERS_TOPIC: 1}
#: How long brokers may take to hear of what others know.
_AGREEMENT_SECONDS: Final = ANSWER_SECONDS * 2


@dataclass(frozen=True, slots=True)
class TopicReport:
    """What was found of a topic, and done about it."""

    topic: str
    partitions: int
    replication: int
    #: `created`, `corrected` or `as it should be`.
    state: str
    #: What was changed, as `name: old → new`.
    changes: tuple[str, ...] = ()


def config_of(settings: Settings) -> dict[str, str]:
    """Say how a topic must be configured: nothing that was acknowledged is ever lost or thrown away."""
    return {
        "min.insync.replicas": str(settings.kafka_min_in_sync),
        "unclean.leader.election.enable": "false",
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
    }


async def prepare_topics(settings: Settings) -> list[TopicReport]:
    """Make every topic, or check it.

    Raises CodebankError where a topic has another number of partitions or replicas: the first would tear accounts
    apart, the second is the operator's to change.
    """
    return await asyncio.to_thread(lambda: _with_admin(_prepare, settings))


async def recreate_topics(settings: Settings) -> None:
    """Throw every topic away, and make it anew."""
    await asyncio.to_thread(lambda: _with_admin(_recreate, settings))


def _with_admin(function: Callable[[AdminClient, Settings], Result], settings: Settings) -> Result:
    try:
        return function(AdminClient(connection_of(settings)), settings)
    except KafkaException as error:
        raise CodebankError(
            Code.UNAVAILABLE,
            f"Kafka at {settings.kafka} does not answer: {cause_of(error).str()}",
            hint="is it running? `make kafka` starts one on this machine",
        ) from error


def _prepare(admin: AdminClient, settings: Settings) -> list[TopicReport]:
    deadline = time.monotonic() + 2 * _AGREEMENT_SECONDS
    made: set[str] = set()
    while True:
        # Brokers hear of a topic's end or beginning at different moments: what one of them lacks is asked for again.
        existing = admin.list_topics(timeout=_AGREEMENT_SECONDS).topics
        missing = [topic for topic in TOPICS if topic not in existing]
        made |= _create(admin, settings, missing)
        if not missing and all(_is_led(existing[topic], TOPICS[topic]) for topic in TOPICS):
            return [_check(admin, settings, topic, created=topic in made) for topic in TOPICS]
        if time.monotonic() > deadline:
            raise CodebankError(Code.UNAVAILABLE, "Kafka's topics have partitions without a leader")
        time.sleep(0.1)


def _create(admin: AdminClient, settings: Settings, topics: list[str]) -> set[str]:
    """Make topics, and tell which of them were not there."""
    if not topics:
        return set()
    config, replication = config_of(settings), settings.kafka_replication
    wanted = [
        NewTopic(topic, num_partitions=TOPICS[topic], replication_factor=replication, config=config) for topic in topics
    ]
    made = set()
    for topic, future in admin.create_topics(wanted).items():
        try:
            future.result()
            made.add(topic)
        except KafkaException as error:
            # Somebody else made it in the same moment: then it is checked like any other.
            if cause_of(error).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    return made


def _is_led(topic: TopicMetadata, partitions: int) -> bool:
    """Tell whether a topic can be used, or has a shape that no waiting mends."""
    places = topic.partitions.values()
    return len(places) not in (0, partitions) or (len(places) > 0 and all(place.leader >= 0 for place in places))


def _check(admin: AdminClient, settings: Settings, topic: str, *, created: bool) -> TopicReport:
    places = _patiently(lambda: places_of(admin.list_topics(topic, timeout=ANSWER_SECONDS), topic))
    replication = len(places[0].replicas)
    wrong = []
    if len(places) != TOPICS[topic]:
        wrong.append(f"{len(places)} partitions instead of {TOPICS[topic]}")
    if replication != settings.kafka_replication:
        wrong.append(f"{replication} replicas instead of {settings.kafka_replication}")
    if wrong:
        raise CodebankError(
            Code.FAILED_PRECONDITION,
            f"topic {topic} has {' and '.join(wrong)}; nothing was changed",
            hint="docs/operations.md says what to do about a topic that somebody else made",
        )
    changes = _correct(admin, topic, config_of(settings))
    state = "created" if created else "corrected" if changes else "as it should be"
    return TopicReport(topic, len(places), replication, state, changes)


def _correct(admin: AdminClient, topic: str, wanted: Mapping[str, str]) -> tuple[str, ...]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    found = _patiently(lambda: admin.describe_configs([resource])[resource].result())
    differing = {name: found[name].value for name, value in wanted.items() if found[name].value != value}
    if differing:
        entries = [ConfigEntry(name, wanted[name], incremental_operation=AlterConfigOpType.SET) for name in differing]
        change = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        _patiently(lambda: admin.incremental_alter_configs([change])[change].result())
    return tuple(f"{name}: {old} → {wanted[name]}" for name, old in differing.items())


def _patiently(ask: Callable[[], Result]) -> Result:
    """Ask again while a broker has not heard of a topic that others know already."""
    deadline = time.monotonic() + _AGREEMENT_SECONDS
    while True:
        try:
            return ask()
        except KafkaException as error:
            if cause_of(error).code() != KafkaError.UNKNOWN_TOPIC_OR_PART or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _recreate(admin: AdminClient, settings: Settings) -> None:
    delete_topics(admin)
    # Not after a look at what is there: a broker that is behind still shows what was deleted.
    _create(admin, settings, list(TOPICS))
    _prepare(admin, settings)


def delete_topics(admin: AdminClient) -> None:
    """Throw away those topics that there are."""
    for future in admin.delete_topics(list(TOPICS)).values():
        try:
            future.result()
        except KafkaException as error:
            if cause_of(error).code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
