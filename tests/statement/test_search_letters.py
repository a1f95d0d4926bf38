"""Letters of the search: one for each record however often it was put aside, counted, and decided on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from codebank.errors import CodebankError
from codebank.eventlog.log import NewRecord
from codebank.events import PAYMENTS_TOPIC, SEARCH_DEAD_LETTERS_TOPIC
from codebank.operate.dead_letters import dismiss_dead_letters, listed_dead_letters, replay_dead_letters
from codebank.settings import Settings
from codebank.statement.dead_letters import Origin, read_dead_letters, replay
from codebank.statement.rebuild import rebuild
from codebank.statement.search_letters import gather_search_letters, read_search_letters, settle_replayed
from tests.statement.desk import ANA, Desk, Story, open_desk

pytestmark = pytest.mark.anyio


@pytest.fixture
async def desk(settings: Settings) -> AsyncIterator[Desk]:
    async with open_desk(settings) as made:
        await made.log.pool.execute("insert into topic (topic, partitions) values ($1, 12)", SEARCH_DEAD_LETTERS_TOPIC)
        await make_topic(made)
        yield made
        await made.log.pool.execute("delete from partition_end where topic = $1", SEARCH_DEAD_LETTERS_TOPIC)
        await made.log.pool.execute("delete from topic where topic = $1", SEARCH_DEAD_LETTERS_TOPIC)


async def make_topic(desk: Desk) -> None:
    """Make the topic, or make it anew: nothing is on it."""
    await desk.log.pool.execute("delete from record where topic = $1", SEARCH_DEAD_LETTERS_TOPIC)
    await desk.log.pool.execute("delete from partition_end where topic = $1", SEARCH_DEAD_LETTERS_TOPIC)
    await desk.log.pool.execute(
        "insert into partition_end (topic, partition, next_offset)"
        " select $1, number, 0 from generate_series(0, 11) as number",
        SEARCH_DEAD_LETTERS_TOPIC,
    )


async def refuse(desk: Desk, offset: int, reason: str = "no JSON", **headers: str) -> None:
    """Put a record aside as Kafka Connect does."""
    origin = {
        "__connect.errors.topic": PAYMENTS_TOPIC, "__connect.errors.partition": "3",
        "__connect.errors.offset": str(offset), "__connect.errors.exception.message": reason,
    }  # fmt: skip
    writer = await desk.log.open_writer(SEARCH_DEAD_LETTERS_TOPIC)
    await writer.append([NewRecord(b"key", b"\xff value", {**origin, **headers})])


async def counts(desk: Desk) -> tuple[float | None, float | None, float | None]:
    await desk.projector()._report_letters()
    names = ("dead_letters_waiting", "search_dead_letters_waiting", "dead_letters_dismissed")
    found = [desk.telemetry.registry.get_sample_value(f"codebank_{name}") for name in names]
    return found[0], found[1], found[2]


async def test_a_record_is_one_letter_however_often_it_was_put_aside(desk: Desk) -> None:
    await refuse(desk, 17)
    await refuse(desk, 17, "no JSON still")
    await refuse(desk, 18)

    assert await counts(desk) == (0, 2, 0)
    letters = {dead.origin: dead.reason for dead in await read_search_letters(desk.pool)}
    assert letters == {
        Origin(PAYMENTS_TOPIC, 3, 17): "no JSON still", Origin(PAYMENTS_TOPIC, 3, 18): "no JSON",
    }  # fmt: skip


async def test_a_letter_that_comes_again_after_its_replay_was_not_applied(desk: Desk) -> None:
    await refuse(desk, 17)
    await gather_search_letters(desk.pool, desk.log)
    (before,) = await read_search_letters(desk.pool)

    # The connector went back to it, and could not read it.
    await refuse(desk, 17, "no JSON still")
    await gather_search_letters(desk.pool, desk.log)
    assert await settle_replayed(desk.pool, [before]) == {before.origin: "no JSON still"}
    assert await counts(desk) == (0, 1, 0)

    # It went back once more, and could.
    (again,) = await read_search_letters(desk.pool)
    assert await settle_replayed(desk.pool, [again]) == {again.origin: "applied"}
    assert await counts(desk) == (0, 0, 0)

    # Somebody rewound it later, to a program that cannot.
    await refuse(desk, 17)
    assert await counts(desk) == (0, 1, 0)


async def test_what_is_no_letter_is_passed_over_and_a_topic_made_anew_is_read_from_its_beginning(desk: Desk) -> None:
    await refuse(desk, 17)
    await refuse(desk, 2**80)
    await refuse(desk, 18, **{"__connect.errors.partition": "not a number"})
    assert await counts(desk) == (0, 1, 0)

    await make_topic(desk)
    await refuse(desk, 19)

    assert await counts(desk) == (0, 2, 0)
    assert await counts(desk) == (0, 2, 0)


async def test_letters_are_dismissed_with_a_reason_kept_counted_shown_and_still_excuse_their_number(
    desk: Desk, settings: Settings
) -> None:
    story = Story().opened().paid(1000).paid(-5).paid(700)
    await desk.append(*story.events)
    await desk.project()
    (dead,) = await read_dead_letters(desk.pool)
    await refuse(desk, 17)
    assert await counts(desk) == (1, 1, 0)

    dismissed = await dismiss_dead_letters(
        settings, [str(dead.origin), f"{PAYMENTS_TOPIC}/3/17"], "an amount that nobody charged"
    )

    assert dismissed == 2
    assert await counts(desk) == (0, 0, 2)
    listed = await listed_dead_letters(settings)
    assert {one["dismissed_because"] for one in listed} == {"an amount that nobody charged"}
    assert all(one["dismissed_at"] for one in listed)
    # It is not tried again by itself; by name it is.
    assert await replay_dead_letters(settings, []) == []
    (tried,) = await replay(desk.pool, [dead.origin])
    assert not tried.is_applied
    # What was put aside again is dismissed still, and so is what a rebuild meets again.
    await refuse(desk, 17)
    await rebuild(desk.pool, desk.log, lambda *_: None)
    assert await counts(desk) == (0, 0, 2)
    assert await desk.lines(ANA) == [(2, "approved", 1000), (4, "approved", 700)]


@pytest.mark.parametrize(("names", "because", "why"), [
    (["codebank.payments/3/17"], "  ", "a reason has"), (["codebank.payments/3/17"], "a\nb", "a reason has"),
    (["codebank.payments/3/17"], "x" * 301, "a reason has"), ([], "why not", "by their origin"),
    (["nonsense"], "why not", "is written as"), (["codebank.payments/3/18"], "why not", "nothing was put aside"),
])  # fmt: skip
async def test_nothing_is_dismissed_without_a_name_and_a_reason(
    desk: Desk, settings: Settings, names: list[str], because: str, why: str
) -> None:
    await refuse(desk, 17)

    with pytest.raises(CodebankError, match=why):
        await dismiss_dead_letters(settings, names, because)

    assert await counts(desk) == (0, 1, 0)
