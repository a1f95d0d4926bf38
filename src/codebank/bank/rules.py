"""THE TABLE of rules: operation → the function that decides it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from codebank.bank.account.open import decide_open_account
from codebank.bank.card.block import decide_block_card, decide_unblock_card
from codebank.bank.card.issue import decide_issue_card
from codebank.bank.operation import (
    Authorize,
    BlockCard,
    Cancel,
    Changes,
    IssueCard,
    NewId,
    OpenAccount,
    Operation,
    UnblockCard,
)
from codebank.bank.payment.authorize import decide_authorize
from codebank.bank.payment.cancel import decide_cancel
from codebank.bank.state import State

RULES: Final[Mapping[type[Operation], Callable[[State, Any, datetime, NewId], Changes]]] = {
    Authorize: decide_authorize,
    Cancel: decide_cancel,
    OpenAccount: decide_open_account,
    IssueCard: decide_issue_card,
    BlockCard: decide_block_card,
    UnblockCard: decide_unblock_card,
}


def decide(state: State, operation: Operation, now: datetime, new_id: NewId) -> Changes:
    """Say what an operation changes. Raises CodebankError where it is refused; then nothing is kept of it."""
    return RULES[type(operation)](state, operation, now, new_id)
