"""Records that nobody could read: put aside with everything, on their topic once, and read again when mended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from codebank.eventlog.log import LogUnavailable, NewRecord, partition_of
from codebank.events import DEAD_LETTERS_TOPIC, PAYMENTS_TOPIC
from codebank.settings import Settings
from codebank.statement.dead_letters import (
    DeadLetter,
    Origin,
    dead_letter_of,
    read_dead_letters,
    replay,
    ship_dead_letters,
)
from codebank.wire import decode_event
from tests.statement.desk import ANA, Desk, Story, open_desk, record_of

pytestmark = pytest.mark.anyio
PARTITION = partition_of(str(ANA).encode())


@pytest.fixture
async def desk(settings: Settings) -> AsyncIterator[Desk]:
    async with open_desk(settings) as made:
        yield made


async def on_topic(desk: Desk) -> list[DeadLetter]:
    found = []
    for partition, end in (await desk.log.ends(DEAD_LETTERS_TOPIC)).items():
        if end:
            found += await desk.log.scan(DEAD_LETTERS_TOPIC, partition, 0, 1000)
    dead_letters = [dead_letter_of(record) for record in found]
    assert None not in dead_letters
    return [dead for dead in dead_letters if dead is not None]


async def test_a_dead_letter_is_on_its_topic_with_reason_and_origin_and_every_byte(desk: Desk) -> None:
    story = Story().opened()
    poison = NewRecord(str(ANA).encode(), b"\xff not json", {"ce_type": "codebank.payment.approved", "x": "\x01"})
    await desk.append(*story.events, poison)
    await desk.project()

    assert await ship_dead_letters(desk.pool, desk.log) == 1

    (dead,) = await on_topic(desk)
    assert dead.origin == Origin(PAYMENTS_TOPIC, PARTITION, 1)
    assert "value does not fit codebank.payment.approved" in dead.reason
    assert (dead.reader, dead.key, dead.value) == ("statement", poison.key, poison.value)
    assert dead.headers == poison.headers


async def test_each_is_shipped_once_whatever_dies_in_between(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.append(*Story().opened().events, NewRecord(b"?", b"?", {}))
    await desk.project()

    async def die(*_arguments: object) -> None:
        raise LogUnavailable("died after it was shipped")

    with monkeypatch.context() as patch:
        patch.setattr("codebank.statement.store.dead_letters.mark_shipped", die)
        for _ in range(3):
            with contextlib.suppress(LogUnavailable):
                await ship_dead_letters(desk.pool, desk.log)
    assert await ship_dead_letters(desk.pool, desk.log) == 1
    assert await ship_dead_letters(desk.pool, desk.log) == 0

    assert len(await on_topic(desk)) == 1


async def test_two_projectors_ship_a_dead_letter_once(desk: Desk) -> None:
    await desk.append(*[NewRecord(b"?", bytes([number]), {}) for number in range(20)])
    await desk.project()

    await asyncio.gather(*(ship_dead_letters(desk.pool, desk.log) for _ in range(4)))

    assert sorted(dead.value for dead in await on_topic(desk)) == [bytes([number]) for number in range(20)]


async def test_a_running_projector_ships_by_itself(desk: Desk) -> None:
    await desk.append(*Story().opened().events, NewRecord(b"?", b"?", {}))
    stop = asyncio.Event()
    running = asyncio.create_task(desk.projector().run(stop))
    async with asyncio.timeout(10):
        while not await on_topic(desk):
            await asyncio.sleep(0.02)
    stop.set()
    await running


async def test_replaying_what_still_cannot_be_read_says_why(desk: Desk) -> None:
    await desk.append(NewRecord(b"?", b"?", {"ce_type": "codebank.payment.imagined"}))
    await desk.project()

    (done,) = await replay(desk.pool, None)

    assert not done.is_applied
    assert "does not fit codebank.payment.imagined" in done.outcome
    assert [dead.replayed_at for dead in await read_dead_letters(desk.pool)] == [None]
    with pytest.raises(LookupError, match=r"codebank\.payments/3/77"):
        await replay(desk.pool, [Origin.parse("codebank.payments/3/77")])


async def test_a_record_that_can_be_read_now_is_applied_behind_its_followers(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An older program did not know the second event's type; the payment was given back before it was mended.
    story = Story().opened().paid(1_000)
    story.returned(2, 1_000)
    await desk.append(*story.events)
    broken = story.events[1].event_id

    def older(headers: dict[str, str], value: bytes, key: bytes) -> object:
        if headers["ce_id"] == str(broken):
            return decode_event({**headers, "ce_type": "codebank.payment.unknown-then"}, value, key)
        return decode_event(headers, value, key)

    with monkeypatch.context() as patch:
        patch.setattr("codebank.statement.applying.decode_event", older)
        await desk.project()
    account = await desk.pool.fetchrow("select sequence, used_minor from account where account_id = $1", ANA)

    done = await replay(desk.pool, None)

    assert [one.outcome for one in done] == ["applied"]
    assert await desk.lines() == [(2, "refunded", 1_000)]
    assert await desk.pool.fetchrow("select sequence, used_minor from account where account_id = $1", ANA) == account
    assert await replay(desk.pool, None) == []


async def test_kafka_connects_own_dead_letters_are_understood(desk: Desk) -> None:
    headers = {
        "__connect.errors.topic": PAYMENTS_TOPIC, "__connect.errors.partition": "3", "__connect.errors.offset": "17",
        "__connect.errors.exception.message": "no JSON", "ce_id": "x",
    }  # fmt: skip
    await (await desk.log.open_writer(DEAD_LETTERS_TOPIC)).append([NewRecord(b"k", b"v", headers)])
    (dead,) = await on_topic(desk)

    assert replace(dead, at=dead.at) == DeadLetter(
        Origin(PAYMENTS_TOPIC, 3, 17), "search", "no JSON", b"k", b"v", {"ce_id": "x"}, dead.at
    )


async def test_what_lies_on_the_topic_and_is_no_dead_letter_is_passed_over(desk: Desk) -> None:
    await desk.append(record_of(Story().opened().events[0]))
    (record,) = await desk.log.scan(PAYMENTS_TOPIC, PARTITION, 0, 1)

    assert dead_letter_of(record) is None
