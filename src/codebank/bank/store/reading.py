"""What is read and locked before a decision, and the keys that are taken."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from codebank.bank.account import Account, Card, Merchant
from codebank.bank.store.rows import ACCOUNT_COLUMNS, CARD_COLUMNS, PAYMENT_COLUMNS, account_of, card_of, payment_of
from codebank.events import PaymentState
from codebank.runtime.postgres.pool import Connection

# Rows are locked in the order of their ids, so that two banks never wait for each other in a circle. Locking the
# card's row too makes PostgreSQL return its latest version, not the one of the statement's snapshot.
_LOCK_BY_CARD: Final = f"""
select {ACCOUNT_COLUMNS}, {CARD_COLUMNS} from account a join card c using (account_id)
where c.card_id = any($1) order by a.account_id, c.card_id for update of a, c
"""
_LOCK_ACCOUNTS: Final = (
    f"select {ACCOUNT_COLUMNS} from account a where account_id = any($1) order by account_id for update"
)
_LOCATE: Final = """
select fingerprint, token, account_id, card_id from card where fingerprint = any($1) or token = any($2)
"""

_TAKE_KEYS: Final = """
insert into idempotency_key (merchant_id, key, request_hash, account_id, payment_id, created_at)
select * from unnest($1::uuid[], $2::text[], $3::bytea[], $4::uuid[], $5::uuid[], $6::timestamptz[])
order by 1, 2
on conflict do nothing returning merchant_id, key
"""
_READ_KEYS: Final = f"""
select k.merchant_id as owner_id, k.key, k.request_hash, {PAYMENT_COLUMNS}
from idempotency_key k left join payment p on (p.account_id, p.payment_id) = (k.account_id, k.payment_id)
where (k.merchant_id, k.key) in (select * from unnest($1::uuid[], $2::text[]))
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a card is."""

    account_id: UUID
    card_id: UUID


@dataclass(frozen=True, slots=True)
class TakenKey:
    """A key that somebody used before. Without a payment it is a tombstone."""

    request_hash: bytes | None
    payment: PaymentState | None


async def locate_cards(
    connection: Connection, fingerprints: Collection[bytes], tokens: Collection[str]
) -> dict[bytes | str, Place]:
    """Find the cards of fingerprints and tokens. What a card belongs to never changes, so this may be cached."""
    places: dict[bytes | str, Place] = {}
    for row in await connection.fetch(_LOCATE, list(fingerprints), list(tokens)):
        places[row["fingerprint"]] = places[row["token"]] = Place(row["account_id"], row["card_id"])
    return places


async def lock_by_card(
    connection: Connection, card_ids: Collection[UUID]
) -> tuple[dict[UUID, Account], dict[UUID, Card]]:
    """Lock cards with their accounts until the transaction ends, and read both as they now are."""
    rows = await connection.fetch(_LOCK_BY_CARD, list(card_ids))
    return {row["account_id"]: account_of(row) for row in rows}, {row["card_id"]: card_of(row) for row in rows}


async def lock_accounts(connection: Connection, account_ids: Collection[UUID]) -> dict[UUID, Account]:
    """Lock accounts until the transaction ends, and read them as they now are."""
    rows = await connection.fetch(_LOCK_ACCOUNTS, list(account_ids))
    return {row["account_id"]: account_of(row) for row in rows}


async def take_keys(
    connection: Connection, keys: Sequence[tuple[UUID, str, bytes, UUID, UUID]], now: datetime
) -> set[tuple[UUID, str]]:
    """Take the idempotency keys that are free and return those taken now.

    A key that another transaction is taking at this moment is waited for.
    """
    columns = [list(column) for column in zip(*keys, strict=True)]
    rows = await connection.fetch(_TAKE_KEYS, *columns, [now] * len(keys))
    return {(row["merchant_id"], row["key"]) for row in rows}


async def close_key(connection: Connection, merchant_id: UUID, key: str, now: datetime) -> bool:
    """Leave a tombstone on a key that nobody used; False where somebody did."""
    row = await connection.fetchrow(
        "insert into idempotency_key (merchant_id, key, created_at) values ($1, $2, $3)"
        " on conflict do nothing returning key",
        merchant_id,
        key,
        now,
    )
    return row is not None


async def read_keys(connection: Connection, keys: Collection[tuple[UUID, str]]) -> dict[tuple[UUID, str], TakenKey]:
    """Read what keys were used for."""
    merchants, names = [merchant for merchant, _ in keys], [name for _, name in keys]
    return {
        (row["owner_id"], row["key"]): TakenKey(row["request_hash"], payment_of(row) if row["payment_id"] else None)
        for row in await connection.fetch(_READ_KEYS, merchants, names)
    }


async def find_payment(connection: Connection, merchant_id: UUID, payment_id: UUID) -> tuple[str, PaymentState] | None:
    """Read a merchant's payment and its key by id."""
    row = await connection.fetchrow(
        f"select p.idempotency_key, {PAYMENT_COLUMNS} from payment p where payment_id = $1 and merchant_id = $2",
        payment_id,
        merchant_id,
    )
    return (row["idempotency_key"], payment_of(row)) if row else None


async def find_payment_account(connection: Connection, payment_id: UUID) -> UUID:
    """Tell which account a payment belongs to."""
    account_id: UUID = await connection.fetchval("select account_id from payment where payment_id = $1", payment_id)
    return account_id


async def find_merchant(connection: Connection, api_key_hash: bytes) -> Merchant | None:
    """Find the merchant of an API key by its hash."""
    row = await connection.fetchrow("select * from merchant where api_key_hash = $1", api_key_hash)
    if row is None:
        return None
    return Merchant(
        merchant_id=row["merchant_id"],
        name=row["name"],
        category_code=row["category_code"],
        is_open=row["status"] == "open",
    )
