"""Published test cards: numbers that force every outcome of a payment, offline.

Each is a real card of a demo account whose state makes the bank answer so; only what no state can bring about is
forced. They are issued by the seed, and their published CVV is taken, where `CODEBANK_TEST_CARDS` is on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from codebank.card import with_check_digit
from codebank.events import CardStatus, DeclineCode

#: The demo cardholder's account, and those that refuse for what they are.
DEMO_NAME: Final = "Ana Clara Souza"
DEMO_ACCOUNT: Final = UUID("01900000-0000-7000-8000-000000000001")
CLOSED_ACCOUNT: Final = UUID("01900000-0000-7000-8000-000000000002")
EMPTY_ACCOUNT: Final = UUID("01900000-0000-7000-8000-000000000003")
DOLLAR_ACCOUNT: Final = UUID("01900000-0000-7000-8000-000000000004")
#: The shop of the checkout, as the bank knows it.
DEMO_MERCHANT: Final = UUID("01900000-0000-7000-8000-000000000010")
DEMO_MERCHANT_NAME: Final = "Loja Codebank"
DEMO_MERCHANT_CATEGORY: Final = "5311"


class Behaviour(StrEnum):
    """How the bank answers, where it is not only what it answers that matters."""

    PLAIN = "plain"
    #: Answers after a pause.
    SLOW = "slow"
    #: The first call of each key finds the bank unavailable, the next is carried out.
    UNAVAILABLE_ONCE = "unavailable_once"
    #: The money moves, and the first answer never comes.
    TIMEOUT_AFTER_COMMIT = "timeout_after_commit"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestCard:
    """One published number."""

    #: Keeps pytest from taking the class for a test.
    __test__ = False

    number: str
    #: Key of the outcome in words: a decline code, a behaviour, or `approved`.
    outcome: str
    account_id: UUID | None = DEMO_ACCOUNT
    expiry_month: int = 12
    expiry_year: int = 2034
    #: What the bank has on file, where it differs from what is published.
    filed_expiry_month: int = 12
    cvv: str = "123"
    status: CardStatus = CardStatus.ACTIVE
    forced: DeclineCode | None = None
    behaviour: Behaviour = Behaviour.PLAIN

    @property
    def body(self) -> dict[str, str | int]:
        """The card as the shop's REST takes it."""
        return {
            "number": self.number,
            "expiry_month": self.expiry_month,
            "expiry_year": self.expiry_year,
            "cvv": self.cvv,
        }


def _number(tail: int) -> str:
    return with_check_digit(f"4000001000{tail:05d}")


TEST_CARDS: Final = (
    TestCard(number=_number(1), outcome="approved"),
    TestCard(number=with_check_digit("520000100000001"), outcome="approved"),
    TestCard(number=with_check_digit("650000100000001"), outcome="approved"),
    TestCard(number=with_check_digit("37000010000001"), outcome="approved", cvv="1234"),
    TestCard(number=_number(11), outcome="invalid_number", account_id=None),
    TestCard(number=_number(12), outcome="wrong_cvv", forced=DeclineCode.WRONG_CVV),
    TestCard(number=_number(13), outcome="expired_card", forced=DeclineCode.EXPIRED_CARD),
    TestCard(number=_number(14), outcome="wrong_expiry", filed_expiry_month=11),
    TestCard(number=_number(15), outcome="card_blocked", status=CardStatus.BLOCKED),
    TestCard(number=_number(16), outcome="card_lost", status=CardStatus.LOST),
    TestCard(number=_number(17), outcome="card_stolen", status=CardStatus.STOLEN),
    TestCard(number=_number(18), outcome="account_closed", account_id=CLOSED_ACCOUNT),
    TestCard(number=_number(19), outcome="limit_exceeded", account_id=EMPTY_ACCOUNT),
    TestCard(number=_number(20), outcome="too_many_attempts", forced=DeclineCode.TOO_MANY_ATTEMPTS),
    TestCard(number=_number(21), outcome="suspected_fraud", forced=DeclineCode.SUSPECTED_FRAUD),
    TestCard(number=_number(22), outcome="currency_not_held", account_id=DOLLAR_ACCOUNT),
    TestCard(number=_number(23), outcome="invalid_merchant", forced=DeclineCode.INVALID_MERCHANT),
    TestCard(number=_number(24), outcome="cancelled_key", forced=DeclineCode.CANCELLED_KEY),
    TestCard(number=_number(30), outcome="slow", behaviour=Behaviour.SLOW),
    TestCard(number=_number(31), outcome="unavailable_once", behaviour=Behaviour.UNAVAILABLE_ONCE),
    TestCard(number=_number(32), outcome="timeout_after_commit", behaviour=Behaviour.TIMEOUT_AFTER_COMMIT),
)

BY_NUMBER: Final[Mapping[str, TestCard]] = {card.number: card for card in TEST_CARDS}
