"""What is read before a decision, and the locks that are taken where somebody else decides too."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from codebank.bank.operation import IssueCard
from codebank.bank.state import Account, Card, CardPlace, KeyName, Merchant, TakenKey
from codebank.bank.store.rows import (
    ACCOUNT_COLUMNS,
    CARD_COLUMNS,
    KEY_COLUMNS,
    PAYMENT_COLUMNS,
    account_of,
    card_of,
    key_of,
    merchant_of,
    payment_of,
)
from codebank.events import PaymentState
from codebank.runtime.postgres.pool import Connection

_LOCATE: Final = """
select fingerprint, token, account_id, card_id from card
where fingerprint = any($1) or token = any($2) or card_id = any($3)
"""
_READ_KEYS: Final = f"""
select {KEY_COLUMNS} from idempotency_key k
where (k.merchant_id, k.key) in (select * from unnest($1::uuid[], $2::text[]))
"""
_READ_ACCOUNTS: Final = f"""
select {ACCOUNT_COLUMNS}, {CARD_COLUMNS} from account a
left join card c on c.account_id = a.account_id and c.card_id = any($2)
where a.account_id = any($1)
"""
#: The same and keys at once, for a batch waits for each round trip: rows of accounts have no caller, rows of keys no
#: account.
_READ_STATE: Final = f"""
select a.*, null::uuid as caller_id, null::text as key, null::text as key_kind, null::bytea as request_hash,
       null::smallint as hash_version, null::uuid as key_account_id, null::uuid as payment_id,
       null::uuid as key_card_id, null::bytea as answer, null::timestamptz as cancelled_at
from ({_READ_ACCOUNTS}) a
union all
select {", ".join(["null"] * len(f"{ACCOUNT_COLUMNS}, {CARD_COLUMNS}".split(",")))}, {KEY_COLUMNS}
from idempotency_key k where (k.merchant_id, k.key) in (select * from unnest($3::uuid[], $4::text[]))
"""
_READ_PAYMENTS: Final = f"select {PAYMENT_COLUMNS} from payment p where p.payment_id = any($1)"
# In the order of their ids, so that two banks never wait for each other in a circle; what somebody else holds is left
# out, not waited for.
_LOCK_ACCOUNTS: Final = """
select account_id from account where account_id = any($1) order by account_id for update skip locked
"""


async def locate_cards(
    connection: Connection, fingerprints: Collection[bytes], tokens: Collection[str], card_ids: Collection[UUID]
) -> dict[bytes | str | UUID, CardPlace]:
    """Find the cards of fingerprints, tokens and ids."""
    places: dict[bytes | str | UUID, CardPlace] = {}
    for row in await connection.fetch(_LOCATE, list(fingerprints), list(tokens), list(card_ids)):
        place = CardPlace(row["account_id"], row["card_id"])
        places[row["fingerprint"]] = places[row["token"]] = places[row["card_id"]] = place
    return places


async def read_keys(connection: Connection, names: Collection[KeyName]) -> dict[KeyName, TakenKey]:
    """Read what keys were used for; those that nobody used are left out."""
    callers, keys = [caller for caller, _ in names], [key for _, key in names]
    return {(row["caller_id"], row["key"]): key_of(row) for row in await connection.fetch(_READ_KEYS, callers, keys)}


async def read_issue_keys(connection: Connection, keys: Collection[str]) -> dict[str, TakenKey]:
    """Read the operator's keys with which the release before issued cards: it kept them with the cards."""
    rows = await connection.fetch("select issue_key, account_id, card_id from card where issue_key = any($1)", keys)
    return {
        row["issue_key"]: TakenKey(
            kind=IssueCard.kind, request_hash=None, account_id=row["account_id"], card_id=row["card_id"]
        )
        for row in rows
    }


async def read_accounts(
    connection: Connection, account_ids: Collection[UUID], card_ids: Collection[UUID]
) -> tuple[dict[UUID, Account], dict[UUID, Card]]:
    """Read accounts, and those of their cards that are named, as they now are."""
    rows = await connection.fetch(_READ_ACCOUNTS, list(account_ids), list(card_ids))
    accounts = {row["account_id"]: account_of(row) for row in rows}
    return accounts, {row["card_id"]: card_of(row) for row in rows if row["card_id"] is not None}


@dataclass(slots=True)
class Snapshot:
    """Accounts, cards and keys at one moment."""

    accounts: dict[UUID, Account] = field(default_factory=dict)
    cards: dict[UUID, Card] = field(default_factory=dict)
    keys: dict[KeyName, TakenKey] = field(default_factory=dict)


async def read_at_once(
    connection: Connection, account_ids: Collection[UUID], card_ids: Collection[UUID], names: Collection[KeyName]
) -> Snapshot:
    """Read accounts, those of their cards that are named, and keys, all at one moment."""
    callers, keys = [caller for caller, _ in names], [key for _, key in names]
    found = Snapshot()
    for row in await connection.fetch(_READ_STATE, list(account_ids), list(card_ids), callers, keys):
        if row["caller_id"] is not None:
            found.keys[row["caller_id"], row["key"]] = key_of(row)
            continue
        found.accounts[row["account_id"]] = account_of(row)
        if row["card_id"] is not None:
            found.cards[row["card_id"]] = card_of(row)
    return found


async def read_payments(connection: Connection, payment_ids: Collection[UUID]) -> dict[UUID, PaymentState]:
    """Read payments as they now are."""
    rows = await connection.fetch(_READ_PAYMENTS, list(payment_ids))
    return {row["payment_id"]: payment_of(row) for row in rows}


async def read_merchants(connection: Connection, merchant_ids: Collection[UUID]) -> dict[UUID, Merchant]:
    """Read merchants as they now are."""
    rows = await connection.fetch("select * from merchant where merchant_id = any($1)", list(merchant_ids))
    return {row["merchant_id"]: merchant_of(row) for row in rows}


async def lock_accounts(connection: Connection, account_ids: Collection[UUID]) -> set[UUID]:
    """Lock accounts until the transaction ends, and give those that somebody else holds."""
    locked = {row["account_id"] for row in await connection.fetch(_LOCK_ACCOUNTS, list(account_ids))}
    missing = set(account_ids) - locked
    if not missing:
        return set()
    there = await connection.fetch("select account_id from account where account_id = any($1)", list(missing))
    return {row["account_id"] for row in there}


async def find_payment(
    connection: Connection, merchant_id: UUID, *, payment_id: UUID | None = None, key: str = ""
) -> tuple[str, PaymentState] | None:
    """Read a merchant's payment and its key, by its id or by the key."""
    row = await connection.fetchrow(
        f"select {PAYMENT_COLUMNS} from payment p where p.merchant_id = $1 and p.payment_id ="
        " coalesce($2, (select payment_id from idempotency_key where (merchant_id, key) = ($1, $3)))",
        merchant_id,
        payment_id,
        key,
    )
    return (row["idempotency_key"], payment_of(row)) if row else None


async def find_merchant_id(connection: Connection, api_key_hash: bytes) -> UUID | None:
    """Find the merchant of an API key by its hash."""
    merchant_id: UUID | None = await connection.fetchval(
        "select merchant_id from merchant where api_key_hash = $1", api_key_hash
    )
    return merchant_id


async def find_card(connection: Connection, card_id: UUID) -> tuple[Account, Card] | None:
    """Read a card with its account."""
    row = await connection.fetchrow(
        f"select {ACCOUNT_COLUMNS}, {CARD_COLUMNS} from account a join card c using (account_id) where c.card_id = $1",
        card_id,
    )
    return (account_of(row), card_of(row)) if row else None


async def list_cards(connection: Connection) -> list[tuple[Account, Card]]:
    """Read the newest cards with their accounts."""
    rows = await connection.fetch(
        f"select {ACCOUNT_COLUMNS}, {CARD_COLUMNS} from account a join card c using (account_id)"
        " order by c.created_at desc, c.card_id limit 500"
    )
    return [(account_of(row), card_of(row)) for row in rows]


async def has_fingerprint(connection: Connection, fingerprint: bytes) -> bool:
    """Tell whether a number is taken."""
    return bool(await connection.fetchval("select exists (select from card where fingerprint = $1)", fingerprint))
