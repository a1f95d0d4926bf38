"""The bank's door: codebank.v1.Bank over gRPC. Reads requests, asks who calls, writes answers; decides nothing."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import asyncpg
from msgspec.structs import replace

from codebank.bank.batch import Batcher, Ended, reaching_database
from codebank.bank.door.answers import (
    authorize_response,
    cancel_response,
    card_message,
    fill_authorize_response,
    payment_message,
)
from codebank.bank.door.behaviour import ForcedBehaviour
from codebank.bank.door.requests import CardOrder, RequestReader, read_card_id, read_key, read_payment_id
from codebank.bank.drawing import Plastic, draw, issuing
from codebank.bank.operation import Authorize, CancelAnswer, CardAnswer, Operation, PaymentAnswer
from codebank.bank.store.reading import find_card, find_merchant_id, find_payment, has_fingerprint
from codebank.bank.vault import Vault
from codebank.errors import Code, CodebankError, Violation, invalid
from codebank.runtime.grpc.server import Context, Malformed, malformed, status_of
from codebank.runtime.watch.telemetry import Telemetry
from codebank.runtime.watch.tracing import current, is_sampled
from codebank.v1 import bank_pb2 as pb
from codebank.wire import utc_now

#: How long a merchant's key is remembered before its row is read again.
_MERCHANT_SECONDS: Final = 5
STREAM_ITEMS_MAX: Final = 500
#: Messages of one stream under way at once; more wait, so that a stream cannot fill the queue.
_STREAM_MESSAGES_MAX: Final = 8


@dataclass
class Bank:
    """Answers the calls of codebank.v1.Bank."""

    pool: asyncpg.Pool
    vault: Vault
    batcher: Batcher
    telemetry: Telemetry
    operator_key: str
    forced: ForcedBehaviour
    #: API key → until when it is remembered, and whose it is.
    _merchants: dict[str, tuple[float, UUID]] = field(default_factory=dict)
    _reader: RequestReader = field(init=False)

    def __post_init__(self) -> None:
        self._reader = RequestReader(self.vault, self.forced)

    async def Authorize(self, request: pb.AuthorizeRequest, context: Context) -> pb.AuthorizeResponse:
        """Charge a card at once."""
        merchant_id = await self._merchant(context)
        operation = self._reader.authorize(request, merchant_id)
        if is_sampled(current.get()):
            operation = replace(operation, traceparent=current.get())
        await self.forced.before(operation, request.card_data.number)
        answer = self._counted(await self._submit(operation, context))
        await self.forced.after(answer, request.card_data.number)
        return authorize_response(answer)

    async def _submit(self, operation: Operation, context: Context) -> Ended:
        return (await self.batcher.submit([operation], context.time_remaining()))[0]

    async def AuthorizeStream(
        self, requests: AsyncIterator[pb.AuthorizeStreamRequest | Malformed], context: Context
    ) -> AsyncIterator[pb.AuthorizeStreamResponse]:
        """Charge many cards; each message is answered when all of it was decided, in any order."""
        merchant_id = await self._merchant(context)
        ready: asyncio.Queue[pb.AuthorizeStreamResponse | Exception | None] = asyncio.Queue()
        places = asyncio.Semaphore(_STREAM_MESSAGES_MAX)

        async def answer(message: pb.AuthorizeStreamRequest) -> None:
            try:
                ready.put_nowait(await self._answer_message(message, merchant_id, context))
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
            except* Exception as group:
                # Whatever it is, whoever waits for the next answer must hear of it.
                ready.put_nowait(group.exceptions[0])

        taking = asyncio.create_task(take())
        try:
            while (response := await ready.get()) is not None:
                if isinstance(response, Exception):
                    raise response
                yield response
        finally:
            taking.cancel()

    async def _answer_message(
        self, message: pb.AuthorizeStreamRequest, merchant_id: UUID, context: Context
    ) -> pb.AuthorizeStreamResponse:
        if len(message.requests) > STREAM_ITEMS_MAX:
            raise invalid(Violation("requests", f"must have at most {STREAM_ITEMS_MAX} items"))
        operations: list[Authorize] = []
        results: list[Ended | None] = []
        for request in message.requests:
            try:
                operations.append(self._reader.authorize(request, merchant_id))
                results.append(None)
            except CodebankError as error:
                results.append(error)
        answers = iter(await self.batcher.submit(operations, context.time_remaining()) if operations else [])
        done = [result if result is not None else next(answers) for result in results]
        response = pb.AuthorizeStreamResponse()
        for request, one in zip(message.requests, done, strict=True):
            result = response.results.add()
            result.idempotency_key = request.idempotency_key
            try:
                fill_authorize_response(result.response, self._counted(one))
            except CodebankError as error:
                result.error.CopyFrom(status_of(error))
        return response

    def _counted(self, result: Ended) -> PaymentAnswer:
        if isinstance(result, CodebankError):
            raise result
        assert isinstance(result, PaymentAnswer)
        if not result.replayed:
            code = result.payment.decline_code or ""
            self.telemetry.counter("codebank_payments_total", result.payment.status, code).inc()
            amount = self.telemetry.histogram("codebank_payment_amount_minor", result.payment.status)
            amount.observe(result.payment.amount_minor)
        return result

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        """Make sure that a key is never charged."""
        result = await self._submit(self._reader.cancel(request, await self._merchant(context)), context)
        if isinstance(result, CodebankError):
            raise result
        assert isinstance(result, CancelAnswer)
        return cancel_response(result)

    async def GetPayment(self, request: pb.GetPaymentRequest, context: Context) -> pb.GetPaymentResponse:
        """Read a payment of the calling merchant."""
        merchant_id = await self._merchant(context)
        payment_id, key = None, ""
        match request.WhichOneof("which"):
            case "payment_id":
                payment_id = read_payment_id(request.payment_id)
            case "idempotency_key":
                key = read_key(request.idempotency_key)
            case _:
                raise invalid(Violation("which", "must be a payment_id or an idempotency_key"))
        with reaching_database():
            async with self.pool.acquire() as connection:
                found = await find_payment(connection, merchant_id, payment_id=payment_id, key=key)
        if found is None:
            raise CodebankError(Code.NOT_FOUND, "no such payment of this merchant")
        return pb.GetPaymentResponse(payment=payment_message(found[1], found[0]))

    async def IssueCard(self, request: pb.IssueCardRequest, context: Context) -> pb.IssueCardResponse:
        """Issue a card; its number and CVV are told this once."""
        self._require_operator(context)
        order = self._reader.issue(request)
        plastic = await self._draw()
        issued = await self._carry_out_for_operator(self._issuing(order, plastic), context)
        if issued.replayed:
            return pb.IssueCardResponse(card=card_message(issued), replayed=True)
        cvv = self.vault.cvv(plastic.number, *plastic.expiry)
        return pb.IssueCardResponse(card=card_message(issued), number=plastic.number, cvv=cvv)

    async def _draw(self) -> Plastic:
        with reaching_database():
            async with self.pool.acquire() as connection:
                while await has_fingerprint(connection, self.vault.fingerprint((plastic := draw(utc_now())).number)):
                    continue
        return plastic

    def _issuing(self, order: CardOrder, plastic: Plastic) -> Operation:
        return issuing(self.vault, plastic, order.account_id, key=order.key, opens=order.opens)

    async def _carry_out_for_operator(self, operation: Operation, context: Context) -> CardAnswer:
        result = await self._submit(operation, context)
        if isinstance(result, CodebankError):
            raise result
        assert isinstance(result, CardAnswer)
        return result

    async def GetCard(self, request: pb.GetCardRequest, context: Context) -> pb.GetCardResponse:
        self._require_operator(context)
        card_id = read_card_id(request.card_id)
        with reaching_database():
            async with self.pool.acquire() as connection:
                found = await find_card(connection, card_id)
        if found is None:
            raise CodebankError(Code.NOT_FOUND, "no such card")
        return pb.GetCardResponse(card=card_message(CardAnswer(*found)))

    async def BlockCard(self, request: pb.BlockCardRequest, context: Context) -> pb.BlockCardResponse:
        self._require_operator(context)
        blocked = await self._carry_out_for_operator(self._reader.block(request), context)
        return pb.BlockCardResponse(card=card_message(blocked))

    async def UnblockCard(self, request: pb.UnblockCardRequest, context: Context) -> pb.UnblockCardResponse:
        self._require_operator(context)
        unblocked = await self._carry_out_for_operator(self._reader.unblock(request), context)
        return pb.UnblockCardResponse(card=card_message(unblocked))

    async def _merchant(self, context: Context) -> UUID:
        key = _bearer(context)
        known = self._merchants.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        merchant_id = None
        if key:
            with reaching_database():
                async with self.pool.acquire() as connection:
                    merchant_id = await find_merchant_id(connection, hashlib.sha256(key.encode()).digest())
        if merchant_id is None:
            raise CodebankError(
                Code.UNAUTHENTICATED, "no merchant has this API key", hint="send authorization: Bearer <API key>"
            )
        self._merchants = {k: v for k, v in self._merchants.items() if v[0] > time.monotonic()}
        self._merchants[key] = (time.monotonic() + _MERCHANT_SECONDS, merchant_id)
        return merchant_id

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
