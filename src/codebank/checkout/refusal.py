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


def _of(code: DeclineCode, way: str, *, target: str = "/payment") -> Refusal:
    return Refusal(f"decline.{code}", f"order.advice_{way}", f"order.again_{way}", target)


#: What each reason means to whoever pays: reason, advice and button always say the same.
_REFUSALS: Final[Mapping[str, Refusal]] = {
    DeclineCode.INVALID_NUMBER: _of(DeclineCode.INVALID_NUMBER, "fix_the_data"),
    DeclineCode.WRONG_CVV: _of(DeclineCode.WRONG_CVV, "fix_the_data"),
    DeclineCode.WRONG_EXPIRY: _of(DeclineCode.WRONG_EXPIRY, "fix_the_data"),
    DeclineCode.EXPIRED_CARD: _of(DeclineCode.EXPIRED_CARD, "other_card"),
    DeclineCode.CARD_BLOCKED: _of(DeclineCode.CARD_BLOCKED, "holder_asks"),
    DeclineCode.CARD_LOST: _of(DeclineCode.CARD_LOST, "holder_asks"),
    DeclineCode.CARD_STOLEN: _of(DeclineCode.CARD_STOLEN, "holder_asks"),
    DeclineCode.ACCOUNT_CLOSED: _of(DeclineCode.ACCOUNT_CLOSED, "other_card"),
    DeclineCode.LIMIT_EXCEEDED: _of(DeclineCode.LIMIT_EXCEEDED, "smaller_amount"),
    DeclineCode.TOO_MANY_ATTEMPTS: _of(DeclineCode.TOO_MANY_ATTEMPTS, "try_again_later"),
    DeclineCode.SUSPECTED_FRAUD: _of(DeclineCode.SUSPECTED_FRAUD, "holder_asks"),
    DeclineCode.CURRENCY_NOT_HELD: _of(DeclineCode.CURRENCY_NOT_HELD, "other_card"),
    DeclineCode.INVALID_MERCHANT: _of(DeclineCode.INVALID_MERCHANT, "shop", target="/basket"),
    DeclineCode.CANCELLED_KEY: _of(DeclineCode.CANCELLED_KEY, "same_card"),
}
#: Which of a card's data was wrong is nobody's business who only guesses at them: one reason for all three.
CARD_DATA: Final = "card_data"
_CARD_DATA: Final = Refusal("order.reason_card_data", "order.advice_fix_the_data", "order.again_fix_the_data")
_GUESSED: Final = frozenset({DeclineCode.INVALID_NUMBER, DeclineCode.WRONG_CVV, DeclineCode.WRONG_EXPIRY})
#: Of a reason that has no words here: what the bank advises.
_WAYS: Final[Mapping[str | None, str]] = {
    Advice.FIX_THE_DATA: "fix_the_data",
    Advice.TRY_AGAIN_LATER: "try_again_later",
    Advice.DO_NOT_TRY_AGAIN: "other_card",
}
#: Of advice that has no words here: what is right whatever it was.
_OTHER: Final = ("order.advice_other", "order.again_other")


def public_code(code: str, *, tells_all: bool) -> str:
    """Give the code as it may be shown; `tells_all` with test cards, where it is known anyway."""
    return CARD_DATA if code in _GUESSED and not tells_all else code


def refusal_of(code: str, advice: str | None, *, tells_all: bool) -> Refusal:
    """Give the words for a decline, whatever its code."""
    shown = public_code(code, tells_all=tells_all)
    known = _CARD_DATA if shown == CARD_DATA else _REFUSALS.get(shown)
    reason = known.reason if known else "order.reason_declined"
    if advice is not None and advice not in _WAYS:
        return Refusal(reason, *_OTHER)
    if known is None:
        way = _WAYS.get(advice)
        return Refusal(reason, f"order.advice_{way}", f"order.again_{way}") if way else Refusal(reason, *_OTHER)
    return known
