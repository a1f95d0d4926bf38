"""The bank's one lane: gathers, answers in order, disturbs nobody, and answers what it took before it stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import asyncpg
import pytest
from msgspec.structs import replace

from codebank.bank.batch import Batcher, Ended
from codebank.bank.executor import Held, Result
from codebank.bank.operation import Authorize, Key, Operation, PaymentAnswer
from codebank.errors import Code, CodebankError
from codebank.roles import METRICS
from codebank.runtime.process import background
from codebank.runtime.watch.telemetry import Telemetry
from codebank.wire import new_id
from tests.bank.payment.test_authorize import CHARGE, SHOP, charged

pytestmark = pytest.mark.anyio


def charges(*names: str) -> list[Authorize]:
    return [replace(CHARGE, payment_id=new_id(), key=Key(SHOP.merchant_id, name, bytes(32))) for name in names]


def name_of(operation: Operation) -> str:
    assert operation.key is not None
    return operation.key.name


@dataclass
class Lane:
    """What stands behind the lane: answers by the rules, waits at a gate, and fails where told to."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    batches: list[list[str]] = field(default_factory=list)
    #: What carrying out a batch raises that has this key in it.
    failures: dict[str, Exception] = field(default_factory=dict)

    #: Keys whose account somebody else holds, and batches of what was tried again.
    held: set[str] = field(default_factory=set)
    tried_again: list[list[str]] = field(default_factory=list)

    async def carry_out(self, operations: Sequence[Operation]) -> list[Result]:
        self.batches.append([name_of(one) for one in operations])
        await self.gate.wait()
        for one in operations:
            if name_of(one) in self.failures:
                raise self.failures[name_of(one)]
        return [self._answer(one) for one in operations]

    async def carry_out_held(self, operations: Sequence[Operation]) -> list[Result]:
        self.tried_again.append([name_of(one) for one in operations])
        return [self._answer(one) for one in operations]

    def _answer(self, operation: Operation) -> Result:
        assert isinstance(operation, Authorize)
        return Held.HELD if name_of(operation) in self.held else charged(operation=operation).answer


@contextlib.asynccontextmanager
async def running(lane: Lane, batch_size_max: int = 512, queue_size_max: int = 8192) -> AsyncIterator[Batcher]:
    batcher = Batcher(lane, Telemetry(METRICS), batch_size_max, queue_size_max)
    # A lane that dies would leave its callers waiting.
    async with asyncio.timeout(10), background(batcher.run(), batcher.run_aside()):
        yield batcher
        lane.gate.set()
        batcher.close()
        await batcher.ended.wait()


def submit(batcher: Batcher, *keys: str, seconds: float | None = None) -> asyncio.Task[list[Ended]]:
    return asyncio.create_task(batcher.submit(charges(*keys), seconds))


async def reached(lane: Lane, count: int) -> None:
    async with asyncio.timeout(5):
        while len(lane.batches) < count:
            await asyncio.sleep(0)


def keys_of(results: Sequence[Ended]) -> list[str]:
    return [result.key_name for result in results if isinstance(result, PaymentAnswer)]


async def test_a_charge_that_finds_the_lane_free_goes_at_once_and_the_others_together() -> None:
    lane = Lane()
    async with running(lane) as batcher:
        first = submit(batcher, "a")
        await reached(lane, 1)
        others = [submit(batcher, "b"), submit(batcher, "c", "d"), submit(batcher, "e")]
        await asyncio.sleep(0)
        lane.gate.set()

        answers = await asyncio.gather(first, *others)

    assert lane.batches == [["a"], ["b", "c", "d", "e"]]
    assert [keys_of(answer) for answer in answers] == [["a"], ["b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize("gather_seconds", [0.3, 60])
async def test_a_lane_under_load_lets_more_arrive_and_waits_for_a_handful_only_until_they_are_back(
    monkeypatch: pytest.MonkeyPatch, gather_seconds: float
) -> None:
    monkeypatch.setattr("codebank.bank.batch._GATHER_SECONDS", gather_seconds)
    lane = Lane()
    async with running(lane) as batcher:
        first = submit(batcher, "a")
        await reached(lane, 1)
        others = [submit(batcher, name) for name in "bcd"]
        await asyncio.sleep(0)
        lane.gate.set()
        await first
        late = submit(batcher, "e")
        await asyncio.gather(*others, late)

    assert lane.batches == [["a"], ["b", "c", "d", "e"]]


async def test_a_lane_that_saw_many_callers_waits_whole_for_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codebank.bank.batch._GATHER_SECONDS", 0.3)
    lane = Lane()
    async with running(lane) as batcher:
        many = [submit(batcher, f"a{number}") for number in range(12)]
        await reached(lane, 1)
        few = [submit(batcher, name) for name in "bcd"]
        await asyncio.sleep(0)
        lane.gate.set()
        await asyncio.gather(*many)
        lane.gate.clear()
        await reached(lane, 2)
        others = [submit(batcher, name) for name in "efg"]
        await asyncio.sleep(0)
        lane.gate.set()
        await asyncio.gather(*few)
        late = []
        for name in "hijk":
            late.append(submit(batcher, name))
            await asyncio.sleep(0)
        await asyncio.gather(*others, *late)

    assert [len(batch) for batch in lane.batches] == [12, 3, 7]


@pytest.mark.parametrize("count", [1, 2, 32, 40])
async def test_a_lane_waits_for_no_more_where_there_are_few_or_enough(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr("codebank.bank.batch._GATHER_SECONDS", 60)
    lane = Lane()
    async with running(lane) as batcher:
        first = submit(batcher, "a")
        await reached(lane, 1)
        others = [submit(batcher, f"b{number}") for number in range(count)]
        await asyncio.sleep(0)
        lane.gate.set()
        await asyncio.gather(first, *others)

    assert [len(batch) for batch in lane.batches] == [1, count]


async def test_a_batch_is_no_larger_than_its_bound_and_a_message_stays_whole() -> None:
    lane = Lane()
    async with running(lane, batch_size_max=3) as batcher:
        tasks = [submit(batcher, "a")]
        await reached(lane, 1)
        tasks += [submit(batcher, "b", "c"), submit(batcher, "d", "e"), submit(batcher, "f")]
        tasks.append(submit(batcher, "g", "h", "i", "j"))
        await asyncio.sleep(0)
        lane.gate.set()
        await asyncio.gather(*tasks)

    assert lane.batches == [["a"], ["b", "c"], ["d", "e", "f"], ["g", "h", "i", "j"]]


async def test_a_full_queue_refuses_and_takes_again_when_it_has_room() -> None:
    lane = Lane()
    async with running(lane, queue_size_max=2) as batcher:
        tasks = [submit(batcher, "a")]
        await reached(lane, 1)
        tasks += [submit(batcher, "b"), submit(batcher, "c")]
        await asyncio.sleep(0)

        with pytest.raises(CodebankError) as caught:
            await batcher.submit(charges("d"), None)
        lane.gate.set()
        await asyncio.gather(*tasks)

        assert (caught.value.code, caught.value.retry_after_seconds) == (Code.TOO_MANY, 1)
        assert keys_of(await batcher.submit(charges("d"), None)) == ["d"]


async def test_one_that_fails_does_not_harm_its_neighbours() -> None:
    lane = Lane(failures={"bad": ZeroDivisionError("a driver's words")})
    async with running(lane) as batcher:
        first = submit(batcher, "a")
        await reached(lane, 1)
        others = [submit(batcher, "b"), submit(batcher, "bad"), submit(batcher, "c")]
        await asyncio.sleep(0)
        lane.gate.set()
        await first

        b, bad, c = await asyncio.gather(*others)

    assert (keys_of(b), keys_of(c)) == (["b"], ["c"])
    assert isinstance(bad[0], CodebankError)
    assert bad[0].code is Code.INTERNAL
    assert "driver" not in str(bad[0])


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), asyncpg.AdminShutdownError(), TimeoutError(), asyncpg.InternalClientError()]
)
async def test_without_its_database_the_bank_is_unavailable_and_says_to_repeat(error: Exception) -> None:
    lane = Lane(failures={"a": error})
    async with running(lane) as batcher:
        lane.gate.set()
        result = (await batcher.submit(charges("a"), None))[0]

    assert isinstance(result, CodebankError)
    assert result.code is Code.UNAVAILABLE
    assert "same idempotency key" in result.hint
    assert lane.batches == [["a"]]


async def test_one_whose_deadline_passes_before_its_batch_begins_is_not_carried_out() -> None:
    lane = Lane()
    async with running(lane) as batcher:
        first = submit(batcher, "a")
        await reached(lane, 1)
        late, patient = submit(batcher, "late", seconds=0), submit(batcher, "patient", seconds=60)
        await asyncio.sleep(0)
        lane.gate.set()
        await first

        refused, answered = (await late)[0], await patient

    assert isinstance(refused, CodebankError)
    assert refused.code is Code.DEADLINE
    assert keys_of(answered) == ["patient"]
    assert "late" not in [key for batch in lane.batches for key in batch]


async def test_trap_b08_one_that_gives_up_before_its_batch_begins_is_not_carried_out() -> None:
    lane = Lane()
    async with running(lane) as batcher:
        first = submit(batcher, "a")
        await reached(lane, 1)
        gone, other = submit(batcher, "gone"), submit(batcher, "other")
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        lane.gate.set()

        assert keys_of(await first) == ["a"]
        assert keys_of(await other) == ["other"]

    assert lane.batches == [["a"], ["other"]]
    assert gone.cancelled()


async def test_trap_b08_one_that_gives_up_while_its_batch_runs_is_carried_out_and_disturbs_nobody() -> None:
    lane = Lane()
    async with running(lane) as batcher:
        gone, other = submit(batcher, "gone"), submit(batcher, "other")
        await reached(lane, 1)
        gone.cancel()
        await asyncio.sleep(0)
        lane.gate.set()

        assert keys_of(await other) == ["other"]
        assert keys_of(await batcher.submit(charges("next"), None)) == ["next"]

    assert gone.cancelled()
    assert lane.batches == [["gone", "other"], ["next"]]


async def test_trap_b10_a_stopping_lane_answers_what_it_took_and_takes_nothing_more() -> None:
    lane = Lane()
    async with running(lane, batch_size_max=2) as batcher:
        taken = [submit(batcher, "a")]
        await reached(lane, 1)
        taken += [submit(batcher, key) for key in "bcdef"]
        await asyncio.sleep(0)

        batcher.close()
        with pytest.raises(CodebankError) as caught:
            await batcher.submit(charges("late"), None)
        assert not batcher.ended.is_set()
        lane.gate.set()
        answers = await asyncio.gather(*taken)

    assert caught.value.code is Code.UNAVAILABLE
    assert [keys_of(answer) for answer in answers] == [[key] for key in "abcdef"]


async def test_an_idle_lane_does_no_work() -> None:
    lane = Lane()
    async with running(lane):
        for _ in range(10):
            await asyncio.sleep(0)

    assert lane.batches == []


async def test_what_somebody_else_holds_is_set_aside_and_holds_up_nobody_else() -> None:
    lane = Lane(held={"held"})
    async with running(lane) as batcher:
        lane.gate.set()
        mixed, other = submit(batcher, "a", "held", "b"), submit(batcher, "c")
        assert keys_of(await other) == ["c"]
        assert keys_of(await batcher.submit(charges("d"), None)) == ["d"]
        assert not mixed.done()

        lane.held.clear()

        assert keys_of(await mixed) == ["a", "held", "b"]
    assert {tuple(batch) for batch in lane.tried_again} == {("held",)}


async def test_what_stays_held_ends_with_a_word_to_repeat() -> None:
    lane = Lane(held={"held"})
    async with running(lane) as batcher:
        lane.gate.set()

        answered, refused = await batcher.submit(charges("a", "held"), 0.2)

    assert isinstance(answered, PaymentAnswer)
    assert isinstance(refused, CodebankError)
    assert refused.code is Code.UNAVAILABLE
