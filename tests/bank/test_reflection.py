"""What tools ask a bank about itself: everything that it speaks, in both versions of gRPC reflection."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from codebank.v1 import bank_pb2
from tests.conftest import BankServer

pytestmark = pytest.mark.anyio

BANK = bank_pb2.DESCRIPTOR.services_by_name["Bank"]
VERSIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
METHODS = [method.full_name for method in BANK.methods]


async def ask(address: str, version: str, **question: str) -> reflection_pb2.ServerReflectionResponse:
    """Ask as a tool of that version does: the messages of both are the same bytes."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            f"/{version}/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        (answer,) = [answer async for answer in call(iter([reflection_pb2.ServerReflectionRequest(**question)]))]
        return answer


def files(answer: reflection_pb2.ServerReflectionResponse) -> dict[str, FileDescriptorProto]:
    told = [FileDescriptorProto.FromString(text) for text in answer.file_descriptor_response.file_descriptor_proto]
    return {file.name: file for file in told}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "symbol", [*METHODS, BANK.full_name, "codebank.v1.AuthorizeRequest", "codebank.v1.Payment.payment_id"]
)
async def test_every_symbol_is_found_methods_too(bank_server: BankServer, version: str, symbol: str) -> None:
    answer = await ask(bank_server.address, version, file_containing_symbol=symbol)

    file = files(answer)["codebank/v1/bank.proto"]
    assert [method.name for method in file.service[0].method] == [method.name for method in BANK.methods]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("symbol", ["codebank.v1.Bank.Rob", "codebank.v1.Bank.", "Bank", ""])
async def test_what_does_not_exist_is_not_found(bank_server: BankServer, version: str, symbol: str) -> None:
    answer = await ask(bank_server.address, version, file_containing_symbol=symbol)

    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_listed_can_be_described_with_all_that_it_needs(bank_server: BankServer, version: str) -> None:
    listed = await ask(bank_server.address, version, list_services="")

    names = {service.name for service in listed.list_services_response.service}
    assert names == {"codebank.v1.Bank", "grpc.health.v1.Health", *VERSIONS}
    for name in names:
        wanted = [next(iter(files(await ask(bank_server.address, version, file_containing_symbol=name)).values()))]
        while wanted:
            for needed in wanted.pop().dependency:
                wanted.append(files(await ask(bank_server.address, version, file_by_filename=needed))[needed])
