"""Money: a whole number of minor units and a currency, from proto to template.

No floating-point number ever comes near an amount. A currency that is not listed here is money too, as a newer bank may
tell of it; where its point stands is then not guessed: it is written in minor units, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: The largest amount of one payment, in minor units.
AMOUNT_MINOR_MAX: Final = 99_999_999_999

#: ISO 4217 alphabetic codes that the bank takes, and the digits after the point of each.
EXPONENTS: Final = {
    "ARS": 2, "AUD": 2, "BHD": 3, "BRL": 2, "CAD": 2, "CHF": 2, "CLP": 0, "CNY": 2, "COP": 2, "EUR": 2,
    "GBP": 2, "JPY": 0, "KWD": 3, "MXN": 2, "PEN": 2, "PYG": 0, "USD": 2, "UYU": 2,
}  # fmt: skip

_SYMBOLS: Final = {"BRL": "R$", "USD": "US$", "EUR": "€", "GBP": "£", "JPY": "¥"}
#: Marks of thousands and of decimals per language.
_MARKS: Final = {"pt": (".", ","), "en": (",", ".")}
#: What stands behind an amount of a currency whose digits after the point nobody here knows.
_MINOR_UNITS: Final = {"pt": "unidades menores", "en": "minor units"}


@dataclass(frozen=True, slots=True)
class Money:
    """An amount of one currency."""

    #: Whole minor units; negative only where something is given back.
    amount_minor: int
    #: ISO 4217 alphabetic code; one of `EXPONENTS`, or what a newer bank calls it.
    currency: str

    def __post_init__(self) -> None:
        if type(self.amount_minor) is not int:
            raise TypeError(f"an amount is a whole number of minor units, not {self.amount_minor!r}")
        if not isinstance(self.currency, str):
            raise TypeError(f"a currency is a code, not {self.currency!r}")


@dataclass(frozen=True, slots=True)
class MoneyParts:
    """An amount cut for the page, so that the cents can be set a step smaller."""

    sign: str
    symbol: str
    whole: str
    mark: str
    cents: str

    @property
    def text(self) -> str:
        """The whole amount as one string, with no-break spaces inside."""
        return f"{self.sign}{self.symbol}\u00a0{self.whole}{self.mark}{self.cents}"

    def __str__(self) -> str:
        return self.text


def money_parts(money: Money, language: str = "pt") -> MoneyParts:
    """Cut an amount into sign, symbol, whole units and cents as the language writes them."""
    thousands, decimals = _MARKS.get(language, _MARKS["pt"])
    exponent = EXPONENTS.get(money.currency)
    whole, cents = divmod(abs(money.amount_minor), 10 ** (exponent or 0))
    if exponent is None:
        mark, rest = "\u00a0", _MINOR_UNITS.get(language, _MINOR_UNITS["pt"])
    else:
        mark, rest = (decimals, f"{cents:0{exponent}d}") if exponent else ("", "")
    return MoneyParts(
        sign="−" if money.amount_minor < 0 else "",
        symbol=_SYMBOLS.get(money.currency, money.currency),
        whole=f"{whole:,}".replace(",", thousands),
        mark=mark,
        cents=rest,
    )


def format_money(money: Money, language: str = "pt") -> str:
    """Write an amount as people read it, such as `R$ 1.234,56`."""
    return money_parts(money, language).text


def decimal_text(money: Money) -> str:
    """Write an amount for a machine: a point, no symbol, no thousands, such as `1234.56`.

    Of a currency that is not known it is `123456 minor`, which nothing takes for a number.
    """
    exponent = EXPONENTS.get(money.currency)
    if exponent is None:
        return f"{money.amount_minor} minor"
    whole, cents = divmod(abs(money.amount_minor), 10**exponent)
    sign = "-" if money.amount_minor < 0 else ""
    return f"{sign}{whole}.{cents:0{exponent}d}" if exponent else f"{sign}{whole}"
