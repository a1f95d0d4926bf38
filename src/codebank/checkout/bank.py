"""The bank as the checkout sees it: one call, a deadline, a bounded retry with the same key."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from uuid import UUID

import grpc

from codebank.checkout.answers import read_cancellation, read_decision
from codebank.checkout.order import CardInput, Order, Outcome, Unknown
from codebank.errors import CodebankError
from codebank.runtime.grpc.channels import open_channels
from codebank.runtime.grpc.tls import Identity
from codebank.runtime.watch.telemetry import Telemetry, fields
from codebank.runtime.watch.tracing import current
from codebank.v1 import bank_pb2 as pb
from codebank.v1 import bank_pb2_grpc

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

#: What may heal: the call is repeated with the same key, so it charges once at most.
_RETRIED: Final = {
    "UNAVAILABLE",
    # A bank that stops says this of what it had not taken.
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
    "INTERNAL",
}
#: What a call comes to whose status or message cannot be read.
_UNREADABLE: Final = "UNREADABLE"
#: The first try's part of the budget, so that a second fits.
FIRST_TRY_SHARE: Final = 0.6
_PAUSE_SECONDS: Final = 0.05
_OPTIONS: Final = (
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.use_local_subchannel_pool", 1),
    # A replica that goes is replaced by one with another address: half a minute, as by itself, is too long to ask.
    ("grpc.dns_min_time_between_resolutions_ms", 500),
)


async def _pass_over() -> None:
    """Let another try be nobody's business."""


class _NoAnswer(Exception):
    """The bank gave no answer that can be read."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        #: Why, by gRPC's name.
        self.status = status


@dataclass
class BankClient:
    """Calls the bank as one merchant."""

    target: str
    merchant_key: str
    budget_seconds: int
    telemetry: Telemetry
    #: None where roles talk in clear.
    identity: Identity | None = None
    #: Connections to each address of the bank.
    channels: int = 1
    _channel: grpc.aio.Channel | None = field(default=None, init=False)
    _stub: Any = field(default=None, init=False)
    _stamp: int = field(default=0, init=False)
    _closing: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    def _current_stub(self) -> Any:
        stamp = self.identity.stamp() if self.identity else 0
        if self._channel is None:
            self._use(open_channels(self.target, self.identity, self.channels, _OPTIONS), stamp)
        elif stamp != self._stamp:
            self._use(self._renewed(self._channel), stamp)
        return self._stub

    def _use(self, channel: grpc.aio.Channel, stamp: int) -> None:
        self._channel, self._stub, self._stamp = channel, bank_pb2_grpc.BankStub(channel), stamp

    def _renewed(self, before: grpc.aio.Channel) -> grpc.aio.Channel:
        """Open a channel with the certificate as it is now; calls under way on the one before may end."""
        try:
            fresh = open_channels(self.target, self.identity, self.channels, _OPTIONS)
        except CodebankError as error:
            log.warning("the renewed certificate cannot be used: %s", error)
            return before
        closing = asyncio.create_task(before.close(self.budget_seconds))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return fresh

    async def authorize(
        self, order: Order, card: CardInput, description: str, on_retry: Callable[[], Awaitable[None]] = _pass_over
    ) -> Outcome:
        """Charge an order; the order's id is the key. Unknown where no answer came within the budget.

        `on_retry` is waited for before each try but the first.
        """
        request = pb.AuthorizeRequest(
            card_data=pb.CardData(
                number=card.number, expiry_month=card.expiry_month, expiry_year=card.expiry_year, cvv=card.cvv
            ),
            amount=pb.Money(amount_minor=order.total.amount_minor, currency=order.total.currency),
            description=description,
            parcelas=order.parcelas,
            idempotency_key=str(order.order_id),
        )
        try:
            response = await self._within_budget(lambda timeout: self._call("Authorize", request, timeout), on_retry)
        except _NoAnswer as error:
            # A request that the bank refuses as wrong charged nothing, but only the bank can say so for sure.
            return Unknown(error.status)
        return read_decision(response, order.order_id)

    async def find(self, order_id: UUID) -> Outcome | None:
        """Ask what became of an order; None where the bank never saw it. Unknown where it does not answer."""
        request = pb.GetPaymentRequest(idempotency_key=str(order_id))
        try:
            response = await self._within_budget(lambda timeout: self._call("GetPayment", request, timeout))
        except _NoAnswer as error:
            return None if error.status == "NOT_FOUND" else Unknown(error.status)
        return read_decision(response, order_id)

    async def cancel(self, order_id: UUID) -> Outcome:
        """Make sure that an order is never charged. Unknown where the bank does not say that it is so.

        One try: a bank that comes back is first asked what it decided.
        """
        request = pb.CancelRequest(idempotency_key=str(order_id))
        try:
            response = await self._call("Cancel", request, self.budget_seconds)
        except _NoAnswer as error:
            return Unknown(error.status)
        return read_cancellation(response, order_id)

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close(None)

    async def _call(self, method: str, request: Any, timeout_seconds: float) -> Any:
        started, status = time.perf_counter(), "CANCELLED"
        try:
            with self.telemetry.tracer.span(f"call {method}", None, "client", rpc__system="grpc", rpc__method=method):
                metadata = (("authorization", f"Bearer {self.merchant_key}"), ("traceparent", current.get()))
                answer = await getattr(self._current_stub(), method)(
                    request, timeout=timeout_seconds, metadata=metadata, wait_for_ready=False
                )
            # gRPC gives nothing where the message could not be decoded.
            status = _UNREADABLE if answer is None else "OK"
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        except asyncio.CancelledError:
            if _is_given_up():
                raise
            # The channel was closed under the call: whoever waits for it is alive and must hear of it.
        except Exception as error:
            # Whatever it is, such as a certificate that cannot be read: the outcome is not known.
            log.error("a call of the bank failed", exc_info=error, extra=fields(method=method))
            status = _UNREADABLE
        finally:
            self.telemetry.counter("codebank_bank_calls_total", method, status).inc()
            elapsed = time.perf_counter() - started
            self.telemetry.histogram("codebank_bank_call_seconds", method).observe(elapsed)
        if status != "OK":
            raise _NoAnswer(status)
        return answer

    async def _within_budget(
        self, call: Callable[[float], Awaitable[Answer]], on_retry: Callable[[], Awaitable[None]] = _pass_over
    ) -> Answer:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.budget_seconds
        share, pause_seconds = FIRST_TRY_SHARE, _PAUSE_SECONDS
        while True:
            try:
                return await call(max(0.05, (deadline - loop.time()) * share))
            except _NoAnswer as error:
                if error.status not in _RETRIED or loop.time() + pause_seconds >= deadline:
                    raise
            share = 1
            await asyncio.sleep(pause_seconds * random.uniform(0.5, 1))  # noqa: S311 (jitter, not a secret)
            pause_seconds = min(pause_seconds * 2, 1)
            await on_retry()


def _is_given_up() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
