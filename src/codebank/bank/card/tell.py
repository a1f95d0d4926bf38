"""Tells of a card. Pure."""

from __future__ import annotations

from datetime import datetime

from codebank.bank.account.count import cause_of
from codebank.bank.operation import NewId, Operation
from codebank.bank.state import Account, Card
from codebank.events import CardEvent, CardState


def tell_card(
    account: Account, card: Card, event_type: str, operation: Operation, now: datetime, new_id: NewId
) -> CardEvent:
    """Tell of a card as it is after a change, with the account's next number."""
    return CardEvent(
        event_id=new_id(),
        type=event_type,
        account_id=account.account_id,
        sequence=account.sequence,
        occurred_at=now,
        account=account.state(),
        cause=cause_of(operation),
        card=CardState(
            card_id=card.card_id,
            card_masked=card.masked,
            card_brand=card.brand,
            expiry_month=card.expiry_month,
            expiry_year=card.expiry_year,
            status=card.status,
        ),
    )
