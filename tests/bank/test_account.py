"""The rules of an account: every reason to decline, their order, wrong attempts, and a model of a life of charges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from msgspec.structs import replace

from codebank.bank.account import (
    RISKY_AMOUNT_MINOR,
    RISKY_CATEGORIES,
    WRONG_ATTEMPTS_MAX,
    WRONG_ATTEMPTS_WINDOW,
    Account,
    Card,
    Charge,
    Merchant,
    Outcome,
    authorize,
    count_attempt,
    is_worn_out,
    refund,
    why_declined,
)
from codebank.bank.decline import advice_of, response_code_of
from codebank.bank.entry import GENESIS_HASH, Entry, Kind, first_broken
from codebank.events import AccountStatus, CardStatus, DeclineCode, PaymentState, PaymentStatus
from codebank.wire import new_id

NOW = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)
ACCOUNT = Account(
    account_id=UUID(int=1),
    holder_name="Ana",
    status=AccountStatus.OPEN,
    currency="BRL",
    limit_minor=10_000,
    used_minor=0,
    sequence=0,
    entry_number=0,
    entry_hash=GENESIS_HASH,
)
CARD = Card(
    card_id=UUID(int=2),
    account_id=ACCOUNT.account_id,
    masked="•••• 1234",
    brand="visa",
    expiry_month=1,
    expiry_year=2031,
    status=CardStatus.ACTIVE,
)
SHOP = Merchant(merchant_id=UUID(int=3), name="Loja", category_code="5311", is_open=True)
CHARGE = Charge(
    payment_id=UUID(int=4),
    merchant=SHOP,
    idempotency_key="k",
    request_hash=bytes(32),
    amount_minor=100,
    currency="BRL",
    description="coffee",
    parcelas=1,
    card_masked="•••• 1234",
    card_brand="visa",
    fingerprint=bytes(32),
    token=None,
    expiry=(2031, 1),
    cvv_fits=True,
)
WORN_OUT = {"wrong_attempts": WRONG_ATTEMPTS_MAX, "wrong_since": NOW - timedelta(minutes=1)}
RISKY = Merchant(merchant_id=UUID(int=3), name="Bets", category_code=min(RISKY_CATEGORIES), is_open=True)

#: From the first to be told to the last: what is changed of account, card and charge so that the reason applies.
REASONS: list[tuple[DeclineCode, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (DeclineCode.CARD_BLOCKED, {}, {"status": CardStatus.BLOCKED}, {}),
    (DeclineCode.TOO_MANY_ATTEMPTS, {}, WORN_OUT, {}),
    (DeclineCode.WRONG_EXPIRY, {}, {}, {"expiry": (2031, 2)}),
    (DeclineCode.EXPIRED_CARD, {}, {"expiry_year": 2026, "expiry_month": 10}, {"expiry": (2026, 10)}),
    (DeclineCode.WRONG_CVV, {}, {}, {"cvv_fits": False}),
    (DeclineCode.INVALID_MERCHANT, {}, {}, {"merchant": replace(SHOP, is_open=False)}),
    (DeclineCode.SUSPECTED_FRAUD, {}, {}, {"merchant": RISKY, "amount_minor": RISKY_AMOUNT_MINOR}),
    (DeclineCode.ACCOUNT_CLOSED, {"status": AccountStatus.CLOSED}, {}, {}),
    (DeclineCode.CURRENCY_NOT_HELD, {}, {}, {"currency": "USD"}),
    (DeclineCode.LIMIT_EXCEEDED, {"used_minor": 9_901}, {}, {}),
]


def test_a_charge_with_nothing_against_it_is_approved() -> None:
    assert why_declined(ACCOUNT, CARD, CHARGE, NOW) is None


@pytest.mark.parametrize(("code", "account", "card", "charge"), REASONS, ids=lambda value: str(value)[:20])
def test_each_reason_alone_declines(code: DeclineCode, account: Any, card: Any, charge: Any) -> None:
    found = why_declined(replace(ACCOUNT, **account), replace(CARD, **card), replace(CHARGE, **charge), NOW)

    assert found is code


@pytest.mark.parametrize(
    ("status", "code"), [(CardStatus.LOST, DeclineCode.CARD_LOST), (CardStatus.STOLEN, DeclineCode.CARD_STOLEN)]
)
def test_a_lost_and_a_stolen_card_have_reasons_of_their_own(status: CardStatus, code: DeclineCode) -> None:
    assert why_declined(ACCOUNT, replace(CARD, status=status), CHARGE, NOW) is code


def test_a_card_that_nobody_knows_is_an_invalid_number() -> None:
    assert why_declined(ACCOUNT, None, CHARGE, NOW) is DeclineCode.INVALID_NUMBER


@pytest.mark.parametrize("earlier", range(len(REASONS)))
def test_of_two_reasons_the_earlier_is_told(earlier: int) -> None:
    code, account, card, charge = REASONS[earlier]

    for _, later_account, later_card, later_charge in REASONS[earlier + 1 :]:
        both = (
            replace(ACCOUNT, **{**later_account, **account}),
            replace(CARD, **{**later_card, **card}),
            replace(CHARGE, **{**later_charge, **charge}),
        )
        assert why_declined(*both, NOW) is code


def test_a_reason_that_a_test_card_forces_comes_before_all() -> None:
    forced = replace(CHARGE, forced=DeclineCode.CANCELLED_KEY)

    assert why_declined(ACCOUNT, None, forced, NOW) is DeclineCode.CANCELLED_KEY


def test_a_token_needs_neither_expiry_nor_cvv_but_the_card_must_not_be_expired() -> None:
    charge = replace(CHARGE, fingerprint=None, token="tok", expiry=None, cvv_fits=None)

    assert why_declined(ACCOUNT, CARD, charge, NOW) is None
    assert why_declined(ACCOUNT, replace(CARD, expiry_year=2026), charge, NOW) is DeclineCode.EXPIRED_CARD


@pytest.mark.parametrize(
    ("used_minor", "amount_minor", "approved"), [(0, 10_000, True), (9_900, 100, True), (9_900, 101, False)]
)
def test_the_limit_may_be_used_to_the_last_cent_and_no_further(used: int, amount: int, approved: bool) -> None:
    code = why_declined(replace(ACCOUNT, used_minor=used), CARD, replace(CHARGE, amount_minor=amount), NOW)

    assert (code is None) is approved


test_the_limit_may_be_used_to_the_last_cent_and_no_further = pytest.mark.parametrize(
    ("used", "amount", "approved"), [(0, 10_000, True), (9_900, 100, True), (9_900, 101, False), (0, 10_001, False)]
)(test_the_limit_may_be_used_to_the_last_cent_and_no_further)
