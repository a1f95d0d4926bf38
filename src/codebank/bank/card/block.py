"""Blocks and unblocks a card. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from msgspec.structs import replace

from codebank.bank.account.count import counted
from codebank.bank.card.tell import tell_card
from codebank.bank.operation import BlockCard, CardAnswer, Changes, NewId, Operation, UnblockCard
from codebank.bank.state import Account, Card, State
from codebank.errors import Code, CodebankError
from codebank.events import CARD_BLOCKED, CARD_UNBLOCKED, CardStatus

#: A card in one of these never pays again.
_FINAL: Final = frozenset({CardStatus.LOST, CardStatus.STOLEN})


def decide_block_card(state: State, operation: BlockCard, now: datetime, new_id: NewId) -> Changes:
    """Refuse every further charge of a card; a lost or stolen one stays so. Raises CodebankError if there is none."""
    account, card = _found(state)
    if card.status == operation.status or card.status in _FINAL:
        return Changes(answer=CardAnswer(account, card), at=now)
    return _changed(account, replace(card, status=operation.status), CARD_BLOCKED, operation, now, new_id)


def decide_unblock_card(state: State, operation: UnblockCard, now: datetime, new_id: NewId) -> Changes:
    """Let a blocked card pay again. Raises CodebankError for any that is neither blocked nor active."""
    account, card = _found(state)
    if card.status == CardStatus.ACTIVE:
        return Changes(answer=CardAnswer(account, card), at=now)
    if card.status != CardStatus.BLOCKED:
        raise CodebankError(
            Code.FAILED_PRECONDITION,
            f"a {card.status} card never pays again",
            hint="issue a new card on the account",
        )
    return _changed(account, replace(card, status=CardStatus.ACTIVE), CARD_UNBLOCKED, operation, now, new_id)


def _found(state: State) -> tuple[Account, Card]:
    if state.account is None or state.card is None:
        raise CodebankError(Code.NOT_FOUND, "no such card")
    return state.account, state.card


def _changed(
    account: Account, card: Card, event_type: str, operation: Operation, now: datetime, new_id: NewId
) -> Changes:
    account = counted(account)
    event = tell_card(account, card, event_type, operation, now, new_id)
    return Changes(answer=CardAnswer(account, card), account=account, card=card, events=(event,), at=now)
