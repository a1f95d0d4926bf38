"""A bank from the future: the real one behind a proxy that changes its answers as a newer release might."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from codebank.v1 import bank_pb2 as pb

#: What is answered instead of the truth: another message, bytes that nobody can read, or a status.
Made = Message | bytes | grpc.StatusCode
Change = Callable[[Any], Made]

_ANSWERS: dict[str, type[Message]] = {
    "Authorize": pb.AuthorizeResponse,
    "GetPayment": pb.GetPaymentResponse,
    "Cancel": pb.CancelResponse,
}


@dataclass
class FutureBank:
    """Passes every call on, and answers it in its own way."""

    real: grpc.aio.Channel
    #: By method; what is not named is answered truly.
    changes: dict[str, Change] = field(default_factory=dict)
    #: Set while a call that was carried out waits to be answered, and whether it may be.
    carried_out: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, method: str, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """Answer a call of a method."""
        kept = tuple((key, value) for key, value in context.invocation_metadata() or () if key == "authorization")
        call = self.real.unary_unary(f"/codebank.v1.Bank/{method}", None, _ANSWERS[method].FromString)
        try:
            truth = await call(request, metadata=kept)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
        self.carried_out.set()
        await self.may_answer.wait()
        made = self.changes[method](truth) if method in self.changes else truth
        if isinstance(made, grpc.StatusCode):
            await context.abort(made, "from the future")
        return made if isinstance(made, bytes) else made.SerializeToString()


class _EveryMethod(grpc.GenericRpcHandler):
    """Takes bytes and gives bytes, whatever the method."""

    def __init__(self, bank: FutureBank) -> None:
        self._bank = bank

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method.rpartition("/")[2]

        async def handle(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            return await self._bank.answer(method, request, context)

        return grpc.unary_unary_rpc_method_handler(handle)


@contextlib.asynccontextmanager
async def future_bank(address: str) -> AsyncIterator[tuple[str, FutureBank]]:
    """Serve a future bank before the real one; give its address and itself."""
    async with grpc.aio.insecure_channel(address) as channel:
        bank = FutureBank(channel)
        bank.may_answer.set()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_EveryMethod(bank),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}", bank
        finally:
            await server.stop(None)
