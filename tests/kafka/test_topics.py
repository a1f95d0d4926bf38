"""Topics are made as they must be, corrected where that is safe, and refused with the difference where not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from codebank.errors import CodebankError
from codebank.eventlog.kafka.topics import TOPICS, delete_topics, prepare_topics, recreate_topics
from codebank.events import PAYMENTS_TOPIC
from codebank.settings import Settings
from tests.kafka.machine import Machine, until

pytestmark = [pytest.mark.anyio, pytest.mark.kafka, pytest.mark.timeout(90, func_only=True)]


def _wait_until_told(admin: AdminClient, topic: str, partitions: int, replicas: int = 3) -> None:
    def fits() -> bool:
        found = admin.list_topics(timeout=10).topics.get(topic)
        places = found.partitions.values() if found else ()
        return len(places) == partitions and all(len(place.replicas) == replicas for place in places)

    _until_all_say(fits)


def _wait_until_configured(admin: AdminClient, topic: str, **wanted: str) -> None:
    resource = ConfigResource(ResourceType.TOPIC, topic)

    def fits() -> bool:
        found = admin.describe_configs([resource])[resource].result()
        return all(found[name.replace("_", ".")].value == value for name, value in wanted.items())

    _until_all_say(fits)


def _until_all_say(fits: Callable[[], bool]) -> None:
    """Wait until whichever broker is asked knows of a change: they hear of it at different moments."""
    agreed = 0

    def told() -> bool:
        nonlocal agreed
        agreed = agreed + 1 if fits() else 0
        return agreed >= 20

    until(told, 30)


async def test_missing_topics_are_made_and_a_second_time_nothing_is_done(brokers: Machine) -> None:
    admin = AdminClient({"bootstrap.servers": brokers.settings.kafka})
    delete_topics(admin)
    _wait_until_told(admin, PAYMENTS_TOPIC, 0)

    made = await prepare_topics(brokers.settings)
    again = await prepare_topics(brokers.settings)

    assert [(report.topic, report.partitions, report.replication) for report in made] == [
        (topic, partitions, 3) for topic, partitions in TOPICS.items()
    ]
    assert {report.state for report in made} == {"created"}
    assert {(report.state, report.changes) for report in again} == {("as it should be", ())}


async def test_a_configuration_that_loses_events_is_corrected(brokers: Machine) -> None:
    await recreate_topics(brokers.settings)
    admin = AdminClient({"bootstrap.servers": brokers.settings.kafka})
    entries = [
        ConfigEntry("retention.ms", "60000", incremental_operation=AlterConfigOpType.SET),
        ConfigEntry("min.insync.replicas", "1", incremental_operation=AlterConfigOpType.SET),
    ]
    change = ConfigResource(ResourceType.TOPIC, PAYMENTS_TOPIC, incremental_configs=entries)
    for future in admin.incremental_alter_configs([change]).values():
        future.result()
    _wait_until_configured(admin, PAYMENTS_TOPIC, retention_ms="60000", min_insync_replicas="1")

    reports = {report.topic: report for report in await prepare_topics(brokers.settings)}

    assert reports[PAYMENTS_TOPIC].state == "corrected"
    assert set(reports[PAYMENTS_TOPIC].changes) == {"retention.ms: 60000 → -1", "min.insync.replicas: 1 → 2"}
    _wait_until_configured(admin, PAYMENTS_TOPIC, retention_ms="-1", min_insync_replicas="2")
    assert {report.state for report in await prepare_topics(brokers.settings)} == {"as it should be"}


@pytest.mark.parametrize(
    ("partitions", "replicas", "difference"),
    [(6, 3, "6 partitions instead of 12"), (12, 1, "1 replicas instead of 3")],
)
async def test_another_shape_is_refused_with_the_difference(
    brokers: Machine, partitions: int, replicas: int, difference: str
) -> None:
    admin = AdminClient({"bootstrap.servers": brokers.settings.kafka})
    delete_topics(admin)
    for future in admin.create_topics([NewTopic(PAYMENTS_TOPIC, partitions, replicas)]).values():
        future.result()
    _wait_until_told(admin, PAYMENTS_TOPIC, partitions, replicas)

    with pytest.raises(CodebankError, match=difference):
        await prepare_topics(brokers.settings)
    await recreate_topics(brokers.settings)


async def test_without_brokers_the_command_says_how_to_get_some() -> None:
    with pytest.raises(CodebankError, match="make kafka"):
        await prepare_topics(Settings(kafka="127.0.0.1:1"))
