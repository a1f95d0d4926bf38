"""The operator's calls from the terminal, over the bank's own gRPC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from codebank.bank.store.reading import list_cards as read_cards
from codebank.errors import Code, CodebankError
from codebank.runtime.grpc.tls import Identity, open_blocking_channel
from codebank.runtime.postgres.pool import open_pool
from codebank.settings import READER_ROLE, Settings
from codebank.v1 import bank_pb2 as pb
from codebank.v1 import bank_pb2_grpc
from codebank.wire import new_id

_TIMEOUT_SECONDS = 10


def _call(settings: Settings, ask: Callable[[Any, tuple[tuple[str, str], ...]], Any]) -> dict[str, Any]:
    metadata = (("authorization", f"Bearer {settings.operator_key}"),)
    with open_blocking_channel(settings.bank_target(), Identity.of(settings)) as channel:
        try:
            answer = ask(bank_pb2_grpc.BankStub(channel), metadata)
        except grpc.RpcError as error:
            raise CodebankError(Code.FAILED_PRECONDITION, f"the bank said: {error.details()}") from None
    return MessageToDict(answer, preserving_proto_field_name=True)


def issue_card(settings: Settings, account_id: str, holder_name: str, limit_minor: int) -> dict[str, Any]:
    """Issue a card on an account, or on a new one."""
    request = pb.IssueCardRequest(idempotency_key=str(new_id()))
    if account_id:
        request.account_id = account_id
    else:
        limit = pb.Money(amount_minor=limit_minor, currency="BRL")
        request.new_account.CopyFrom(pb.NewAccount(holder_name=holder_name, limit=limit))
    return _call(settings, lambda bank, key: bank.IssueCard(request, metadata=key, timeout=_TIMEOUT_SECONDS))


def block_card(settings: Settings, card_id: str, reason: str) -> dict[str, Any]:
    value = pb.BlockCardRequest.Reason.Value(f"REASON_{reason.upper()}")
    request = pb.BlockCardRequest(card_id=card_id, reason=value)
    return _call(settings, lambda bank, key: bank.BlockCard(request, metadata=key, timeout=_TIMEOUT_SECONDS))


def unblock_card(settings: Settings, card_id: str) -> dict[str, Any]:
    request = pb.UnblockCardRequest(card_id=card_id)
    return _call(settings, lambda bank, key: bank.UnblockCard(request, metadata=key, timeout=_TIMEOUT_SECONDS))


async def list_cards(settings: Settings) -> list[dict[str, Any]]:
    """List the newest cards, masked."""
    pool = await open_pool(settings.database_url("bank", READER_ROLE), max_size=1)
    try:
        async with pool.acquire() as connection:
            found = await read_cards(connection)
    finally:
        await pool.close()
    return [
        {
            "card_id": card.card_id,
            "account_id": account.account_id,
            "holder_name": account.holder_name,
            "masked": card.masked,
            "brand": card.brand,
            "status": card.status,
            "used_minor": account.used_minor,
            "limit_minor": account.limit_minor,
        }
        for account, card in found
    ]
