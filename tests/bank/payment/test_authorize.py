"""The rules of a charge: every reason to decline, their order, wrong attempts, and a model of a life of charges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from msgspec.structs import replace

from codebank.bank.card.attempts import WRONG_ATTEMPTS_MAX, WRONG_ATTEMPTS_WINDOW, count_attempt, is_worn_out
from codebank.bank.door.decline import advice_of, response_code_of
from codebank.bank.ledger.entry import GENESIS_HASH, Entry, Kind, first_broken
from codebank.bank.operation import Authorize, Cancel, CancelAnswer, CancelOutcome, Changes, Key
from codebank.bank.payment.authorize import RISKY_AMOUNT_MINOR, RISKY_CATEGORIES, why_declined
from codebank.bank.rules import decide
from codebank.bank.state import Account, Card, Merchant, State, TakenKey
from codebank.errors import Code, CodebankError
from codebank.events import AccountStatus, CardStatus, DeclineCode, PaymentEvent, PaymentState, PaymentStatus
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
    token="tok",
    masked="•••• 1234",
    brand="visa",
    expiry_month=1,
    expiry_year=2031,
    status=CardStatus.ACTIVE,
)
SHOP = Merchant(merchant_id=UUID(int=3), name="Loja", category_code="5311", is_open=True)
CHARGE = Authorize(
    key=Key(SHOP.merchant_id, "k", bytes(32)),
    payment_id=UUID(int=4),
    merchant_id=SHOP.merchant_id,
    amount_minor=100,
    currency="BRL",
    description="coffee",
    parcelas=1,
    card_masked="•••• 1234",
    card_brand="visa",
    handle=bytes(32),
    expiry=(2031, 1),
    cvv_fits=True,
)
WORN_OUT = {"wrong_attempts": WRONG_ATTEMPTS_MAX, "wrong_since": NOW - timedelta(minutes=1)}
RISKY = Merchant(merchant_id=UUID(int=3), name="Bets", category_code=min(RISKY_CATEGORIES), is_open=True)


def why(
    account: Account = ACCOUNT,
    card: Card | None = CARD,
    operation: Authorize = CHARGE,
    shop: Merchant = SHOP,
    now: datetime = NOW,
) -> str | None:
    """Say why a charge is declined; None where it is not."""
    return why_declined(account, card, shop, operation, now)


#: From the first to be told to the last: what is changed of account, card, charge and shop so that the reason applies.
REASONS: list[tuple[DeclineCode, dict[str, Any], dict[str, Any], dict[str, Any], Merchant]] = [
    (DeclineCode.CARD_BLOCKED, {}, {"status": CardStatus.BLOCKED}, {}, SHOP),
    (DeclineCode.TOO_MANY_ATTEMPTS, {}, WORN_OUT, {}, SHOP),
    (DeclineCode.WRONG_EXPIRY, {}, {}, {"expiry": (2031, 2)}, SHOP),
    (DeclineCode.EXPIRED_CARD, {}, {"expiry_year": 2026, "expiry_month": 10}, {"expiry": (2026, 10)}, SHOP),
    (DeclineCode.WRONG_CVV, {}, {}, {"cvv_fits": False}, SHOP),
    (DeclineCode.INVALID_MERCHANT, {}, {}, {}, replace(SHOP, is_open=False)),
    (DeclineCode.SUSPECTED_FRAUD, {}, {}, {"amount_minor": RISKY_AMOUNT_MINOR}, RISKY),
    (DeclineCode.ACCOUNT_CLOSED, {"status": AccountStatus.CLOSED}, {}, {}, SHOP),
    (DeclineCode.CURRENCY_NOT_HELD, {}, {}, {"currency": "USD"}, SHOP),
    (DeclineCode.LIMIT_EXCEEDED, {"used_minor": 9_901}, {}, {}, SHOP),
]


def test_a_charge_with_nothing_against_it_is_approved() -> None:
    assert why() is None


@pytest.mark.parametrize(("code", "account", "card", "charge", "shop"), REASONS, ids=lambda value: str(value)[:20])
def test_each_reason_alone_declines(code: DeclineCode, account: Any, card: Any, charge: Any, shop: Merchant) -> None:
    found = why(replace(ACCOUNT, **account), replace(CARD, **card), replace(CHARGE, **charge), shop)

    assert found is code


@pytest.mark.parametrize(
    ("status", "code"), [(CardStatus.LOST, DeclineCode.CARD_LOST), (CardStatus.STOLEN, DeclineCode.CARD_STOLEN)]
)
def test_a_lost_and_a_stolen_card_have_reasons_of_their_own(status: CardStatus, code: DeclineCode) -> None:
    assert why(card=replace(CARD, status=status)) is code


def test_a_card_that_nobody_knows_is_an_invalid_number() -> None:
    assert why(card=None) is DeclineCode.INVALID_NUMBER


@pytest.mark.parametrize("earlier", range(len(REASONS)))
def test_of_two_reasons_the_earlier_is_told(earlier: int) -> None:
    code, account, card, charge, shop = REASONS[earlier]

    for _, later_account, later_card, later_charge, later_shop in REASONS[earlier + 1 :]:
        both = (
            replace(ACCOUNT, **{**later_account, **account}),
            replace(CARD, **{**later_card, **card}),
            replace(CHARGE, **{**later_charge, **charge}),
            later_shop if shop is SHOP else shop,
        )
        assert why(*both) is code


def test_a_reason_that_a_test_card_forces_comes_before_all() -> None:
    forced = replace(CHARGE, forced=DeclineCode.CANCELLED_KEY)

    assert why(card=None, operation=forced) is DeclineCode.CANCELLED_KEY


def test_a_token_needs_neither_expiry_nor_cvv_but_the_card_must_not_be_expired() -> None:
    charge = replace(CHARGE, handle="tok", expiry=None, cvv_fits=None)

    assert why(operation=charge) is None
    assert why(card=replace(CARD, expiry_year=2026), operation=charge) is DeclineCode.EXPIRED_CARD


@pytest.mark.parametrize(
    ("used", "amount", "approved"), [(0, 10_000, True), (9_900, 100, True), (9_900, 101, False), (0, 10_001, False)]
)
def test_the_limit_may_be_used_to_the_last_cent_and_no_further(used: int, amount: int, approved: bool) -> None:
    code = why(replace(ACCOUNT, used_minor=used), operation=replace(CHARGE, amount_minor=amount))

    assert (code is None) is approved


@pytest.mark.parametrize(("amount", "code"), [(RISKY_AMOUNT_MINOR - 1, None), (RISKY_AMOUNT_MINOR, "suspected_fraud")])
def test_a_risky_merchant_is_refused_from_its_amount_on(amount: int, code: str | None) -> None:
    rich = replace(ACCOUNT, limit_minor=10 * RISKY_AMOUNT_MINOR)

    assert why(rich, operation=replace(CHARGE, amount_minor=amount), shop=RISKY) == code


@pytest.mark.parametrize(
    ("now", "code"),
    [
        # The last second of the month on Brazil's calendar, three hours behind UTC, and the first of the next.
        (datetime(2031, 2, 1, 2, 59, 59, tzinfo=UTC), None),
        (datetime(2031, 2, 1, 3, 0, 0, tzinfo=UTC), DeclineCode.EXPIRED_CARD),
    ],
)
def test_a_card_pays_until_the_last_second_of_its_month(now: datetime, code: DeclineCode | None) -> None:
    assert why(now=now) is code


def test_trap_b18_a_card_valid_to_january_2031_is_not_refused_in_november_2026() -> None:
    assert NOW.month > CARD.expiry_month
    assert why() is None


def test_trap_b05_a_wrong_expiry_and_a_wrong_cvv_are_not_approved() -> None:
    assert why(operation=replace(CHARGE, expiry=(2031, 12))) is DeclineCode.WRONG_EXPIRY
    assert why(operation=replace(CHARGE, expiry=(2001, 1))) is DeclineCode.WRONG_EXPIRY
    assert why(operation=replace(CHARGE, cvv_fits=False)) is DeclineCode.WRONG_CVV


@pytest.mark.parametrize("code", [DeclineCode.WRONG_CVV, DeclineCode.WRONG_EXPIRY])
def test_wrong_attempts_wear_the_card_out_for_a_quarter_of_an_hour(code: DeclineCode) -> None:
    card = CARD
    for number in range(1, WRONG_ATTEMPTS_MAX + 1):
        assert not is_worn_out(card, NOW)
        card = count_attempt(card, code, NOW + timedelta(seconds=number)) or card

    assert card.wrong_attempts == 5
    first = NOW + timedelta(seconds=1)
    assert why(card=card, now=first + timedelta(minutes=14, seconds=59)) == "too_many_attempts"
    assert why(card=card, now=first + WRONG_ATTEMPTS_WINDOW) is None


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


def charged(account: Account = ACCOUNT, operation: Authorize = CHARGE) -> Changes:
    """Decide a charge."""
    return decide(State(account=account, card=CARD, merchant=SHOP), operation, NOW, new_id)


def cancelled(account: Account, payment: PaymentState, kind: str = Authorize.kind) -> Changes:
    """Decide to give a payment back."""
    key = TakenKey(kind=kind, request_hash=bytes(32), account_id=account.account_id, payment_id=payment.payment_id)
    state = State(account=account, target=key, payment=payment)
    return decide(state, Cancel(merchant_id=SHOP.merchant_id, target="k"), NOW, new_id)


def test_a_decline_changes_nothing_but_the_number_of_events_and_the_version() -> None:
    declined = charged(operation=replace(CHARGE, amount_minor=10_001))

    assert declined.entries == ()
    assert declined.account == replace(ACCOUNT, sequence=1, version=1)
    assert declined.payment is not None
    assert (declined.payment.status, declined.payment.decline_code) == (PaymentStatus.DECLINED, "limit_exceeded")
    assert (declined.payment.captured_minor, declined.payment.version) == (0, 1)
    assert [(event.sequence, event.type) for event in declined.events] == [(1, "codebank.payment.declined")]


def test_an_approval_moves_exactly_the_amount() -> None:
    approved = charged()

    (entry,), (event,) = approved.entries, approved.events
    assert approved.account is not None
    assert approved.payment is not None
    assert (approved.account.used_minor, entry.amount_minor, approved.payment.captured_minor) == (100, 100, 100)
    assert (entry.debit_kind, entry.debit_id) == (Kind.RECEIVABLE, ACCOUNT.account_id)
    assert (entry.credit_kind, entry.credit_id) == (Kind.PAYABLE, SHOP.merchant_id)
    assert event.account.available_minor == 9_900


def test_an_event_names_the_operation_that_it_comes_from_and_not_its_key() -> None:
    (event,) = charged().events

    assert event.cause is not None
    assert (event.cause.kind, event.cause.caller_id) == ("authorize", SHOP.merchant_id)
    assert event.cause.key_hash == sha256(b"k").hexdigest()
    assert event.cause.digest == "1:" + bytes(32).hex()


def test_a_declined_payment_has_nothing_to_give_back() -> None:
    declined = charged(operation=replace(CHARGE, amount_minor=10_001))
    assert declined.account is not None
    assert declined.payment is not None

    changes = cancelled(declined.account, declined.payment)

    assert changes == Changes(answer=CancelAnswer(CancelOutcome.NOTHING_CHARGED, declined.payment, "k"), at=NOW)


def test_a_payment_that_was_given_back_is_not_given_back_again() -> None:
    approved = charged()
    assert approved.account is not None
    assert approved.payment is not None
    once = cancelled(approved.account, approved.payment)
    assert once.account is not None
    assert once.payment is not None

    twice = cancelled(once.account, once.payment)

    assert once.account.used_minor == 0
    assert (twice.entries, twice.events, twice.account) == ((), (), None)
    assert twice.answer == CancelAnswer(CancelOutcome.REFUNDED, once.payment, "k")


@pytest.mark.parametrize("status", ["held", "disputed"])
def test_a_payment_in_a_state_that_only_a_newer_release_knows_is_not_touched(status: str) -> None:
    approved = charged()
    assert approved.account is not None
    assert approved.payment is not None

    with pytest.raises(CodebankError) as caught:
        cancelled(approved.account, replace(approved.payment, status=status))

    assert caught.value.code is Code.FAILED_PRECONDITION


def test_a_key_that_was_used_for_something_else_is_not_cancelled() -> None:
    approved = charged()
    assert approved.account is not None
    assert approved.payment is not None

    with pytest.raises(CodebankError) as caught:
        cancelled(approved.account, approved.payment, kind="capture")

    assert caught.value.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("account", "card"), [({"status": "frozen"}, {}), ({}, {"status": "replaced"})], ids=["account", "card"]
)
def test_a_state_that_only_a_newer_release_knows_never_pays(account: Any, card: Any) -> None:
    assert why(replace(ACCOUNT, **account), replace(CARD, **card)) is not None


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=1), timedelta(days=300_000)])
def test_trap_c08_a_clock_set_back_does_not_keep_a_card_worn_out(ahead: timedelta) -> None:
    card = replace(CARD, wrong_attempts=WRONG_ATTEMPTS_MAX, wrong_since=NOW + ahead)

    assert why(card=card) is None
    changed = count_attempt(card, DeclineCode.WRONG_CVV, NOW)
    assert changed is not None
    assert (changed.wrong_attempts, changed.wrong_since) == (1, NOW)


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

    def _keep(self, changes: Changes) -> PaymentState:
        assert changes.account is not None
        assert changes.payment is not None
        assert changes.account.version == self.account.version + 1
        self.account = changes.account
        self.entries += changes.entries
        (event,) = changes.events
        assert isinstance(event, PaymentEvent)
        self.sequences.append(event.sequence)
        assert event.account == changes.account.state()
        assert event.payment == changes.payment
        return changes.payment

    @rule(target=payments, amount=st.integers(1, 12_000), cvv_fits=st.booleans())
    def charge(self, amount: int, cvv_fits: bool) -> Any:
        asked = replace(CHARGE, payment_id=new_id(), amount_minor=amount, cvv_fits=cvv_fits)
        payment = self._keep(charged(self.account, asked))
        may_pass = cvv_fits and self.owed + amount <= ACCOUNT.limit_minor
        assert (payment.status == PaymentStatus.APPROVED) is may_pass
        if not may_pass:
            return multiple()
        self.owed += amount
        return payment

    @rule(payment=payments)
    def give_back(self, payment: PaymentState) -> None:
        if any(e.payment_id == payment.payment_id and e.debit_kind is Kind.PAYABLE for e in self.entries):
            return  # the service gives a payment back once: its status says so
        given_back = self._keep(cancelled(self.account, payment))
        self.owed -= payment.amount_minor
        assert (given_back.refunded_minor, given_back.version) == (payment.amount_minor, 2)

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
