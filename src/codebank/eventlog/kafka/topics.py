"""Topics: made as they must be, corrected where that is safe, and refused with the difference where it is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

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
from codebank.eventlog.kafka.client import ANSWER_SECONDS, cause_of, connection_of
from codebank.eventlog.log import PARTITIONS
from codebank.events import DEAD_LETTERS_TOPIC, PAYMENTS_TOPIC, SEARCH_DEAD_LETTERS_TOPIC
from codebank.settings import Settings

Result = TypeVar("Result")

#: Topic → how many partitions it has.
TOPICS: Final = {PAYMENTS_TOPIC: PARTITIONS, DEAD_LETTERS_TOPIC: PARTITIONS, SEARCH_DEAD_LETTERS_TOPIC: 1}
#: A dead letter is a record of any topic, which has a megabyte by default, and why it is there.
_LETTER_BYTES: Final = 2 * 1024 * 1024
#: How long brokers may take to hear of what others know.
_AGREEMENT_SECONDS: Final = ANSWER_SECONDS * 2
#: What is said so often in a row, with a pause in between, is believed.
_SAID_ALIKE: Final = 3
_ASK_AGAIN_SECONDS: Final = 0.2


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


def config_of(settings: Settings, topic: str) -> dict[str, str]:
    """Say how a topic must be configured: nothing that was acknowledged is ever lost or thrown away."""
    room = {} if topic == PAYMENTS_TOPIC else {"max.message.bytes": str(_LETTER_BYTES)}
    return room | {
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
    cluster = Cluster(admin, connection_of(settings))
    deadline = time.monotonic() + 2 * _AGREEMENT_SECONDS
    made: set[str] = set()
    while missing := [topic for topic in TOPICS if topic not in (told := cluster.agreed())]:
        made |= _create(admin, settings, missing)
        if time.monotonic() > deadline:
            raise CodebankError(Code.UNAVAILABLE, f"Kafka made {', '.join(missing)} and does not know of it")
    return [_check(admin, settings, topic, told[topic], created=topic in made) for topic in TOPICS]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a broker says of a topic."""

    partitions: int
    replicas: int
    #: Whether each partition has a leader, who can take its records.
    is_led: bool


@dataclass
class Cluster:
    """Brokers, each of which hears of a topic's end or beginning at another moment."""

    admin: AdminClient
    connection: Mapping[str, Any]
    #: Address → a client that speaks to this broker.
    _asked: dict[str, AdminClient] = field(default_factory=dict)

    def agreed(self) -> Mapping[str, Shape]:
        """Give the shapes of our topics that there are, once every broker says the same, again and again."""
        return agreed(self._common_shapes, "Kafka's brokers do not agree on the topics, or partitions have no leader")

    def _common_shapes(self) -> Mapping[str, Shape] | None:
        """Ask each broker once; None where one does not answer, says something else, or still looks for leaders."""
        brokers = self.admin.list_topics(timeout=_AGREEMENT_SECONDS).brokers.values()
        try:
            told = [self._shapes_of(f"{broker.host}:{broker.port}") for broker in brokers]
        except KafkaException:
            return None
        if not told or any(one != told[0] for one in told[1:]):
            return None
        # No waiting mends a wrong shape; a right one that nobody leads will be led.
        waits = any(not shape.is_led and shape.partitions == TOPICS[topic] for topic, shape in told[0].items())
        return None if waits else told[0]

    def _shapes_of(self, address: str) -> Mapping[str, Shape]:
        # A client knows nobody but the broker that it was told of until it needs another: it is that one who answers.
        if address not in self._asked:
            self._asked[address] = AdminClient({**self.connection, "bootstrap.servers": address})
        topics = self._asked[address].list_topics(timeout=ANSWER_SECONDS).topics
        return {topic: _shape(topics[topic]) for topic in TOPICS if topic in topics and topics[topic].partitions}


def _shape(topic: TopicMetadata) -> Shape:
    places = topic.partitions.values()
    replicas = max(len(place.replicas) for place in places)
    return Shape(len(places), replicas, all(place.leader >= 0 for place in places))


def agreed(ask: Callable[[], Result | None], trouble: str, *, seconds: float = 2 * _AGREEMENT_SECONDS) -> Result:
    """Ask until the same was said several times in a row. Raises CodebankError where that does not come about in time.

    None is no answer. The first answers after a change may be of before it, whoever gives them.
    """
    deadline = time.monotonic() + seconds
    last, times = None, 0
    while True:
        said = ask()
        times = times + 1 if said is not None and said == last else 1
        if said is not None and times >= _SAID_ALIKE:
            return said
        last = said
        if time.monotonic() > deadline:
            raise CodebankError(Code.UNAVAILABLE, trouble)
        time.sleep(_ASK_AGAIN_SECONDS)


def _create(admin: AdminClient, settings: Settings, topics: list[str]) -> set[str]:
    """Make topics, and tell which of them were not there."""
    if not topics:
        return set()
    wanted = [
        NewTopic(
            topic,
            num_partitions=TOPICS[topic],
            replication_factor=settings.kafka_replication,
            config=config_of(settings, topic),
        )
        for topic in topics
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


def _check(admin: AdminClient, settings: Settings, topic: str, told: Shape, *, created: bool) -> TopicReport:
    wrong = []
    if told.partitions != TOPICS[topic]:
        wrong.append(f"{told.partitions} partitions instead of {TOPICS[topic]}")
    if told.replicas != settings.kafka_replication:
        wrong.append(f"{told.replicas} replicas instead of {settings.kafka_replication}")
    if wrong:
        raise CodebankError(
            Code.FAILED_PRECONDITION,
            f"topic {topic} has {' and '.join(wrong)}; nothing was changed",
            hint="docs/operations.md says what to do about a topic that somebody else made",
        )
    changes = _correct(admin, topic, config_of(settings, topic))
    state = "created" if created else "corrected" if changes else "as it should be"
    return TopicReport(topic, told.partitions, told.replicas, state, changes)


def _correct(admin: AdminClient, topic: str, wanted: Mapping[str, str]) -> tuple[str, ...]:
    resource = ConfigResource(ResourceType.TOPIC, topic)

    def ask() -> dict[str, str]:
        found = _patiently(lambda: admin.describe_configs([resource])[resource].result())
        return {name: found[name].value for name in wanted}

    found = agreed(ask, f"Kafka's brokers do not agree on the configuration of {topic}")
    differing = {name: found[name] for name, value in wanted.items() if found[name] != value}
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
