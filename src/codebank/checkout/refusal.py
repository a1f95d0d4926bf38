"""Why an order was not paid, in a buyer's words: reason, advice and button of each code, together. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from codebank.events import Advice, DeclineCode


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a buyer reads of a refusal, and what they can do next; all keys of words."""

    reason: str
    advice: str
    button: str
    #: Where the button leads.
    target: str = "/payment"


#: What each reason means to whoever pays: reason, advice and button always say the same.
_WAY_OF: Final = {
    DeclineCode.INVALID_NUMBER: "fix_the_data",
    DeclineCode.WRONG_CVV: "fix_the_data",
    DeclineCode.WRONG_EXPIRY: "fix_the_data",
    DeclineCode.EXPIRED_CARD: "other_card",
    DeclineCode.CARD_BLOCKED: "holder_asks",
    DeclineCode.CARD_LOST: "holder_asks",
    DeclineCode.CARD_STOLEN: "holder_asks",
    DeclineCode.ACCOUNT_CLOSED: "other_card",
    DeclineCode.LIMIT_EXCEEDED: "smaller_amount",
    DeclineCode.TOO_MANY_ATTEMPTS: "try_again_later",
    DeclineCode.SUSPECTED_FRAUD: "holder_asks",
    DeclineCode.CURRENCY_NOT_HELD: "other_card",
    DeclineCode.INVALID_MERCHANT: "shop",
    DeclineCode.CANCELLED_KEY: "same_card",
}
#: Where a button leads that does not lead to another payment.
_TARGETS: Final = {"shop": "/basket"}


def _going(reason: str, way: str) -> Refusal:
    return Refusal(reason, f"order.advice_{way}", f"order.again_{way}", _TARGETS.get(way, "/payment"))


_REFUSALS: Final[Mapping[str, Refusal]] = {code: _going(f"decline.{code}", way) for code, way in _WAY_OF.items()}
#: Which of a card's data was wrong is nobody's business who only guesses at them: one reason for all three.
CARD_DATA: Final = "card_data"
_CARD_DATA: Final = _going("order.reason_card_data", "fix_the_data")
_GUESSED: Final = frozenset({DeclineCode.INVALID_NUMBER, DeclineCode.WRONG_CVV, DeclineCode.WRONG_EXPIRY})
#: Of a reason that has no words here: what the bank advises.
_WAYS: Final[Mapping[str | None, str]] = {
    Advice.FIX_THE_DATA: "fix_the_data",
    Advice.TRY_AGAIN_LATER: "try_again_later",
    Advice.DO_NOT_TRY_AGAIN: "other_card",
}
#: Where there are no words for the advice: what is right whatever it was.
_OTHER: Final = "other"


def public_code(code: str, *, tells_all: bool) -> str:
    """Give the code as it may be shown; `tells_all` with test cards, where it is known anyway."""
    return CARD_DATA if code in _GUESSED and not tells_all else code


def refusal_of(code: str, advice: str | None, *, tells_all: bool) -> Refusal:
    """Give the words for a decline, whatever its code."""
    shown = public_code(code, tells_all=tells_all)
    known = _CARD_DATA if shown == CARD_DATA else _REFUSALS.get(shown)
    reason = known.reason if known else "order.reason_declined"
    if advice is not None and advice not in _WAYS:
        return _going(reason, _OTHER)
    return known or _going(reason, _WAYS.get(advice, _OTHER))
