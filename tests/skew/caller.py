"""Calls a bank with the messages of the release before, whatever release it is of."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from tests.bank import reason_of, wrong_fields
from tests.skew import Call, Messages

_STREAM = "AuthorizeStream"


def _as_is(content: bytes) -> bytes:
    return content


@dataclass
class Caller:
    """A client of the release before, as merchant, operator or nobody."""

    channel: grpc.aio.Channel
    messages: Messages
    #: caller → API key.
    keys: Mapping[str, str]

    async def call(self, rpc: str, caller: str, request: Mapping[str, Any]) -> Call:
        """Make a call and tell what came back."""
        metadata = (("authorization", f"Bearer {self.keys[caller]}"),) if caller in self.keys else ()
        content = self.messages.write(f"{rpc}Request", request)
        path = f"/codebank.v1.Bank/{rpc}"
        try:
            if rpc == _STREAM:
                streaming: Any = self.channel.stream_stream(path, _as_is, _as_is)(
                    iter([content]), metadata=metadata, timeout=10
                )
                answer = b"".join([part async for part in streaming])
            else:
                answer = await self.channel.unary_unary(path, _as_is, _as_is)(content, metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            refusal = {
                "status": error.code().name,
                "reason": reason_of(error),
                "fields": sorted(wrong_fields(error)),
            }
            return Call(rpc, caller, request, refusal=refusal)
        return Call(rpc, caller, request, answer=_in_order(self.messages.read(f"{rpc}Response", answer)))


def _in_order(answer: dict[str, Any]) -> dict[str, Any]:
    """Put the results of a stream, which come in any order, into one."""
    if "results" in answer:
        answer["results"].sort(key=lambda result: result["idempotencyKey"])
    return answer


@contextlib.asynccontextmanager
async def calling(address: str, messages: Messages, keys: Mapping[str, str]) -> AsyncIterator[Caller]:
    """Open a channel to a bank."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Caller(channel, messages, keys)
