"""Opens an account. Pure."""

from __future__ import annotations

from datetime import datetime

from codebank.bank.account.count import cause_of
from codebank.bank.ledger.entry import GENESIS_HASH
from codebank.bank.operation import AccountAnswer, Changes, NewId, OpenAccount, Operation
from codebank.bank.state import Account, State
from codebank.events import ACCOUNT_OPENED, AccountEvent, AccountStatus


def decide_open_account(state: State, operation: OpenAccount, now: datetime, new_id: NewId) -> Changes:
    """Open an account; one that is open already stays as it is."""
    if state.account is not None:
        return Changes(answer=AccountAnswer(state.account), at=now)
    account = new_account(operation)
    event = tell_opened(account, operation, now, new_id)
    return Changes(answer=AccountAnswer(account), account=account, opens_account=True, events=(event,), at=now)


def new_account(operation: OpenAccount) -> Account:
    """Make an account as it is after its first event."""
    return Account(
        account_id=operation.account_id,
        holder_name=operation.holder_name,
        status=AccountStatus.OPEN,
        currency=operation.currency,
        limit_minor=operation.limit_minor,
        used_minor=0,
        sequence=1,
        entry_number=0,
        entry_hash=GENESIS_HASH,
    )


def tell_opened(account: Account, operation: Operation, now: datetime, new_id: NewId) -> AccountEvent:
    """Tell of a new account; `operation` is the one that opened it."""
    return AccountEvent(
        event_id=new_id(),
        type=ACCOUNT_OPENED,
        account_id=account.account_id,
        sequence=account.sequence,
        occurred_at=now,
        account=account.state(),
        cause=cause_of(operation),
    )
