"""A load of operations of every kind: charges, repeats, cancellations, and an operator who issues and blocks cards.

What an answer must say is checked for each kind; a bank that mixes them up ends the load.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from codebank.errors import Code, CodebankError
from codebank.lab.http2 import Connection
from codebank.lab.load import BANK, Target, Turn, authorizations, connect, timed
from codebank.v1 import bank_pb2 as pb
from codebank.wire import new_id

_CANCEL: Final = "/codebank.v1.Bank/Cancel"
_ISSUE: Final = "/codebank.v1.Bank/IssueCard"
_BLOCK: Final = "/codebank.v1.Bank/BlockCard"
_UNBLOCK: Final = "/codebank.v1.Bank/UnblockCard"
_OF_OPERATOR: Final = (_ISSUE, _BLOCK, _UNBLOCK)
#: What callers do in turn: most charge; some repeat what was answered, or cancel it, or cancel what nobody charged.
_TURNS: Final = ("charge",) * 6 + ("repeat",) + ("charge",) * 6 + ("repeat", "cancel", "close")
#: Charges that were answered and may be repeated or cancelled.
_REMEMBERED: Final = 1000

Check = Callable[[bytes], bool]


def mixed_loop(target: Target, seconds: int, callers: int) -> Turn:
    """Keep so many calls of every kind under way, and beside them one operator's."""
    return timed(_Mixed(target).run(callers, seconds))


@dataclass
class _Mixed:
    target: Target
    _connections: dict[str, Connection] = field(default_factory=dict)
    #: Method and stream → when the call began, how its answer is checked, and what is called next.
    _under_way: dict[tuple[str, int], tuple[int, Check, Callable[[], None]]] = field(default_factory=dict)
    _charged: deque[bytes] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _taken: list[int] = field(default_factory=list)
    _charges: int = 0
    _turn: int = 0
    _until: int = 0

    async def run(self, callers: int, seconds: int) -> Turn:
        self._requests: Iterator[bytes] = authorizations(self.target)
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for path in (BANK, _CANCEL, *_OF_OPERATOR):
            key = self.target.operator_key if path in _OF_OPERATOR else self.target.merchant_key
            take = partial(self._take, path)
            self._connections[path] = await connect(self.target.address, path, key, take, self._fail)
        began = time.perf_counter_ns()
        self._until = began + seconds * 10**9
        for _ in range(callers):
            self._next()
        self._issue()
        try:
            await self._finished
        finally:
            for connection in self._connections.values():
                connection.close()
        elapsed = (time.perf_counter_ns() - began) // 1000
        return Turn(len(self._taken), elapsed, sorted(self._taken), others=len(self._taken) - self._charges)

    def _next(self) -> None:
        """Let a caller do what is next."""
        what = _TURNS[self._turn % len(_TURNS)] if self._charged else "charge"
        self._turn += 1
        if what == "repeat":
            self._call(BANK, self._charged[-1], partial(_is_approved, replayed=True), self._next)
        elif what == "cancel":
            key = pb.AuthorizeRequest.FromString(self._charged.popleft()).idempotency_key
            self._cancel(key, pb.CancelResponse.OUTCOME_REFUNDED)
        elif what == "close":
            self._cancel(f"bench-{new_id().hex}", pb.CancelResponse.OUTCOME_KEY_CLOSED)
        else:
            request = next(self._requests)
            self._call(BANK, request, partial(self._is_charged, request), self._next)

    def _cancel(self, key: str, outcome: pb.CancelResponse.Outcome.ValueType) -> None:
        request = pb.CancelRequest(idempotency_key=key).SerializeToString()
        self._call(_CANCEL, request, lambda answer: pb.CancelResponse.FromString(answer).outcome == outcome, self._next)

    def _issue(self) -> None:
        """Issue a card on an account of its own, block it and free it again, and so on."""
        account = pb.NewAccount(holder_name="Bench", limit=pb.Money(amount_minor=1, currency="BRL"))
        request = pb.IssueCardRequest(new_account=account, idempotency_key=f"bench-{new_id().hex}")
        issued = pb.IssueCardResponse()

        def is_issued(answer: bytes) -> bool:
            issued.ParseFromString(answer)
            return issued.card.status == pb.CARD_STATUS_ACTIVE

        def block() -> None:
            blocking = pb.BlockCardRequest(card_id=issued.card.card_id, reason=pb.BlockCardRequest.REASON_BLOCKED)
            self._call(_BLOCK, blocking.SerializeToString(), partial(_has_status, pb.CARD_STATUS_BLOCKED), free)

        def free() -> None:
            freeing = pb.UnblockCardRequest(card_id=issued.card.card_id)
            self._call(_UNBLOCK, freeing.SerializeToString(), partial(_has_status, pb.CARD_STATUS_ACTIVE), self._issue)

        self._call(_ISSUE, request.SerializeToString(), is_issued, block)

    def _call(self, path: str, request: bytes, check: Check, then: Callable[[], None]) -> None:
        self._under_way[path, self._connections[path].call(request)] = time.perf_counter_ns(), check, then

    def _take(self, path: str, call: int, answer: bytes | None) -> None:
        began, check, then = self._under_way.pop((path, call))
        if answer is None or not check(answer):
            self._fail(CodebankError(Code.FAILED_PRECONDITION, f"{path} did not answer what it should"))
        now = time.perf_counter_ns()
        self._taken.append((now - began) // 1000)
        if now < self._until:
            then()
        elif not self._under_way and not self._finished.done():
            self._finished.set_result(None)

    def _is_charged(self, request: bytes, answer: bytes) -> bool:
        self._charges += 1
        self._charged.append(request)
        return _is_approved(answer, replayed=False)

    def _fail(self, error: CodebankError) -> None:
        if not self._finished.done():
            self._finished.set_exception(error)


def _is_approved(answer: bytes, *, replayed: bool) -> bool:
    response = pb.AuthorizeResponse.FromString(answer)
    return response.replayed == replayed and response.payment.status == pb.PAYMENT_STATUS_APPROVED


def _has_status(status: pb.CardStatus.ValueType, answer: bytes) -> bool:
    # The answers of both calls have the card in the same place.
    return pb.BlockCardResponse.FromString(answer).card.status == status
