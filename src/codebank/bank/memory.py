"""What a bank remembers beyond one batch, so that a charge of a card that was charged before reads nothing.

What is remembered may be old: it is decided on, and the write that names its version is refused where it has moved. It
counts only for the session in which it was read or written: whatever puts a database back to an earlier moment ends its
sessions, and a version that is counted up to a second time means something else.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from codebank.bank.deciding import Known, Writes
from codebank.bank.operation import Operation
from codebank.bank.state import Account, Card, CardPlace, KeyName, Merchant

#: A place is small, and never changes.
_PLACES_MAX: Final = 200_000
_ACCOUNTS_MAX: Final = 20_000
#: Of each of two generations.
_KEYS_MAX: Final = 10_000
#: For so long an account that somebody else changes too is read each time.
_SHARED_SECONDS: Final = 1

#: Card, by whatever names it → where it is.
Places = dict[bytes | str | UUID, CardPlace]


@dataclass(slots=True)
class _Remembered:
    """An account with those of its cards that were looked at, all at one version."""

    account: Account
    cards: dict[UUID, Card]
    session: int


@dataclass
class Memory:
    """Places, merchants, accounts with their cards, and keys that were used lately."""

    places: Places = field(default_factory=dict)
    #: As they were read last; whoever decides on an older one is told that it has moved.
    merchants: dict[UUID, Merchant] = field(default_factory=dict)
    #: Kept in an order from whose end one is taken without a look through all that were taken before.
    _accounts: OrderedDict[UUID, _Remembered] = field(default_factory=OrderedDict)
    #: Accounts that are read each time, and until when, on the clock of `time.monotonic`.
    _shared: set[UUID] = field(default_factory=set)
    _shared_until: float = 0
    #: Keys that somebody is likely to repeat, and those of the generation before: that goes as a whole, because taking
    #: the oldest out of a dictionary one by one looks through all that went before it.
    _keys: set[KeyName] = field(default_factory=set)
    _older_keys: set[KeyName] = field(default_factory=set)

    def recall(self, session: int, operations: Sequence[Operation]) -> Known | None:
        """Give what these operations are to be decided on; None where anything of it must be read.

        Taken for granted is that nobody used their keys: the write is refused where somebody did.
        """
        known = Known({}, {})
        for operation in operations:
            reads, key = operation.reads(), operation.key
            if key is None or reads.card is None or reads.target is not None:
                return None
            if (name := (key.caller_id, key.name)) in self._keys or name in self._older_keys:
                return None
            place = self.places.get(reads.card)
            remembered = self._accounts.get(place.account_id) if place is not None else None
            if place is None or remembered is None or remembered.session != session:
                return None
            card = remembered.cards.get(place.card_id)
            merchant = self.merchants.get(reads.merchant_id) if reads.merchant_id is not None else None
            if card is None or (merchant is None and reads.merchant_id is not None):
                return None
            known.places[reads.card] = place
            known.accounts[place.account_id], known.cards[place.card_id] = remembered.account, card
            if merchant is not None:
                known.merchants[merchant.merchant_id] = merchant
        return known

    def remember(self, session: int, known: Known, writes: Writes, *, was_read: bool) -> None:
        """Take note of what a batch left behind, once it is committed."""
        self._note_keys(writes.keys)
        if self._shared and time.monotonic() >= self._shared_until:
            self._shared.clear()
        for account_id, account in writes.accounts.items():
            if account_id in self._shared:
                continue
            before = self._accounts.get(account_id)
            # Cards that were looked at earlier are as they were only if nobody else changed the account meanwhile.
            is_known = not was_read and before is not None and before.session == session
            self._accounts[account_id] = _Remembered(account, before.cards if is_known and before else {}, session)
        for card in known.cards.values():
            if card.account_id in writes.accounts and (remembered := self._accounts.get(card.account_id)) is not None:
                remembered.cards[card.card_id] = card
        while len(self._accounts) > _ACCOUNTS_MAX:
            self._accounts.popitem(last=False)

    def forget(self, account_ids: Iterable[UUID]) -> None:
        """Read accounts anew the next time, and for a while each time: somebody else changes them too."""
        self.merchants.clear()
        self._shared_until = time.monotonic() + _SHARED_SECONDS
        if len(self._shared) > _ACCOUNTS_MAX:
            self._shared.clear()
        for account_id in account_ids:
            self._accounts.pop(account_id, None)
            self._shared.add(account_id)

    def note_places(self, found: Places) -> None:
        """Remember where cards are."""
        if len(self.places) > _PLACES_MAX:
            self.places.clear()
        self.places.update(found)

    def _note_keys(self, names: Iterable[KeyName]) -> None:
        self._keys.update(names)
        if len(self._keys) > _KEYS_MAX:
            self._keys, self._older_keys = set(), self._keys
