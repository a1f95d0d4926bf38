"""Test cards at work: makes the bank slow, unavailable or silent for the published numbers, and for no other.

Does nothing where `CODEBANK_TEST_CARDS` is off.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from codebank.bank.operation import Authorize, PaymentAnswer
from codebank.bank.test_cards import BY_NUMBER, Behaviour, TestCard
from codebank.errors import Code, CodebankError

SLOW_SECONDS: Final = 2
_KEYS_MAX: Final = 10_000
#: Longer than any caller waits; a call without a deadline ends here.
_SILENCE_SECONDS: Final = 60


@dataclass
class ForcedBehaviour:
    """Behaves as the test cards ask."""

    is_on: bool
    #: Keys that found the bank unavailable once, oldest first.
    _turned_away: OrderedDict[tuple[UUID, str], None] = field(default_factory=OrderedDict)

    def card(self, number: str) -> TestCard | None:
        """Give the test card of a number, where test cards are on."""
        return BY_NUMBER.get(number) if self.is_on else None

    async def before(self, operation: Authorize, number: str) -> None:
        """Do what comes before the charge: pause, or turn the key away the first time."""
        card = self.card(number)
        if card is None:
            return
        if card.behaviour is Behaviour.SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        if card.behaviour is Behaviour.UNAVAILABLE_ONCE:
            self._turn_away_once((operation.merchant_id, operation.key.name if operation.key else ""))

    def _turn_away_once(self, key: tuple[UUID, str]) -> None:
        if key in self._turned_away:
            return
        self._turned_away[key] = None
        if len(self._turned_away) > _KEYS_MAX:
            self._turned_away.popitem(last=False)
        raise CodebankError(Code.UNAVAILABLE, "the bank is away for a moment (test card)", retry_after_seconds=1)

    async def after(self, answer: PaymentAnswer, number: str) -> None:
        """Do what comes after the commit: keep the first answer back."""
        card = self.card(number)
        if card is not None and card.behaviour is Behaviour.TIMEOUT_AFTER_COMMIT and not answer.replayed:
            await asyncio.sleep(_SILENCE_SECONDS)
