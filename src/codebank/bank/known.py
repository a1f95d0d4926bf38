"""Reads what a batch is to be decided on, without a lock: as a rule in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from codebank.bank.deciding import Known, account_of
from codebank.bank.memory import Memory, Places
from codebank.bank.operation import IssueCard, Operation, Reads
from codebank.bank.state import Merchant
from codebank.bank.store import reading
from codebank.runtime.postgres.pool import Connection


async def read_known(connection: Connection, memory: Memory, operations: Sequence[Operation]) -> Known:
    """Read accounts, cards, merchants and keys as they now are; where keys were used, also what they made."""
    reads = [operation.reads() for operation in operations]
    places, merchants = await locate(connection, memory, reads), await _read_merchants(connection, memory, reads)
    names = {(one.key.caller_id, one.key.name) for one in operations if one.key is not None}
    names |= {one.target for one in reads if one.target is not None}
    account_ids, card_ids = set[UUID](), set[UUID]()
    for one in reads:
        if (account_id := account_of(one, places, {})) is not None:
            account_ids.add(account_id)
        if one.card is not None and one.card in places:
            card_ids.add(places[one.card].card_id)
    found = await reading.read_at_once(connection, account_ids, card_ids, names)
    known = Known(places, merchants, found.accounts, found.cards, keys=found.keys)
    await _read_issue_keys(connection, known, operations)
    if known.keys:
        await _read_what_keys_made(connection, known)
    return known


async def accounts_of(connection: Connection, memory: Memory, operations: Sequence[Operation]) -> list[UUID | None]:
    """Give the account that each operation is about, as far as it has one."""
    reads = [operation.reads() for operation in operations]
    places = await locate(connection, memory, reads)
    targets = [one.target for one in reads if one.target is not None]
    keys = await reading.read_keys(connection, targets) if targets else {}
    return [account_of(one, places, keys) for one in reads]


async def locate(connection: Connection, memory: Memory, reads: Sequence[Reads]) -> Places:
    """Find the cards of a batch; those that are not known yet are looked up.

    What a batch uses is its own: the memory is shared with what happens beside it, and may be emptied meanwhile.
    """
    wanted = {one.card for one in reads if one.card is not None}
    unknown = [handle for handle in wanted if handle not in memory.places]
    if not unknown:
        return {handle: memory.places[handle] for handle in wanted}
    fingerprints = [handle for handle in unknown if isinstance(handle, bytes)]
    tokens = [handle for handle in unknown if isinstance(handle, str)]
    card_ids = [handle for handle in unknown if isinstance(handle, UUID)]
    places = {handle: memory.places[handle] for handle in wanted if handle in memory.places}
    found = await reading.locate_cards(connection, fingerprints, tokens, card_ids)
    memory.note_places(found)
    return places | found


async def _read_what_keys_made(connection: Connection, known: Known) -> None:
    """Read what the keys that were taken before are answered with, or are about."""
    taken = known.keys.values()
    account_ids = {key.account_id for key in taken if key.account_id is not None} - known.accounts.keys()
    card_ids = {key.card_id for key in taken if key.card_id is not None} - known.cards.keys()
    if account_ids or card_ids:
        account_ids |= {key.account_id for key in taken if key.card_id in card_ids and key.account_id is not None}
        accounts, cards = await reading.read_accounts(connection, account_ids, card_ids)
        # What was read before stays: its cards were read with it.
        known.accounts, known.cards = accounts | known.accounts, cards | known.cards
    payment_ids = [key.payment_id for key in taken if key.payment_id is not None]
    if payment_ids:
        # After their accounts: a payment that changes from now on counts its account's version, and is noticed.
        known.payments = await reading.read_payments(connection, payment_ids)


async def _read_merchants(connection: Connection, memory: Memory, reads: Sequence[Reads]) -> dict[UUID, Merchant]:
    wanted = {one.merchant_id for one in reads if one.merchant_id is not None}
    found = {one: memory.merchants[one] for one in wanted if one in memory.merchants}
    if unknown := wanted - found.keys():
        found |= await reading.read_merchants(connection, unknown)
        memory.merchants.update(found)
    return found


async def _read_issue_keys(connection: Connection, known: Known, operations: Sequence[Operation]) -> None:
    """Look for keys that the release before kept with its cards."""
    wanted = {
        operation.key.name: (operation.key.caller_id, operation.key.name)
        for operation in operations
        if operation.kind == IssueCard.kind and operation.key is not None
    }
    missing = [name for name, full in wanted.items() if full not in known.keys]
    if missing:
        found = await reading.read_issue_keys(connection, missing)
        known.keys.update({wanted[name]: key for name, key in found.items()})
