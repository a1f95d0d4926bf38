"""The operator's hand: issues, reads, blocks and unblocks cards. Each change is told by an event."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
from msgspec.structs import replace

from codebank.bank.account import Account, Card
from codebank.bank.store import cards as store
from codebank.bank.store.reading import lock_accounts
from codebank.bank.store.writing import add_event, advance_sequence
from codebank.bank.vault import Vault
from codebank.card import brand_of, mask, with_check_digit
from codebank.civil import local_day
from codebank.errors import Code, CodebankError
from codebank.events import (
    ACCOUNT_OPENED,
    CARD_BLOCKED,
    CARD_ISSUED,
    CARD_UNBLOCKED,
    AccountEvent,
    CardEvent,
    CardState,
    CardStatus,
)
from codebank.money import Money
from codebank.runtime.postgres.pool import Connection
from codebank.wire import new_id, utc_now

#: Issuer identification number of the cards that this bank makes; no card network has given it to anybody.
ISSUER_NUMBER: Final = "40000020"
VALID_YEARS: Final = 8


@dataclass(frozen=True, slots=True)
class CardView:
    """A card with its account, as an operator may see it."""

    account: Account
    card: Card
    token: str


@dataclass(frozen=True, slots=True)
class Issued:
    """A new card; its number and CVV are shown this once."""

    view: CardView
    number: str
    cvv: str


async def issue_card(
    pool: asyncpg.Pool,
    vault: Vault,
    *,
    issue_key: str,
    account_id: UUID | None = None,
    holder_name: str = "",
    limit: Money | None = None,
) -> Issued:
    """Issue a card on an account, or on a new one. The same key gives the same card, without its number again."""
    async with pool.acquire() as connection, connection.transaction():
        now = utc_now()
        # One operator's key at a time, so that two calls at once issue one card.
        await connection.execute("select pg_advisory_xact_lock(hashtext('issue'), hashtext($1))", issue_key)
        issued = await store.find_issued(connection, issue_key)
        if issued is not None:
            return Issued(await _view(connection, issued), "", "")
        account = await _account_for(connection, account_id, holder_name, limit, now)
        number = await _free_number(connection, vault)
        year, month = local_day(now).year + VALID_YEARS, local_day(now).month
        view = await put_card(
            connection, vault, account, number, (year, month), now, issue_key=issue_key, status=CardStatus.ACTIVE
        )
        return Issued(view, number, vault.cvv(number, year, month))


async def _account_for(
    connection: Connection, account_id: UUID | None, holder_name: str, limit: Money | None, now: datetime
) -> Account:
    if account_id is None:
        assert limit is not None
        opened = await open_account(connection, new_id(), holder_name, limit, now)
        assert opened is not None
        return opened
    found = await lock_accounts(connection, [account_id])
    if account_id not in found:
        raise CodebankError(Code.NOT_FOUND, "no such account")
    return found[account_id]


async def open_account(
    connection: Connection, account_id: UUID, holder_name: str, limit: Money, now: datetime
) -> Account | None:
    """Open an account and tell of it; None where it is open already."""
    account = await store.add_account(connection, account_id, holder_name, limit.currency, limit.amount_minor, now)
    if account is None:
        return None
    account = await _advance(connection, account)
    await add_event(
        connection,
        AccountEvent(
            event_id=new_id(),
            type=ACCOUNT_OPENED,
            account_id=account_id,
            sequence=account.sequence,
            occurred_at=now,
            account=account.state(),
        ),
    )
    return account


async def put_card(
    connection: Connection,
    vault: Vault,
    account: Account,
    number: str,
    expiry: tuple[int, int],
    now: datetime,
    *,
    issue_key: str | None = None,
    status: CardStatus = CardStatus.ACTIVE,
    wrong_attempts: int = 0,
    wrong_since: datetime | None = None,
) -> CardView:
    """Keep a card of a given number on an account whose lock is held, and tell of it."""
    card = Card(
        card_id=new_id(),
        account_id=account.account_id,
        masked=mask(number),
        brand=brand_of(number),
        expiry_month=expiry[1],
        expiry_year=expiry[0],
        status=status,
        wrong_attempts=wrong_attempts,
        wrong_since=wrong_since,
    )
    token = f"tok_{secrets.token_urlsafe(18)}"
    sealed = vault.seal(number, card.card_id)
    new = store.NewCard(
        card=card,
        token=token,
        fingerprint=vault.fingerprint(number),
        number_sealed=sealed,
        issue_key=issue_key,
    )
    await store.add_card(connection, new, now)
    account = await _tell(connection, account, card, CARD_ISSUED, now)
    return CardView(account, card, token)


async def _free_number(connection: Connection, vault: Vault) -> str:
    while True:
        number = with_check_digit(f"{ISSUER_NUMBER}{secrets.randbelow(10**7):07d}")
        if not await store.has_fingerprint(connection, vault.fingerprint(number)):
            return number


async def get_card(pool: asyncpg.Pool, card_id: UUID) -> CardView:
    """Read a card. Raises CodebankError where there is none."""
    async with pool.acquire() as connection:
        return await _view(connection, card_id)


async def _view(connection: Connection, card_id: UUID, *, lock: bool = False) -> CardView:
    found = await store.find_card(connection, card_id, lock=lock)
    if found is None:
        raise CodebankError(Code.NOT_FOUND, "no such card")
    return CardView(*found)


async def list_cards(pool: asyncpg.Pool) -> list[CardView]:
    """Read every card, newest first."""
    async with pool.acquire() as connection:
        return [CardView(*found) for found in await store.list_cards(connection)]


async def block_card(pool: asyncpg.Pool, card_id: UUID, status: CardStatus) -> CardView:
    """Refuse every further charge of a card. Safe to repeat; a lost or stolen card stays so."""
    async with pool.acquire() as connection, connection.transaction():
        view = await _view(connection, card_id, lock=True)
        if view.card.status is status or view.card.status in {CardStatus.LOST, CardStatus.STOLEN}:
            return view
        return await _change(connection, view, status, CARD_BLOCKED)


async def unblock_card(pool: asyncpg.Pool, card_id: UUID) -> CardView:
    """Let a blocked card pay again. Raises CodebankError for a lost or stolen one."""
    async with pool.acquire() as connection, connection.transaction():
        view = await _view(connection, card_id, lock=True)
        if view.card.status is CardStatus.ACTIVE:
            return view
        if view.card.status is not CardStatus.BLOCKED:
            raise CodebankError(
                Code.FAILED_PRECONDITION,
                f"a {view.card.status} card never pays again",
                hint="issue a new card on the account",
            )
        return await _change(connection, view, CardStatus.ACTIVE, CARD_UNBLOCKED)


async def _change(connection: Connection, view: CardView, status: CardStatus, event_type: str) -> CardView:
    card = replace(view.card, status=status)
    await store.set_card_status(connection, card, status)
    account = await _tell(connection, view.account, card, event_type, utc_now())
    return CardView(account, card, view.token)


async def _tell(connection: Connection, account: Account, card: Card, event_type: str, now: datetime) -> Account:
    account = await _advance(connection, account)
    state = CardState(
        card_id=card.card_id,
        card_masked=card.masked,
        card_brand=card.brand,
        expiry_month=card.expiry_month,
        expiry_year=card.expiry_year,
        status=card.status,
    )
    await add_event(
        connection,
        CardEvent(
            event_id=new_id(),
            type=event_type,
            account_id=account.account_id,
            sequence=account.sequence,
            occurred_at=now,
            account=account.state(),
            card=state,
        ),
    )
    return account


async def _advance(connection: Connection, account: Account) -> Account:
    await advance_sequence(connection, account.account_id)
    return replace(account, sequence=account.sequence + 1)
