"""gRPC reflection as tools ask for it: in its version 1 and in the alpha before it, and of all that has a name.

The library answers for the alpha only, and knows files by the symbols at their top: not by a method, which is what
`grpcurl describe codebank.v1.Bank.Authorize` and `ghz` ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

_ALPHA: Final = reflection_pb2.DESCRIPTOR
_ALPHA_SERVICE: Final = _ALPHA.services_by_name["ServerReflection"]
_PACKAGE: Final = "grpc.reflection.v1"
_FILE: Final = "grpc/reflection/v1/reflection.proto"


def add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Let a server describe some services, and reflection itself in both of its versions."""
    names = {version: f"{version}.{_ALPHA_SERVICE.name}" for version in (_ALPHA.package, _PACKAGE)}
    servicer = _Servicer((*services, *names.values()), _pool())
    # One version's messages are the other's under another name: the same bytes.
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {method.name: handler for method in _ALPHA_SERVICE.methods}
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, handlers) for name in names.values())
    )


def _pool() -> descriptor_pool.DescriptorPool:
    """Give the descriptors of all that this process speaks, with those of version 1 beside them."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_FILE)
    except KeyError:
        described = FileDescriptorProto()
        _ALPHA.CopyToProto(described)
        text = text_format.MessageToString(described).replace(_ALPHA.package, _PACKAGE)
        first = text_format.Parse(text, FileDescriptorProto())
        first.name = _FILE
        pool.AddSerializedFile(first.SerializeToString())
    return pool


class _Servicer(reflection.aio.ReflectionServicer):  # type: ignore[name-defined,misc]
    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        owner, _, member = fully_qualified_name.rpartition(".")
        try:
            described = self._pool.FindServiceByName(owner)
        except KeyError:
            return super()._file_containing_symbol(request, fully_qualified_name)
        return super()._file_containing_symbol(
            request, owner if member in described.methods_by_name else fully_qualified_name
        )
