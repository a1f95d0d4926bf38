"""gRPC servers, all built the same way: clear errors with google.rpc details, health, reflection, metrics."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health  # type: ignore[attr-defined]

from codebank.errors import GRPC_STATUS, Code, CodebankError, Violation, invalid
from codebank.runtime.grpc.protobuf import broken_field
from codebank.runtime.grpc.reflection import add_reflection
from codebank.runtime.watch.telemetry import Telemetry

log = logging.getLogger(__name__)

ERROR_DOMAIN: Final = "codebank"
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Malformed:
    """A request whose bytes are no message, with the field that broke it."""

    field: str


def status_of(error: CodebankError) -> Status:
    """Write an error as a google.rpc.Status with its details."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.code.upper(), domain=ERROR_DOMAIN)]
    if error.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=item.field, description=item.reason)
                    for item in error.violations
                ]
            )
        )
    if error.retry_after_seconds is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=error.retry_after_seconds)))
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return Status(code=code_pb2.Code.Value(GRPC_STATUS[error.code]), message=str(error), details=packed)


_CONNECTION_AGE_SECONDS: Final = 60
#: A stream may go on for so long on a connection that takes no more calls.
_CONNECTION_GRACE_SECONDS: Final = 600


def build_server(
    telemetry: Telemetry, service: ServiceDescriptor, servicer: object, *, shares_port: bool = False
) -> tuple[grpc.aio.Server, GrpcHealth]:
    """Build a server that speaks one service, with health and reflection beside it; alone on its port, or not."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.so_reuseport", int(shares_port)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            # Whoever calls looks for us anew now and then, and so finds replicas that were not there before.
            ("grpc.max_connection_age_ms", _CONNECTION_AGE_SECONDS * 1000),
            ("grpc.max_connection_age_grace_ms", _CONNECTION_GRACE_SECONDS * 1000),
        ]
    )
    handlers = {method.name: _handler(method, getattr(servicer, method.name), telemetry) for method in service.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
    health = grpc_health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    add_reflection(server, (service.full_name, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name))
    return server, GrpcHealth(health, service.full_name)


@dataclass(frozen=True, slots=True)
class GrpcHealth:
    """The gRPC health of a server, of itself and of its one service."""

    servicer: Any
    service: str

    async def set(self, serving: bool) -> None:
        """Say whether the server takes calls."""
        word = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", self.service):
            await self.servicer.set(name, word)


def _handler(method: MethodDescriptor, function: Any, telemetry: Telemetry) -> grpc.RpcMethodHandler[Any, Any]:
    decode = _decoder(method.input_type)
    meter = _Meter(telemetry, method.name)
    if method.server_streaming:
        return grpc.stream_stream_rpc_method_handler(
            _guarded_stream(function, meter), decode, GetMessageClass(method.output_type).SerializeToString
        )
    return grpc.unary_unary_rpc_method_handler(
        _guarded_unary(function, meter), decode, GetMessageClass(method.output_type).SerializeToString
    )


def _decoder(descriptor: Descriptor) -> Callable[[bytes], Message | Malformed]:
    parse = GetMessageClass(descriptor).FromString

    def decode(data: bytes) -> Message | Malformed:
        try:
            return parse(data)
        except DecodeError:
            return Malformed(broken_field(descriptor, data))

    return decode


class _Meter:
    """Counts and times one method; children are bound the first time, so that counting is cheap."""

    def __init__(self, telemetry: Telemetry, method: str) -> None:
        self._telemetry = telemetry
        self._method = method
        self._seconds = telemetry.histogram("codebank_rpc_seconds", method)
        self._counters: dict[str, Any] = {}

    @property
    def is_traced(self) -> bool:
        """Whether spans are recorded."""
        return self._telemetry.tracer.is_on

    @contextlib.contextmanager
    def traced(self, context: Context) -> Iterator[None]:
        """Let a call belong to its caller's trace: whoever may call us may decide what is recorded."""
        tracer = self._telemetry.tracer
        sent = dict(context.invocation_metadata() or ()).get("traceparent", "")
        parent = sent if isinstance(sent, str) else ""
        with tracer.span(f"answer {self._method}", parent, "server", rpc__system="grpc", rpc__method=self._method):
            yield

    def note(self, status: str, started: float) -> None:
        counter = self._counters.get(status)
        if counter is None:
            counter = self._telemetry.counter("codebank_rpc_total", self._method, status)
            self._counters[status] = counter
        counter.inc()
        self._seconds.observe(time.perf_counter() - started)


def _guarded_unary(function: Callable[[Any, Context], Awaitable[Message]], meter: _Meter) -> Any:
    async def call(request: Any, context: Context) -> Message:
        started = time.perf_counter()
        status = "CANCELLED"
        try:
            if isinstance(request, Malformed):
                raise malformed(request)
            if meter.is_traced:
                with meter.traced(context):
                    answer = await function(request, context)
            else:
                answer = await function(request, context)
            status = "OK"
            return answer
        except CodebankError as error:
            status = GRPC_STATUS[error.code]
            await _abort(error, context)
            raise
        except Exception as error:
            status = "INTERNAL"
            await _abort_unknown(error, context)
            raise
        finally:
            meter.note(status, started)

    return call


def _guarded_stream(function: Callable[[Any, Context], AsyncIterator[Message]], meter: _Meter) -> Any:
    async def call(requests: Any, context: Context) -> AsyncIterator[Message]:
        started = time.perf_counter()
        status = "CANCELLED"
        try:
            async for answer in function(requests, context):
                yield answer
            status = "OK"
        except CodebankError as error:
            status = GRPC_STATUS[error.code]
            await _abort(error, context)
        except Exception as error:
            status = "INTERNAL"
            await _abort_unknown(error, context)
        finally:
            meter.note(status, started)

    return call


def malformed(request: Malformed) -> CodebankError:
    """Make the error for a request that could not be read."""
    return invalid(Violation(request.field, "is not valid UTF-8 or not a message of this kind"))


async def _abort_unknown(error: Exception, context: Context) -> None:
    # Inside, the whole story; outside, never a driver's words.
    log.error("call failed", exc_info=error)
    unknown = CodebankError(Code.INTERNAL, "something went wrong on the bank's side")
    await _abort(unknown, context)


async def _abort(error: CodebankError, context: Context) -> None:
    status = grpc.StatusCode[GRPC_STATUS[error.code]]
    # The header in which every gRPC library looks for a google.rpc.Status.
    details = (("grpc-status-details-bin", status_of(error).SerializeToString()),)
    await context.abort(status, str(error), trailing_metadata=details)
