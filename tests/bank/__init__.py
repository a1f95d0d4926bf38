"""The bank's tests: how they call a running bank, and how they read its books."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from codebank.bank.ledger.entry import Entry, Kind, first_broken
from codebank.bank.test_cards import TEST_CARDS, TestCard
from codebank.runtime.grpc.channels import channels_for, open_channels
from codebank.v1 import bank_pb2 as pb
from codebank.v1 import bank_pb2_grpc
from tests.conftest import TEST_MERCHANT_KEY, TEST_OPERATOR_KEY

if TYPE_CHECKING:
    from codebank.v1.bank_pb2_grpc import BankAsyncStub

MERCHANT = (("authorization", f"Bearer {TEST_MERCHANT_KEY}"),)
OPERATOR = (("authorization", f"Bearer {TEST_OPERATOR_KEY}"),)
#: The columns of `entry` in the order of the dataclass.
_ENTRIES = "select * from entry where account_id = $1 order by entry_number"


def published(outcome: str) -> TestCard:
    """Give the first published card of an outcome."""
    return next(card for card in TEST_CARDS if card.outcome == outcome)


APPROVED = published("approved")


@contextlib.asynccontextmanager
async def calling(address: str, processes: int = 1) -> AsyncIterator[BankAsyncStub]:
    """Call a bank, over as many connections as its processes want."""
    channel = open_channels(address, None, channels_for(processes), [("grpc.use_local_subchannel_pool", 1)])
    try:
        yield bank_pb2_grpc.BankStub(channel)
    finally:
        await channel.close(None)


def charge(key: str, amount_minor: int = 100, card: TestCard = APPROVED, currency: str = "BRL") -> pb.AuthorizeRequest:
    """Ask for a charge of a published card."""
    return pb.AuthorizeRequest(
        card_data=pb.CardData(
            number=card.number, expiry_month=card.expiry_month, expiry_year=card.expiry_year, cvv=card.cvv
        ),
        amount=pb.Money(amount_minor=amount_minor, currency=currency),
        description="coffee",
        parcelas=1,
        idempotency_key=key,
    )


def charge_issued(key: str, issued: pb.IssueCardResponse, amount_minor: int = 100) -> pb.AuthorizeRequest:
    """Ask for a charge of a card that this bank issued."""
    request = charge(key, amount_minor)
    request.card_data.CopyFrom(
        pb.CardData(
            number=issued.number,
            expiry_month=issued.card.expiry_month,
            expiry_year=issued.card.expiry_year,
            cvv=issued.cvv,
        )
    )
    return request


async def issue(bank: BankAsyncStub, limit_minor: int, key: str = "issue-1") -> pb.IssueCardResponse:
    """Issue a card on a new account."""
    limit = pb.Money(amount_minor=limit_minor, currency="BRL")
    request = pb.IssueCardRequest(new_account=pb.NewAccount(holder_name="Rui Dias", limit=limit), idempotency_key=key)
    return await bank.IssueCard(request, metadata=OPERATOR)


async def refusal(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """Make a call that must fail, and give its error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


#: Keeps every commit of the bank waiting while the gate's row is there; without a lock, so that no timeout ends it.
_GATE = """
create table gate (closed boolean);
create function wait_at_gate() returns trigger language plpgsql as $$
begin
    while exists (select from gate) loop perform pg_sleep(0.01); end loop;
    return new;
end $$;
create trigger gate before insert on outbox for each row execute function wait_at_gate();
"""
_COMMITTING = (
    "select exists (select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep')"
)


@contextlib.asynccontextmanager
async def committing(
    bank: asyncpg.Connection, call: Callable[[], Awaitable[Any]]
) -> AsyncIterator[asyncio.Future[Any]]:
    """Make a call, and keep its commit under way for as long as the block lasts."""
    await bank.execute(_GATE)
    await bank.execute("insert into gate values (true)")
    future = asyncio.ensure_future(call())
    try:
        async with asyncio.timeout(20):
            while not await bank.fetchval(_COMMITTING):
                assert not future.done(), future.result()
                await asyncio.sleep(0.01)
        yield future
    finally:
        await bank.execute("delete from gate")
        await bank.execute("drop trigger gate on outbox; drop function wait_at_gate; drop table gate")


def wrong_fields(error: grpc.aio.AioRpcError) -> set[str]:
    """Give the names of the fields that an error complains of."""
    found = BadRequest()
    for detail in _details(error):
        if detail.Is(BadRequest.DESCRIPTOR):
            detail.Unpack(found)
    return {violation.field for violation in found.field_violations}


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Give the machine's word for an error."""
    found = ErrorInfo()
    for detail in _details(error):
        if detail.Is(ErrorInfo.DESCRIPTOR):
            detail.Unpack(found)
    return str(found.reason)


def _details(error: grpc.aio.AioRpcError) -> list[Any]:
    metadata: Any = error.trailing_metadata() or ()
    raw = dict(metadata).get("grpc-status-details-bin", b"")
    return list(Status.FromString(raw).details)


@dataclass(frozen=True, slots=True)
class Books:
    """How much the bank remembers: two of these are equal where nothing moved."""

    payments: int
    entries: int
    keys: int
    events: int
    used_minor: int
    wrong_attempts: int


async def read_books(bank: asyncpg.Connection) -> Books:
    """Count what the bank remembers."""
    row = await bank.fetchrow(
        "select (select count(*) from payment), (select count(*) from entry), (select count(*) from idempotency_key),"
        " (select count(*) from outbox), (select sum(used_minor)::bigint from account),"
        " (select sum(wrong_attempts)::bigint from card)"
    )
    assert row is not None
    return Books(*row)


async def require_sound_books(bank: asyncpg.Connection) -> None:
    """Check every account: balance, ledger, chain of hashes, payments, keys and events say the same."""
    for account in await bank.fetch("select * from account"):
        account_id = account["account_id"]
        entries = [entry_of(row) for row in await bank.fetch(_ENTRIES, account_id)]
        sequences = [
            row["sequence"]
            for row in await bank.fetch("select sequence from outbox where account_id = $1 order by 1", account_id)
        ]
        assert sequences == list(range(1, account["sequence"] + 1))
        assert first_broken(entries) is None
        assert (account["entry_number"], account["entry_hash"]) == (
            (entries[-1].entry_number, entries[-1].hash) if entries else (0, bytes(32))
        )
        assert account["used_minor"] == owed(entries, account_id)
        assert 0 <= account["used_minor"] <= account["limit_minor"]
        assert [entry.amount_minor for entry in entries] == await _amounts_moved(bank, account_id)
    strays = await bank.fetchval(
        "select count(*) from idempotency_key k full join payment p using (account_id, payment_id)"
        " where p.payment_id is null and k.payment_id is not null or k.payment_id is null and p.payment_id is not null"
    )
    assert strays == 0


def owed(entries: list[Entry], account_id: UUID) -> int:
    """Add up what the ledger says that an account owes."""
    mine = (Kind.RECEIVABLE, account_id)
    debits = sum(e.amount_minor for e in entries if (e.debit_kind, e.debit_id) == mine)
    credits = sum(e.amount_minor for e in entries if (e.credit_kind, e.credit_id) == mine)
    return debits - credits


def entry_of(row: asyncpg.Record) -> Entry:
    """Read a ledger entry from its row."""
    return Entry(*(row[name] for name in Entry.__struct_fields__))


async def _amounts_moved(bank: asyncpg.Connection, account_id: UUID) -> list[int]:
    """Give the amounts of an account's payments that moved money, each time that it moved."""
    rows = await bank.fetch(
        "select p.amount_minor from entry e join payment p using (account_id, payment_id)"
        " where account_id = $1 and p.status <> 'declined' order by e.entry_number",
        account_id,
    )
    moved = await bank.fetchval(
        "select coalesce(sum(case status when 'approved' then 1 when 'refunded' then 2 else 0 end), 0) from payment"
        " where account_id = $1",
        account_id,
    )
    assert len(rows) == moved
    return [row["amount_minor"] for row in rows]
