"""What a decline means outside: the advice to the buyer and the response code of ISO 8583. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from codebank.events import Advice, DeclineCode

#: What to tell the buyer, and the response code of ISO 8583:1987 field 39, per reason.
_DECLINES: Final[Mapping[str, tuple[Advice, str]]] = {
    DeclineCode.INVALID_NUMBER: (Advice.FIX_THE_DATA, "14"),
    DeclineCode.WRONG_CVV: (Advice.FIX_THE_DATA, "N7"),
    DeclineCode.EXPIRED_CARD: (Advice.DO_NOT_TRY_AGAIN, "54"),
    DeclineCode.WRONG_EXPIRY: (Advice.FIX_THE_DATA, "54"),
    DeclineCode.CARD_BLOCKED: (Advice.DO_NOT_TRY_AGAIN, "62"),
    DeclineCode.CARD_LOST: (Advice.DO_NOT_TRY_AGAIN, "41"),
    DeclineCode.CARD_STOLEN: (Advice.DO_NOT_TRY_AGAIN, "43"),
    DeclineCode.ACCOUNT_CLOSED: (Advice.DO_NOT_TRY_AGAIN, "78"),
    DeclineCode.LIMIT_EXCEEDED: (Advice.TRY_AGAIN_LATER, "51"),
    DeclineCode.TOO_MANY_ATTEMPTS: (Advice.TRY_AGAIN_LATER, "65"),
    DeclineCode.SUSPECTED_FRAUD: (Advice.DO_NOT_TRY_AGAIN, "59"),
    DeclineCode.CURRENCY_NOT_HELD: (Advice.DO_NOT_TRY_AGAIN, "57"),
    DeclineCode.INVALID_MERCHANT: (Advice.DO_NOT_TRY_AGAIN, "03"),
    DeclineCode.CANCELLED_KEY: (Advice.DO_NOT_TRY_AGAIN, "17"),
}
APPROVED_RESPONSE_CODE: Final = "00"
#: Of a reason that only a newer release knows: "do not honour", and the card's holder asks the bank.
_UNNAMED: Final = (Advice.DO_NOT_TRY_AGAIN, "05")


def advice_of(code: str) -> Advice:
    """Say what the buyer may do about a decline."""
    return _DECLINES.get(code, _UNNAMED)[0]


def response_code_of(code: str | None) -> str:
    """Give the ISO 8583 response code of an answer."""
    return APPROVED_RESPONSE_CODE if code is None else _DECLINES.get(code, _UNNAMED)[1]
