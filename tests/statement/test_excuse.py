"""Gaps: a dead letter excuses its own number and no other, and only until it is replayed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import pytest

from codebank.eventlog.log import NewRecord, partition_of_account
from codebank.events import PAYMENTS_TOPIC, Event
from codebank.settings import Settings
from codebank.statement.applying import SequenceGap
from codebank.statement.dead_letters import Origin, read_dead_letters, replay
from codebank.statement.excuse import NO_EVENT, Excuse, Excuses, number_on_record
from codebank.statement.rebuild import rebuild
from tests.statement.desk import ANA, BIA, Desk, Story, open_desk, record_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def desk(settings: Settings) -> AsyncIterator[Desk]:
    async with open_desk(settings) as made:
        yield made


def a_story(length: int = 9) -> list[Event]:
    story = Story().opened()
    for number in range(2, length + 1):
        story.paid(number * 100)
    return story.events


def torn(event: Event) -> NewRecord:
    """An event whose value was cut off; its headers still tell its number."""
    record = record_of(event)
    return replace(record, value=record.value[:-9])


def nameless(event: Event) -> NewRecord:
    """One of which not even the number can be told."""
    return NewRecord(str(event.account_id).encode(), b"\xff", {"ce_type": event.type})


async def sequence(desk: Desk) -> int:
    return await desk.pool.fetchval("select sequence from account where account_id = $1", ANA) or 0


async def mend(desk: Desk, event: Event) -> None:
    """Let the record that was put aside be readable from now on."""
    record = record_of(event)
    await desk.pool.execute("update dead_letter set value = $1, headers = $2", record.value, dict(record.headers))


async def test_trap_c09_a_record_that_was_put_aside_excuses_no_later_loss(desk: Desk) -> None:
    events = a_story()
    await desk.append(*events[:2], torn(events[2]), events[3])
    await desk.project()
    assert await sequence(desk) == 4

    await desk.append(events[5])  # the fifth was lost

    with pytest.raises(SequenceGap, match="event 6 came after 4"):
        await desk.project()
    assert await sequence(desk) == 4


async def test_trap_c09_of_two_missing_events_both_must_be_on_file(desk: Desk) -> None:
    events = a_story()
    await desk.append(*events[:2], torn(events[2]), events[4])  # the fourth was lost

    with pytest.raises(SequenceGap, match="event 5 came after 2"):
        await desk.project()

    assert await desk.lines() == []


async def test_trap_c09_a_record_without_a_number_excuses_the_one_before_the_next_event_and_no_more(desk: Desk) -> None:
    events = a_story()
    await desk.append(*events[:2], nameless(events[2]), events[3])
    await desk.project()
    assert await sequence(desk) == 4

    await desk.append(events[5])

    with pytest.raises(SequenceGap, match="event 6 came after 4"):
        await desk.project()


@pytest.mark.parametrize("batch_max", [1, 500])
async def test_trap_c09_a_record_that_was_no_event_of_the_account_excuses_nothing_after_the_next(
    desk: Desk, batch_max: int
) -> None:
    events = a_story()
    # Three that say nothing of themselves, and no event is missing behind them.
    await desk.append(*events[:2], *[nameless(events[2])] * 3, events[2], events[4])

    with pytest.raises(SequenceGap, match="event 5 came after 3"):
        await desk.project(batch_max)


async def test_trap_c09_a_record_that_is_delivered_again_excuses_nothing_anew(desk: Desk) -> None:
    events = a_story()
    await desk.append(*events[:2], nameless(events[2]), *events[3:5])
    await desk.project()
    await desk.pool.execute("update position set next_offset = 0")

    await desk.append(events[6])  # the sixth was lost

    with pytest.raises(SequenceGap, match="event 7 came after 5"):
        await desk.project()


@pytest.mark.parametrize("batch_max", [1, 500])
async def test_several_unreadable_records_in_a_row_stop_nobody(desk: Desk, batch_max: int) -> None:
    events = a_story()
    await desk.append(*events[:2], nameless(events[2]), torn(events[3]), nameless(events[4]), *events[5:])

    await desk.project(batch_max)

    assert await sequence(desk) == 9
    assert len(await read_dead_letters(desk.pool)) == 3


async def test_trap_c09_a_record_that_was_replayed_excuses_nothing_any_more(desk: Desk) -> None:
    events = a_story(4)
    await desk.append(*events[:2], torn(events[2]))
    await desk.project()
    await mend(desk, events[2])
    assert [one.outcome for one in await replay(desk.pool, None)] == ["applied"]
    # As if the replayed event had been taken away again, by hand or by a bug.
    await desk.pool.execute("update account set sequence = 2")

    await desk.append(events[3])

    with pytest.raises(SequenceGap, match="event 4 came after 2"):
        await desk.project()


async def test_records_are_replayed_in_the_order_of_their_numbers(desk: Desk) -> None:
    events = a_story(5)
    await desk.append(*events[:2], *map(torn, events[2:4]))
    await desk.project()
    for event in events[2:4]:
        record = record_of(event)
        await desk.pool.execute(
            "update dead_letter set value = $1 where headers ->> 'ce_id' = $2", record.value, str(event.event_id)
        )
    backwards = [dead.origin for dead in reversed(await read_dead_letters(desk.pool))]

    done = await replay(desk.pool, backwards)
    await desk.append(events[4])
    await desk.project()

    assert [(one.origin, one.is_applied) for one in done] == [(origin, True) for origin in reversed(backwards)]
    assert await desk.lines() == [(number, "approved", number * 100) for number in range(2, 6)]
    assert await sequence(desk) == 5


async def test_what_lies_behind_a_replayed_record_still_has_its_place(desk: Desk) -> None:
    events = a_story(6)
    await desk.append(*events[:2], nameless(events[2]), nameless(events[3]))
    await desk.project()
    record = record_of(events[2])
    await desk.pool.execute(
        "update dead_letter set value = $1, headers = $2 where sequence = 3", record.value, dict(record.headers)
    )
    (first, _) = await read_dead_letters(desk.pool)
    assert [one.is_applied for one in await replay(desk.pool, [first.origin])] == [True]

    await desk.append(*events[4:])
    await desk.project()

    assert await sequence(desk) == 6


async def test_trap_c09_replaying_does_not_hide_a_loss_before_it(desk: Desk) -> None:
    events = a_story(4)
    await desk.append(*events[:2], torn(events[3]))  # the third was lost
    await desk.project()
    await mend(desk, events[3])

    (done,) = await replay(desk.pool, None)

    assert done.outcome == "an event of the account is missing before it: 4 would come after 2"
    assert await sequence(desk) == 2


async def test_an_event_under_another_accounts_key_is_put_aside_and_stops_neither(desk: Desk) -> None:
    ana, bia = a_story(3), Story(BIA).opened().paid(50).events
    astray = replace(record_of(bia[1]), key=str(ANA).encode())
    await desk.append(*ana[:2], astray, ana[2], *bia)

    await desk.project()

    (dead,) = await read_dead_letters(desk.pool)
    assert dead.reason == f"event of account {BIA} under another account's key"
    assert dead.origin == Origin(PAYMENTS_TOPIC, partition_of_account(ANA), 2)
    assert len(await desk.lines(ANA)) == 2
    assert await desk.lines(BIA) == [(2, "approved", 50)]
    assert [one.is_applied for one in await replay(desk.pool, None)] == [False]


async def test_trap_c09_another_accounts_event_excuses_nothing_here(desk: Desk) -> None:
    ana, bia = a_story(4), Story(BIA).opened().paid(50).paid(60).events
    astray = replace(record_of(bia[2]), key=str(ANA).encode())
    await desk.append(*ana[:2], astray, ana[3])

    with pytest.raises(SequenceGap, match="event 4 came after 2"):
        await desk.project()


@pytest.mark.parametrize("key", [b"", b"\xff", b"ana", str(ANA).upper().encode(), str(ANA).encode() + b" "])
async def test_an_event_without_its_accounts_key_is_put_aside(desk: Desk, key: bytes) -> None:
    event = Story().opened().events[0]
    await desk.append(replace(record_of(event), key=key))

    await desk.project()

    (dead,) = await read_dead_letters(desk.pool)
    assert (dead.key, dead.reason) == (key, f"event of account {ANA} under another account's key")
    assert await sequence(desk) == 0


async def test_the_release_befores_dead_letters_excuse_the_number_in_their_header(desk: Desk) -> None:
    events = a_story(5)
    await desk.append(*events[:2], torn(events[2]))
    await desk.project()
    await desk.pool.execute("update dead_letter set sequence = null, after_sequence = null")

    await desk.append(events[3])
    await desk.project()

    assert await sequence(desk) == 4


async def test_a_rebuilt_statement_excuses_the_same(desk: Desk) -> None:
    events = a_story()
    await desk.append(*events[:2], nameless(events[2]), torn(events[3]), *events[4:])
    await desk.project()
    columns = "sequence, after_sequence from dead_letter order by sequence"
    before = await desk.pool.fetch(f"select {columns}")

    await rebuild(desk.pool, desk.log, lambda *_: None)

    assert await desk.pool.fetch(f"select {columns}") == before
    assert [tuple(row) for row in before] == [(3, 2), (4, None)]
    assert await sequence(desk) == 9


TELLING = [
    ({"ce_sequence": "7"}, b"\xff", 7),
    ({"ce_sequence": "7", "ce_subject": str(ANA)}, b"", 7),
    ({"ce_sequence": "seven"}, b'{"sequence": 8, "new": []}', 8),
    ({}, json.dumps({"sequence": 9, "account_id": str(ANA)}).encode(), 9),
    ({}, b'{"sequence": "9"}', None),
    ({}, b'{"sequence": -9}', None),
    ({"ce_sequence": "9" * 19}, b'{"sequence": 9999999999999999999}', None),
    ({}, b"", None),
    ({"ce_sequence": "7", "ce_subject": str(BIA)}, b"", NO_EVENT),
    ({"ce_sequence": "7"}, json.dumps({"account_id": str(BIA)}).encode(), NO_EVENT),
]


@pytest.mark.parametrize(("headers", "value", "number"), TELLING)
def test_a_record_tells_its_number_or_does_not(headers: dict[str, str], value: bytes, number: int | None) -> None:
    assert number_on_record(headers, value, ANA) == number


def test_an_untold_number_is_the_one_that_is_due_where_the_record_lies() -> None:
    excuses = Excuses({ANA: [Excuse(4)]})

    assert excuses.add(ANA, None, 3) == Excuse(5, after_sequence=3)
    assert excuses.add(ANA, None, 3) == Excuse(6, after_sequence=3)
    assert excuses.cover(ANA, 3, 7)
    assert not excuses.cover(ANA, 3, 8)
    assert not excuses.cover(ANA, 4, 6)
    assert not excuses.cover(UUID(int=1), 3, 5)
