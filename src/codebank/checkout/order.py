"""Orders: what a basket costs, what a buyer typed, and what the bank's answer makes of an order. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from codebank.card import is_expired, is_number_shaped, passes_luhn
from codebank.checkout.catalogue import Product
from codebank.errors import Violation
from codebank.money import AMOUNT_MINOR_MAX, Money
from codebank.text import made_readable

QUANTITY_MAX: Final = 99
ITEMS_MAX: Final = 20
PARCELAS_MAX: Final = 12
#: What the bank takes of a description at most.
DESCRIPTION_LENGTH_MAX: Final = 140
#: The currency of the shop.
CURRENCY: Final = "BRL"


class OrderStatus(StrEnum):
    """Where an order stands."""

    #: Written down, the bank not yet asked.
    PENDING = "pending"
    #: The bank was asked, its answer is not known.
    PROCESSING = "processing"
    PAID = "paid"
    DECLINED = "declined"
    #: Never charged, or given back, because its outcome stayed unknown for too long.
    CANCELLED = "cancelled"


#: The outcome of an order in one of these is to be found out.
OPEN: Final = frozenset({OrderStatus.PENDING, OrderStatus.PROCESSING})
#: An order in one of these changes no more.
ENDED: Final = frozenset({OrderStatus.PAID, OrderStatus.DECLINED, OrderStatus.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderLine:
    """One product of an order, as it was when the buyer confirmed."""

    product: str
    name: str
    quantity: int
    unit_price_minor: int

    @property
    def total_minor(self) -> int:
        """What the line costs."""
        return self.quantity * self.unit_price_minor


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A basket that a buyer confirmed. Its id is the idempotency key at the bank: one order, one charge."""

    order_id: UUID
    #: An `OrderStatus`, or what a newer shop calls it: then it is neither open nor ended, and left alone.
    status: str
    total: Money
    parcelas: int
    lines: tuple[OrderLine, ...]
    card_masked: str
    card_brand: str
    created_at: datetime
    #: As `2034-12`; None where the release before made the order. Nothing else of the card is kept.
    card_expiry: str | None = None
    #: Whose page made it; None where REST did.
    basket_id: UUID | None = None
    payment_id: UUID | None = None
    #: As the bank names it, or its number where that has no name here, such as `code_37`; the advice likewise.
    decline_code: str | None = None
    advice: str | None = None
    #: When the bank decided.
    decided_at: datetime | None = None
    #: When the answer was written down here.
    settled_at: datetime | None = None
    #: How often the bank was asked about it.
    tries: int = 1

    @property
    def is_open(self) -> bool:
        """Whether its outcome is to be found out."""
        return self.status in OPEN

    @property
    def is_ended(self) -> bool:
        """Whether the order changes no more."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class CardInput:
    """A card as its holder typed it; passed on to the bank and forgotten."""

    number: str
    expiry_month: int
    expiry_year: int
    cvv: str

    def __repr__(self) -> str:
        return "CardInput(…)"

    @property
    def expiry(self) -> str:
        """The last month in which it is good, as `2034-12`."""
        return f"{self.expiry_year:04}-{self.expiry_month:02}"


@dataclass(frozen=True, slots=True)
class Approved:
    """The bank moved the money."""

    payment_id: UUID
    amount: Money
    #: None where the bank did not say it in a way that is understood.
    decided_at: datetime | None


@dataclass(frozen=True, slots=True)
class Declined:
    """The bank refused."""

    payment_id: UUID | None
    code: str
    advice: str | None
    decided_at: datetime | None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The bank made sure that nothing is charged."""

    payment_id: UUID | None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The bank's answer did not come, or is not understood; the money may have moved or not."""

    reason: str


Outcome = Approved | Declined | Cancelled | Unknown


class AmountMismatch(Exception):
    """The bank charged another amount than the order's."""


class StaleAttempt(Exception):
    """The page that was sent is not the basket's present one; nothing was charged."""


class TotalChanged(Exception):
    """The basket costs something else than the page said; nothing was charged."""


class EmptyBasket(Exception):
    """There is nothing to pay."""


def settle(order: Order, outcome: Outcome, now: datetime) -> Order:
    """Give the order after an answer. An order that is not open stays as it is, whatever comes late.

    Raises AmountMismatch when the bank approved another amount.
    """
    if not order.is_open:
        return order
    match outcome:
        case Unknown():
            return replace(order, status=OrderStatus.PROCESSING)
        case Cancelled(payment_id):
            return replace(order, status=OrderStatus.CANCELLED, payment_id=payment_id, settled_at=now)
        case Declined(payment_id, code, advice, decided_at):
            return replace(
                order,
                status=OrderStatus.DECLINED,
                payment_id=payment_id,
                decline_code=code,
                advice=advice,
                decided_at=_until(decided_at, now),
                settled_at=now,
            )
        case Approved(payment_id, amount, decided_at):
            if amount != order.total:
                raise AmountMismatch(f"order {order.order_id} is {order.total}, the bank charged {amount}")
            return replace(
                order,
                status=OrderStatus.PAID,
                payment_id=payment_id,
                decided_at=_until(decided_at, now),
                settled_at=now,
            )


def _until(decided_at: datetime | None, now: datetime) -> datetime | None:
    """Give when the bank decided: before its answer came, whatever its clock says."""
    return decided_at and min(decided_at, now)


def disowned(outcome: Outcome) -> Outcome:
    """Give what remains of an answer that names another order's payment: of an approval nothing is understood."""
    if isinstance(outcome, Declined | Cancelled):
        return replace(outcome, payment_id=None)
    return Unknown("an answer with another order's payment")


def is_overdue(order: Order, now: datetime, cancel_after_seconds: int) -> bool:
    """Tell whether an outcome has been unknown for too long to wait for it."""
    return order.is_open and now - order.created_at >= timedelta(seconds=cancel_after_seconds)


def line_of(product: Product, quantity: int, language: str) -> OrderLine:
    """Make the line of a product at its price and by its name of now."""
    return OrderLine(
        product=product.slug, name=product.name(language), quantity=quantity, unit_price_minor=product.price_minor
    )


def total_of(lines: Sequence[OrderLine]) -> Money:
    """Add up an order. Raises ValueError where it is nothing or more than one payment may be."""
    total = sum(line.total_minor for line in lines)
    if not 1 <= total <= AMOUNT_MINOR_MAX:
        raise ValueError(f"an order of {total} minor units cannot be paid")
    return Money(total, CURRENCY)


def description_of(order: Order) -> str:
    """Say what was bought, as the cardholder shall read it: `2 × Caneca esmaltada, Café especial`.

    Made of what the order keeps and nothing else: each try must ask the bank for the same.
    """
    names = [(line.quantity, made_readable(line.name) or line.product) for line in order.lines]
    text = ", ".join(f"{quantity} × {name}" if quantity > 1 else name for quantity, name in names)
    return text if len(text) <= DESCRIPTION_LENGTH_MAX else text[: DESCRIPTION_LENGTH_MAX - 1].rstrip() + "…"


def split(total_minor: int, parcelas: int) -> list[int]:
    """Split a total into parcelas that add up to the cent; the first ones carry the rest."""
    share, rest = divmod(total_minor, parcelas)
    return [share + (1 if number < rest else 0) for number in range(parcelas)]


def check_card(card: CardInput, now: datetime) -> list[Violation]:
    """Check what can be known of a card without a bank, naming every wrong field."""
    violations = []
    if not card.number:
        violations.append(Violation("card.number", "is missing"))
    elif not is_number_shaped(card.number):
        violations.append(Violation("card.number", "must be 12 to 19 digits"))
    elif not passes_luhn(card.number):
        violations.append(Violation("card.number", "is not a card number: its check digit is wrong"))
    if not 1 <= card.expiry_month <= 12:
        violations.append(Violation("card.expiry_month", "must be 1 to 12"))
    if not 2000 <= card.expiry_year <= 2099:
        violations.append(Violation("card.expiry_year", "must have four digits, 2000 to 2099"))
    is_month = 1 <= card.expiry_month <= 12 and 2000 <= card.expiry_year <= 2099
    if is_month and is_expired(card.expiry_year, card.expiry_month, now):
        violations.append(Violation("card.expiry_month", "is past: the card was good to the end of that month"))
    if not card.cvv:
        violations.append(Violation("card.cvv", "is missing"))
    elif not (card.cvv.isascii() and card.cvv.isdigit() and len(card.cvv) in (3, 4)):
        violations.append(Violation("card.cvv", "must be three or four digits"))
    return violations
