"""Issues a card. Pure; its number was drawn and sealed before."""

from __future__ import annotations

from datetime import datetime

from codebank.bank.account.count import counted
from codebank.bank.account.open import new_account, tell_opened
from codebank.bank.card.tell import tell_card
from codebank.bank.operation import CardAnswer, Changes, IssueCard, NewCard, NewId
from codebank.bank.state import State
from codebank.errors import Code, CodebankError
from codebank.events import CARD_ISSUED, AccountStatus, Event


def decide_issue_card(state: State, operation: IssueCard, now: datetime, new_id: NewId) -> Changes:
    """Issue a card on an open account, or open one with it.

    Raises CodebankError where there is no such account, or where it can hold no card.
    """
    account, events = state.account, list[Event]()
    if operation.opens is not None:
        account = new_account(operation.opens)
        events.append(tell_opened(account, operation, now, new_id))
    if account is None:
        raise CodebankError(Code.NOT_FOUND, "no such account")
    if account.is_unmatched:
        raise CodebankError(Code.FAILED_PRECONDITION, "this account is a merchant's own and has no cardholder")
    if account.status != AccountStatus.OPEN:
        raise CodebankError(Code.FAILED_PRECONDITION, f"a {account.status} account gets no card")
    account = counted(account)
    events.append(tell_card(account, operation.card, CARD_ISSUED, operation, now, new_id))
    return Changes(
        answer=CardAnswer(account, operation.card),
        account=account,
        opens_account=operation.opens is not None,
        new_card=NewCard(operation.card, operation.fingerprint, operation.number_sealed),
        events=tuple(events),
        at=now,
    )
