"""Lines: what an event makes of a statement. Pure."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from codebank.civil import local_day
from codebank.events import Event, PaymentEvent, PaymentState
from codebank.money import AMOUNT_MINOR_MAX

#: Merchant categories (ISO 18245), from-to, with the tint of their circle.
_TINTS: Final = (
    (3000, 3999, 2),  # airlines, hotels, cars
    (4000, 4799, 2),  # travel
    (4800, 4999, 6),  # communication, utilities
    (5300, 5399, 1),  # department stores
    (5400, 5499, 3),  # groceries
    (5500, 5599, 7),  # fuel
    (5600, 5699, 8),  # clothes
    (5811, 5814, 4),  # restaurants
    (5900, 5999, 5),  # shops of one kind
    (7000, 7999, 6),  # services, leisure
    (8000, 8999, 7),  # health, schools
)
#: Nobody pays in more instalments; a newer bank may allow more than this one.
_PARCELAS_MAX: Final = 9999
#: The first six and the last four digits of a card may be shown (PCI DSS 3.4), and no more.
_MASKED_DIGITS_MAX: Final = 10


class Step(StrEnum):
    """What an event's number says of it."""

    #: It is the next one.
    NEXT = "next"
    #: It was applied before.
    REPEAT = "repeat"
    #: One before it is missing.
    GAP = "gap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row that the cardholder sees."""

    account_id: UUID
    payment_id: UUID
    sequence: int
    first_sequence: int
    merchant_name: str
    merchant_category: str
    description: str
    amount_minor: int
    currency: str
    parcelas: int
    #: A `PaymentStatus` and a `DeclineCode`, or what a newer bank calls them.
    status: str
    decline_code: str | None
    refunded_minor: int
    card_masked: str
    available_minor: int
    occurred_at: datetime
    local_day: date

    @property
    def search_text(self) -> str:
        """What a search looks at."""
        return search_form(f"{self.merchant_name} {self.description} {self.card_masked}")


def step_of(sequence: int, last_applied: int) -> Step:
    """Tell whether an event is the account's next one."""
    if sequence <= last_applied:
        return Step.REPEAT
    return Step.NEXT if sequence == last_applied + 1 else Step.GAP


def line_of(event: Event) -> Line | None:
    """Make the line of a payment's event; None where the event is not of a payment.

    The first event's number and moment are kept by whoever stores the line: a line does not move when it changes.
    Raises ValueError or OverflowError where what it says of the payment has no meaning, whatever a newer bank calls it.
    """
    if not isinstance(event, PaymentEvent):
        return None
    payment = event.payment
    _check(payment)
    return Line(
        account_id=event.account_id,
        payment_id=payment.payment_id,
        sequence=event.sequence,
        first_sequence=event.sequence,
        merchant_name=payment.merchant_name,
        merchant_category=payment.merchant_category,
        description=payment.description,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        parcelas=payment.parcelas,
        status=payment.status,
        decline_code=payment.decline_code,
        refunded_minor=payment.refunded_minor,
        card_masked=payment.card_masked,
        available_minor=event.account.available_minor,
        occurred_at=payment.created_at,
        local_day=local_day(payment.created_at),
    )


def _check(payment: PaymentState) -> None:
    """Refuse numbers that would make sums wrong, and a card that is not masked. What things are called is open."""
    if not 1 <= payment.amount_minor <= AMOUNT_MINOR_MAX:
        raise ValueError(f"{payment.amount_minor} minor units are no amount of a payment")
    if not 0 <= payment.refunded_minor <= payment.amount_minor:
        raise ValueError(f"{payment.refunded_minor} of {payment.amount_minor} minor units cannot have been given back")
    if not 1 <= payment.parcelas <= _PARCELAS_MAX:
        raise ValueError(f"{payment.parcelas} is no number of parcelas")
    if sum(map(str.isdigit, payment.card_masked)) > _MASKED_DIGITS_MAX:
        raise ValueError("its card is not masked")


def search_form(text: str) -> str:
    """Write a text as it is searched: lower case, without accents."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in parts if not unicodedata.combining(character))


def tint_of(merchant_category: str) -> int:
    """Choose the tint of a merchant's circle, 1 to 8, by its category."""
    if merchant_category.isascii() and merchant_category.isdigit():
        for first, last, tint in _TINTS:
            if first <= int(merchant_category) <= last:
                return tint
    return 7


def initial_of(name: str) -> str:
    """Give the letter of a merchant's circle."""
    return next((character.upper() for character in name if character.isalnum()), "•")


def used_percent(limit_minor: int, used_minor: int) -> int:
    """Tell how much of a limit is used, 0 to 100, never 0 where something is."""
    if limit_minor <= 0 or used_minor <= 0:
        return 0
    return min(100, max(1, used_minor * 100 // limit_minor))
