"""The bank as `bench` measures it: the same server, with an echo beside it that does nothing."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from typing import Any, Final

import grpc

from codebank.address import place
from codebank.bank.app import open_bank
from codebank.bank.metrics import METRICS
from codebank.runtime.process import run_role
from codebank.runtime.watch.metrics import PROCESS_METRICS
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import Settings
from codebank.v1 import bank_pb2 as pb

ECHO: Final = "/codebank.lab.Echo/Authorize"
ECHO_STREAM: Final = "/codebank.lab.Echo/AuthorizeStream"
_METRICS: Final = (*PROCESS_METRICS, *METRICS)


class _Echo(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Parses what the bank would parse, and answers as much as the bank would answer."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if handler_call_details.method == ECHO:
            return grpc.unary_unary_rpc_method_handler(
                _echo, pb.AuthorizeRequest.FromString, pb.AuthorizeResponse.SerializeToString
            )
        if handler_call_details.method == ECHO_STREAM:
            return grpc.stream_stream_rpc_method_handler(
                _echo_stream, pb.AuthorizeStreamRequest.FromString, pb.AuthorizeStreamResponse.SerializeToString
            )
        return None


async def _echo(request: pb.AuthorizeRequest, _context: Any) -> pb.AuthorizeResponse:
    return _answer(request)


async def _echo_stream(requests: Any, _context: Any) -> Any:
    async for message in requests:
        results = [
            pb.AuthorizeResult(idempotency_key=item.idempotency_key, response=_answer(item))
            for item in message.requests
        ]
        yield pb.AuthorizeStreamResponse(results=results)


def _answer(request: pb.AuthorizeRequest) -> pb.AuthorizeResponse:
    return pb.AuthorizeResponse(
        payment=pb.Payment(
            payment_id="0" * 36,
            status=pb.PAYMENT_STATUS_APPROVED,
            amount=request.amount,
            description=request.description,
            idempotency_key=request.idempotency_key,
        )
    )


async def _serve(settings: Settings, telemetry: Telemetry, stop: asyncio.Event) -> None:
    async with open_bank(settings, telemetry, place(settings.host, settings.bank_port), [_Echo()]):
        await stop.wait()


class _Nothing:
    """Counts nothing, in any way."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_values: self


class Silent(Telemetry):
    """A process whose metrics cost nothing: what `bench metrics` measures against."""

    def _bind(self, kind: Any, name: str, labels: tuple[str, ...]) -> Any:
        return _NOTHING


_NOTHING: Final = _Nothing()


if __name__ == "__main__":
    loaded = Settings.load(os.environ)
    run_role(
        "bank",
        functools.partial(_serve, loaded),
        Silent(_METRICS) if "silent" in sys.argv else Telemetry(_METRICS),
        host=loaded.host,
        health_port=loaded.bank_health_port,
        log_level="warning",
    )
