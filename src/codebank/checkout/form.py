"""The payment form as it was sent: the card in it, and what is wrong with each field, as keys of words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from codebank.card import brand_of, is_expired
from codebank.checkout.order import CardInput, check_card
from codebank.checkout.typed import read_expiry, read_number

#: Which field of the form shows what is wrong with which part of the card.
_FIELDS: Final = {
    "card.number": "number",
    "card.expiry_month": "expiry",
    "card.expiry_year": "expiry",
    "card.cvv": "cvv",
}
#: What is shown again of an expiry that cannot be read; a card number that strayed into its field is longer.
_EXPIRY_LENGTH_MAX: Final = 11


def read_card(form: Mapping[str, str], now: datetime) -> tuple[CardInput, dict[str, str]]:
    """Read the card, and say at which field what is wrong."""
    year, month = read_expiry(form.get("expiry", "")) or (0, 0)
    card = CardInput(
        number=read_number(form.get("number", "")),
        expiry_month=month,
        expiry_year=year,
        cvv=read_number(form.get("cvv", "")),
    )
    wrong = {_FIELDS[violation.field] for violation in check_card(card, now)}
    is_amex = brand_of(card.number) == "amex"
    if len(card.cvv) != (4 if is_amex else 3):
        wrong.add("cvv")
    said = {name: "empty" if not form.get(name, "").strip() else "wrong" for name in sorted(wrong)}
    if said.get("cvv") == "wrong" and is_amex:
        said["cvv"] = "wrong_amex"
    if month and is_expired(year, month, now):
        said["expiry"] = "past"
    return card, {name: f"payment.{what}_{name}" for name, what in said.items()}


def expiry_again(form: Mapping[str, str]) -> str:
    """Give the expiry as the buyer wrote it, to be shown again."""
    text = form.get("expiry", "")
    return text if len(text) <= _EXPIRY_LENGTH_MAX else ""


def read_quantity(text: str) -> int | None:
    """Read how many of a thing are wanted, which may be more than there may be; None where it is no number."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def is_whole(text: str, largest: int) -> bool:
    """Tell whether a text is a whole number from 1 to the largest."""
    return text.isascii() and text.isdigit() and len(text) <= 13 and 1 <= int(text) <= largest
