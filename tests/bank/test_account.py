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
from codebank.bank.door.decline import advice_of, response_code_of
from codebank.bank.ledger.entry import GENESIS_HASH, Entry, Kind, first_broken
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
    ("used", "amount", "approved"), [(0, 10_000, True), (9_900, 100, True), (9_900, 101, False), (0, 10_001, False)]
)
def test_the_limit_may_be_used_to_the_last_cent_and_no_further(used: int, amount: int, approved: bool) -> None:
    code = why_declined(replace(ACCOUNT, used_minor=used), CARD, replace(CHARGE, amount_minor=amount), NOW)

    assert (code is None) is approved


@pytest.mark.parametrize(("amount", "code"), [(RISKY_AMOUNT_MINOR - 1, None), (RISKY_AMOUNT_MINOR, "suspected_fraud")])
def test_a_risky_merchant_is_refused_from_its_amount_on(amount: int, code: str | None) -> None:
    rich = replace(ACCOUNT, limit_minor=10 * RISKY_AMOUNT_MINOR)

    assert why_declined(rich, CARD, replace(CHARGE, merchant=RISKY, amount_minor=amount), NOW) == code


@pytest.mark.parametrize(
    ("now", "code"),
    [
        # The last second of the month on Brazil's calendar, three hours behind UTC, and the first of the next.
        (datetime(2031, 2, 1, 2, 59, 59, tzinfo=UTC), None),
        (datetime(2031, 2, 1, 3, 0, 0, tzinfo=UTC), DeclineCode.EXPIRED_CARD),
    ],
)
def test_a_card_pays_until_the_last_second_of_its_month(now: datetime, code: DeclineCode | None) -> None:
    assert why_declined(ACCOUNT, CARD, CHARGE, now) is code


def test_trap_b18_a_card_valid_to_january_2031_is_not_refused_in_november_2026() -> None:
    assert NOW.month > CARD.expiry_month
    assert why_declined(ACCOUNT, CARD, CHARGE, NOW) is None


def test_trap_b05_a_wrong_expiry_and_a_wrong_cvv_are_not_approved() -> None:
    assert why_declined(ACCOUNT, CARD, replace(CHARGE, expiry=(2031, 12)), NOW) is DeclineCode.WRONG_EXPIRY
    assert why_declined(ACCOUNT, CARD, replace(CHARGE, expiry=(2001, 1)), NOW) is DeclineCode.WRONG_EXPIRY
    assert why_declined(ACCOUNT, CARD, replace(CHARGE, cvv_fits=False), NOW) is DeclineCode.WRONG_CVV


@pytest.mark.parametrize("code", [DeclineCode.WRONG_CVV, DeclineCode.WRONG_EXPIRY])
def test_wrong_attempts_wear_the_card_out_for_a_quarter_of_an_hour(code: DeclineCode) -> None:
    card = CARD
    for number in range(1, WRONG_ATTEMPTS_MAX + 1):
        assert not is_worn_out(card, NOW)
        card = count_attempt(card, code, NOW + timedelta(seconds=number)) or card

    assert card.wrong_attempts == 5
    first = NOW + timedelta(seconds=1)
    assert why_declined(ACCOUNT, card, CHARGE, first + timedelta(minutes=14, seconds=59)) == "too_many_attempts"
    assert why_declined(ACCOUNT, card, CHARGE, first + WRONG_ATTEMPTS_WINDOW) is None


def test_a_wrong_attempt_after_the_window_begins_a_new_one() -> None:
    card = replace(CARD, wrong_attempts=4, wrong_since=NOW - WRONG_ATTEMPTS_WINDOW)

    changed = count_attempt(card, DeclineCode.WRONG_CVV, NOW)

    assert changed is not None
    assert (changed.wrong_attempts, changed.wrong_since) == (1, NOW)


def test_a_payment_that_fits_forgets_the_wrong_attempts() -> None:
    changed = count_attempt(replace(CARD, wrong_attempts=4, wrong_since=NOW), None, NOW)

    assert changed is not None
    assert (changed.wrong_attempts, changed.wrong_since) == (0, None)


@pytest.mark.parametrize("code", [None, DeclineCode.LIMIT_EXCEEDED, DeclineCode.TOO_MANY_ATTEMPTS])
def test_other_answers_leave_the_count_alone(code: DeclineCode | None) -> None:
    assert count_attempt(CARD, code, NOW) is None


def test_a_decline_changes_nothing_but_the_number_of_events() -> None:
    declined = authorize(ACCOUNT, CARD, replace(CHARGE, amount_minor=10_001), NOW, new_id)

    assert declined.entry is None
    assert declined.account == replace(ACCOUNT, sequence=1)
    assert (declined.payment.status, declined.payment.decline_code) == (PaymentStatus.DECLINED, "limit_exceeded")
    assert (declined.event.sequence, declined.event.type) == (1, "codebank.payment.declined")


def test_an_approval_moves_exactly_the_amount() -> None:
    approved = authorize(ACCOUNT, CARD, CHARGE, NOW, new_id)

    assert approved.entry is not None
    assert (approved.account.used_minor, approved.entry.amount_minor, approved.payment.amount_minor) == (100, 100, 100)
    assert (approved.entry.debit_kind, approved.entry.debit_id) == (Kind.RECEIVABLE, ACCOUNT.account_id)
    assert (approved.entry.credit_kind, approved.entry.credit_id) == (Kind.PAYABLE, SHOP.merchant_id)
    assert approved.event.account.available_minor == 9_900


@pytest.mark.parametrize("status", [PaymentStatus.DECLINED, PaymentStatus.REFUNDED])
def test_only_an_approved_payment_is_given_back(status: PaymentStatus) -> None:
    approved = authorize(ACCOUNT, CARD, CHARGE, NOW, new_id)

    with pytest.raises(AssertionError):
        refund(approved.account, replace(approved.payment, status=status), NOW, new_id)


@pytest.mark.parametrize("code", list(DeclineCode))
def test_every_decline_has_an_advice_and_a_response_code(code: DeclineCode) -> None:
    assert advice_of(code)
    assert len(response_code_of(code)) == 2
    assert response_code_of(code) != response_code_of(None) == "00"


class AccountLife(RuleBasedStateMachine):
    """Charges and refunds in any order, beside a model that only adds and subtracts."""

    payments: Bundle[PaymentState] = Bundle("payments")

    def __init__(self) -> None:
        super().__init__()
        self.account = ACCOUNT
        self.entries: list[Entry] = []
        self.sequences: list[int] = []
        self.owed = 0

    def _keep(self, outcome: Outcome) -> None:
        self.account = outcome.account
        self.sequences.append(outcome.event.sequence)
        if outcome.entry is not None:
            self.entries.append(outcome.entry)
        assert outcome.event.account == outcome.account.state()
        assert outcome.event.payment == outcome.payment

    @rule(target=payments, amount=st.integers(1, 12_000), cvv_fits=st.booleans())
    def charge(self, amount: int, cvv_fits: bool) -> Any:
        asked = replace(CHARGE, payment_id=new_id(), amount_minor=amount, cvv_fits=cvv_fits)
        outcome = authorize(self.account, CARD, asked, NOW, new_id)
        self._keep(outcome)
        may_pass = cvv_fits and self.owed + amount <= ACCOUNT.limit_minor
        assert (outcome.payment.status is PaymentStatus.APPROVED) is may_pass
        if not may_pass:
            return multiple()
        self.owed += amount
        return outcome.payment

    @rule(payment=payments)
    def give_back(self, payment: PaymentState) -> None:
        if any(e.payment_id == payment.payment_id and e.debit_kind is Kind.PAYABLE for e in self.entries):
            return  # the service gives a payment back once: its status says so
        outcome = refund(self.account, payment, NOW, new_id)
        self._keep(outcome)
        self.owed -= payment.amount_minor
        assert outcome.payment.refunded_minor == payment.amount_minor

    @invariant()
    def balance_is_the_models(self) -> None:
        assert self.account.used_minor == self.owed
        assert 0 <= self.account.used_minor <= self.account.limit_minor

    @invariant()
    def ledger_says_the_same(self) -> None:
        debits = sum(e.amount_minor for e in self.entries if e.debit_kind is Kind.RECEIVABLE)
        credits = sum(e.amount_minor for e in self.entries if e.credit_kind is Kind.RECEIVABLE)
        assert debits - credits == self.owed
        assert first_broken(self.entries) is None

    @invariant()
    def events_are_numbered_without_a_gap(self) -> None:
        assert self.sequences == list(range(1, self.account.sequence + 1))


TestAccountLife = AccountLife.TestCase
TestAccountLife.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
