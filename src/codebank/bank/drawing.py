"""Draws a card: its number, its CVV and what the vault keeps of them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from codebank.bank.operation import IssueCard, Key, OpenAccount
from codebank.bank.state import Card
from codebank.bank.vault import Vault
from codebank.card import brand_of, mask, with_check_digit
from codebank.civil import local_day
from codebank.events import CardStatus
from codebank.wire import new_id

#: Issuer identification number of the cards that this bank makes; no card network has given it to anybody.
ISSUER_NUMBER: Final = "40000020"
VALID_YEARS: Final = 8


@dataclass(frozen=True, slots=True)
class Plastic:
    """What is printed on a card."""

    number: str
    #: Year and month.
    expiry: tuple[int, int]

    def __repr__(self) -> str:
        return "Plastic(…)"


def draw(now: datetime) -> Plastic:
    """Draw a number of ours and an expiry; whether the number is free is the database's to say."""
    day = local_day(now)
    number = with_check_digit(f"{ISSUER_NUMBER}{secrets.randbelow(10**7):07d}")
    return Plastic(number, (day.year + VALID_YEARS, day.month))


def issuing(
    vault: Vault,
    plastic: Plastic,
    account_id: UUID,
    *,
    key: Key | None = None,
    opens: OpenAccount | None = None,
    status: CardStatus = CardStatus.ACTIVE,
) -> IssueCard:
    """Make the operation that issues a card of a given number."""
    card = Card(
        card_id=new_id(),
        account_id=account_id,
        token=f"tok_{secrets.token_urlsafe(18)}",
        masked=mask(plastic.number),
        brand=brand_of(plastic.number),
        expiry_month=plastic.expiry[1],
        expiry_year=plastic.expiry[0],
        status=status,
    )
    return IssueCard(
        key=key,
        account_id=account_id,
        opens=opens,
        card=card,
        fingerprint=vault.fingerprint(plastic.number),
        number_sealed=vault.seal(plastic.number, card.card_id),
    )
