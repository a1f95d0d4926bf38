"""The bank's door: codebank.v1.Bank over gRPC. Reads requests, asks who calls, writes answers; decides nothing."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import asyncpg
from msgspec.structs import replace

from codebank.bank import cards, service
from codebank.bank.account import Charge, Merchant
from codebank.bank.batch import Batcher, Result, reaching_database
from codebank.bank.door.answers import authorize_response, card_message, payment_message
from codebank.bank.door.behaviour import Rehearsal
from codebank.bank.door.requests import ChargeReader, read_card_id, read_issue, read_key, read_payment_id
from codebank.bank.store.reading import find_merchant
from codebank.bank.vault import Vault
from codebank.errors import Code, CodebankError, Violation, invalid
from codebank.events import CardStatus
from codebank.runtime.grpc.server import Context, Malformed, malformed, status_of
from codebank.runtime.watch.telemetry import Telemetry
from codebank.runtime.watch.tracing import current, is_sampled
from codebank.v1 import bank_pb2 as pb

#: How long a merchant's key is remembered before its row is read again.
_MERCHANT_SECONDS: Final = 5
STREAM_ITEMS_MAX: Final = 500
#: Messages of one stream under way at once; more wait, so that a stream cannot fill the queue.
_STREAM_MESSAGES_MAX: Final = 8

_CANCEL_OUTCOMES: Final = {
    service.CancelOutcome.KEY_CLOSED: pb.CancelResponse.OUTCOME_KEY_CLOSED,
    service.CancelOutcome.REFUNDED: pb.CancelResponse.OUTCOME_REFUNDED,
    service.CancelOutcome.NOTHING_CHARGED: pb.CancelResponse.OUTCOME_NOTHING_CHARGED,
}
_BLOCK_REASONS: Final = {
    pb.BlockCardRequest.REASON_BLOCKED: CardStatus.BLOCKED,
    pb.BlockCardRequest.REASON_LOST: CardStatus.LOST,
    pb.BlockCardRequest.REASON_STOLEN: CardStatus.STOLEN,
}


@dataclass
class Bank:
    """Answers the calls of codebank.v1.Bank."""

    pool: asyncpg.Pool
    vault: Vault
    batcher: Batcher
    telemetry: Telemetry
    operator_key: str
    rehearsal: Rehearsal
    _merchants: dict[str, tuple[float, Merchant]] = field(default_factory=dict)
    _reader: ChargeReader = field(init=False)

    def __post_init__(self) -> None:
        self._reader = ChargeReader(self.vault, self.rehearsal)

    async def Authorize(self, request: pb.AuthorizeRequest, context: Context) -> pb.AuthorizeResponse:
        """Charge a card at once."""
        merchant = await self._merchant(context)
        charge = self._reader.read(request, merchant)
        if is_sampled(current.get()):
            charge = replace(charge, traceparent=current.get())
        await self.rehearsal.before(charge, request.card_data.number)
        result = (await self.batcher.submit([charge], context.time_remaining()))[0]
        answer = self._counted(result)
        await self.rehearsal.after(answer, request.card_data.number)
        return authorize_response(answer)

    async def AuthorizeStream(
        self, requests: AsyncIterator[pb.AuthorizeStreamRequest | Malformed], context: Context
    ) -> AsyncIterator[pb.AuthorizeStreamResponse]:
        """Charge many cards; each message is answered when all of it was decided, in any order."""
        merchant = await self._merchant(context)
        ready: asyncio.Queue[pb.AuthorizeStreamResponse | CodebankError | None] = asyncio.Queue()
        places = asyncio.Semaphore(_STREAM_MESSAGES_MAX)

        async def answer(message: pb.AuthorizeStreamRequest) -> None:
            try:
                ready.put_nowait(await self._answer_message(message, merchant, context))
            finally:
                places.release()

        async def take() -> None:
            try:
                async with asyncio.TaskGroup() as tasks:
                    async for message in requests:
                        if isinstance(message, Malformed):
                            raise malformed(message)
                        await places.acquire()
                        tasks.create_task(answer(message))
                ready.put_nowait(None)
            except* CodebankError as group:
                first = group.exceptions[0]
                assert isinstance(first, CodebankError)
                ready.put_nowait(first)

        taking = asyncio.create_task(take())
        try:
            while (response := await ready.get()) is not None:
                if isinstance(response, CodebankError):
                    raise response
                yield response
        finally:
            taking.cancel()

    async def _answer_message(
        self, message: pb.AuthorizeStreamRequest, merchant: Merchant, context: Context
    ) -> pb.AuthorizeStreamResponse:
        if len(message.requests) > STREAM_ITEMS_MAX:
            raise invalid(Violation("requests", f"must have at most {STREAM_ITEMS_MAX} items"))
        charges: list[Charge] = []
        outcomes: list[Result | None] = []
        for request in message.requests:
            try:
                charges.append(self._reader.read(request, merchant))
                outcomes.append(None)
            except CodebankError as error:
                outcomes.append(error)
        answers = iter(await self.batcher.submit(charges, context.time_remaining()) if charges else [])
        done = [outcome if outcome is not None else next(answers) for outcome in outcomes]
        keys = [request.idempotency_key for request in message.requests]
        return pb.AuthorizeStreamResponse(results=[self._result(key, one) for key, one in zip(keys, done, strict=True)])

    def _result(self, key: str, outcome: Result) -> pb.AuthorizeResult:
        try:
            return pb.AuthorizeResult(idempotency_key=key, response=authorize_response(self._counted(outcome)))
        except CodebankError as error:
            return pb.AuthorizeResult(idempotency_key=key, error=status_of(error))

    def _counted(self, result: Result) -> service.Answer:
        if isinstance(result, CodebankError):
            raise result
        if not result.replayed:
            code = result.payment.decline_code or ""
            self.telemetry.counter("codebank_payments_total", result.payment.status, code).inc()
            amount = self.telemetry.histogram("codebank_payment_amount_minor", result.payment.status)
            amount.observe(result.payment.amount_minor)
        return result

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        """Make sure that a key is never charged."""
        merchant = await self._merchant(context)
        key = read_key(request.idempotency_key)
        with reaching_database():
            outcome, payment = await service.cancel(self.pool, merchant, key)
        message = payment_message(payment, key) if payment else None
        return pb.CancelResponse(outcome=_CANCEL_OUTCOMES[outcome], payment=message)

    async def GetPayment(self, request: pb.GetPaymentRequest, context: Context) -> pb.GetPaymentResponse:
        """Read a payment of the calling merchant."""
        merchant = await self._merchant(context)
        match request.WhichOneof("which"):
            case "payment_id":
                payment_id = read_payment_id(request.payment_id)
                with reaching_database():
                    key, payment = await service.get_payment(self.pool, merchant, payment_id=payment_id)
            case "idempotency_key":
                key = read_key(request.idempotency_key)
                with reaching_database():
                    key, payment = await service.get_payment(self.pool, merchant, key=key)
            case _:
                raise invalid(Violation("which", "must be a payment_id or an idempotency_key"))
        return pb.GetPaymentResponse(payment=payment_message(payment, key))

    async def IssueCard(self, request: pb.IssueCardRequest, context: Context) -> pb.IssueCardResponse:
        """Issue a card."""
        self._require_operator(context)
        issue = read_issue(request)
        with reaching_database():
            issued = await cards.issue_card(
                self.pool,
                self.vault,
                issue_key=issue.key,
                account_id=issue.account_id,
                holder_name=issue.holder_name,
                limit=issue.limit,
            )
        return pb.IssueCardResponse(card=card_message(issued.view), number=issued.number, cvv=issued.cvv)

    async def GetCard(self, request: pb.GetCardRequest, context: Context) -> pb.GetCardResponse:
        """Read a card."""
        self._require_operator(context)
        with reaching_database():
            view = await cards.get_card(self.pool, read_card_id(request.card_id))
        return pb.GetCardResponse(card=card_message(view))

    async def BlockCard(self, request: pb.BlockCardRequest, context: Context) -> pb.BlockCardResponse:
        """Block a card."""
        self._require_operator(context)
        status = _BLOCK_REASONS.get(request.reason)
        if status is None:
            raise invalid(Violation("reason", "must be blocked, lost or stolen"))
        with reaching_database():
            view = await cards.block_card(self.pool, read_card_id(request.card_id), status)
        return pb.BlockCardResponse(card=card_message(view))

    async def UnblockCard(self, request: pb.UnblockCardRequest, context: Context) -> pb.UnblockCardResponse:
        """Unblock a card."""
        self._require_operator(context)
        with reaching_database():
            view = await cards.unblock_card(self.pool, read_card_id(request.card_id))
        return pb.UnblockCardResponse(card=card_message(view))

    async def _merchant(self, context: Context) -> Merchant:
        key = _bearer(context)
        known = self._merchants.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        merchant = None
        if key:
            with reaching_database():
                async with self.pool.acquire() as connection:
                    merchant = await find_merchant(connection, hashlib.sha256(key.encode()).digest())
        if merchant is None:
            raise CodebankError(
                Code.UNAUTHENTICATED, "no merchant has this API key", hint="send authorization: Bearer <API key>"
            )
        self._merchants = {k: v for k, v in self._merchants.items() if v[0] > time.monotonic()}
        self._merchants[key] = (time.monotonic() + _MERCHANT_SECONDS, merchant)
        return merchant

    def _require_operator(self, context: Context) -> None:
        key = _bearer(context)
        if not key:
            raise CodebankError(Code.UNAUTHENTICATED, "this call needs the operator's key")
        if not self.operator_key or not hmac.compare_digest(key.encode(), self.operator_key.encode()):
            raise CodebankError(Code.FORBIDDEN, "this call is the operator's")


def _bearer(context: Context) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == "authorization":
            text = value if isinstance(value, str) else value.decode("ascii", "replace")
            scheme, _, key = text.partition(" ")
            return key.strip() if scheme.lower() == "bearer" else ""
    return ""
