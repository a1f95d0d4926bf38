"""Orders: totals, parcelas, what an answer makes of an order, and what a typed card must be."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codebank.checkout.order import (
    AmountMismatch,
    Approved,
    Cancelled,
    CardInput,
    Declined,
    Order,
    OrderLine,
    OrderStatus,
    Outcome,
    Unknown,
    check_card,
    description_of,
    disowned,
    is_overdue,
    settle,
    split,
    total_of,
)
from codebank.money import AMOUNT_MINOR_MAX, Money
from codebank.text import is_blank, is_readable

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PAYMENT = UUID(int=7)
GOOD_CARD = CardInput(number="4000001000000018", expiry_month=12, expiry_year=2034, cvv="123")

outcomes = st.sampled_from(
    [
        Unknown("UNAVAILABLE"),
        Cancelled(PAYMENT),
        Declined(PAYMENT, "limit_exceeded", "try_again_later", NOW),
        Approved(PAYMENT, Money(5000, "BRL"), NOW),
    ]
)


def an_order(status: OrderStatus = OrderStatus.PENDING) -> Order:
    return Order(
        order_id=UUID(int=1), status=status, total=Money(5000, "BRL"), parcelas=1, lines=(), card_masked="•••• 0018",
        card_brand="visa", created_at=NOW,
    )  # fmt: skip


def a_line(quantity: int, unit_price_minor: int) -> OrderLine:
    return OrderLine(product="x", name="X", quantity=quantity, unit_price_minor=unit_price_minor)


@given(st.integers(1, AMOUNT_MINOR_MAX), st.integers(1, 12))
def test_parcelas_add_up_to_the_cent_and_differ_by_one_cent_at_most(total: int, parcelas: int) -> None:
    shares = split(total, parcelas)

    assert sum(shares) == total
    assert len(shares) == parcelas
    assert shares == sorted(shares, reverse=True)
    assert shares[0] - shares[-1] <= 1


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 10**7)), min_size=1, max_size=20))
def test_an_order_costs_the_sum_of_its_lines(items: list[tuple[int, int]]) -> None:
    lines = [a_line(quantity, price) for quantity, price in items]

    assert total_of(lines) == Money(sum(quantity * price for quantity, price in items), "BRL")


@pytest.mark.parametrize("lines", [[], [a_line(99, AMOUNT_MINOR_MAX)]])
def test_an_order_of_nothing_or_of_too_much_cannot_be_paid(lines: list[OrderLine]) -> None:
    with pytest.raises(ValueError, match="cannot be paid"):
        total_of(lines)


@given(st.lists(outcomes, max_size=6))
def test_an_ended_order_stays_as_it_is_whatever_comes_late(answers: list[Outcome]) -> None:
    order = an_order()
    ended: Order | None = None
    for answer in answers:
        order = settle(order, answer, NOW)
        if ended is not None:
            assert order == ended
        if order.is_ended:
            ended = order


def test_an_approval_pays_the_order() -> None:
    paid = settle(an_order(), Approved(PAYMENT, Money(5000, "BRL"), NOW), NOW)

    assert (paid.status, paid.payment_id, paid.settled_at) == (OrderStatus.PAID, PAYMENT, NOW)


@pytest.mark.parametrize("amount", [Money(4999, "BRL"), Money(5001, "BRL"), Money(5000, "USD")])
def test_trap_a14_an_approval_of_another_amount_never_pays_the_order(amount: Money) -> None:
    with pytest.raises(AmountMismatch):
        settle(an_order(), Approved(PAYMENT, amount, NOW), NOW)


def test_an_unknown_outcome_leaves_the_order_under_way() -> None:
    waiting = settle(an_order(), Unknown("DEADLINE_EXCEEDED"), NOW)

    assert waiting.status is OrderStatus.PROCESSING
    assert waiting.settled_at is None


@pytest.mark.parametrize(("age_seconds", "status", "cancels"), [
    (19, OrderStatus.PROCESSING, False),
    (20, OrderStatus.PROCESSING, True),
    (20, OrderStatus.PENDING, True),
    (99, OrderStatus.PAID, False),
])  # fmt: skip
def test_an_outcome_is_waited_for_only_so_long(age_seconds: int, status: OrderStatus, cancels: bool) -> None:
    order = an_order(status)

    assert is_overdue(order, NOW + timedelta(seconds=age_seconds), 20) is cancels


def test_a_good_card_has_nothing_wrong() -> None:
    assert check_card(GOOD_CARD, NOW) == []


@pytest.mark.parametrize(("changes", "field"), [
    ({"number": "4000001000000019"}, "card.number"),
    ({"number": ""}, "card.number"),
    ({"number": "4000 0010 0000 0018"}, "card.number"),
    ({"number": "١٢٣٤٥٦٧٨٩٠١٢"}, "card.number"),
    ({"expiry_month": 0}, "card.expiry_month"),
    ({"expiry_month": 13}, "card.expiry_month"),
    ({"expiry_month": 99}, "card.expiry_month"),
    ({"expiry_year": 34}, "card.expiry_year"),
    ({"expiry_year": 2026, "expiry_month": 10}, "card.expiry_month"),
    ({"cvv": "12"}, "card.cvv"),
    ({"cvv": "12345"}, "card.cvv"),
    ({"cvv": "１２３"}, "card.cvv"),
])  # fmt: skip
def test_each_wrong_part_of_a_card_is_named(changes: dict[str, object], field: str) -> None:
    card = replace(GOOD_CARD, **changes)  # type: ignore[arg-type]

    assert [violation.field for violation in check_card(card, NOW)] == [field]


def test_trap_b18_a_card_is_good_to_the_end_of_its_month_and_month_and_year_count_together() -> None:
    last = replace(GOOD_CARD, expiry_month=11, expiry_year=2026)

    assert check_card(last, datetime(2026, 12, 1, 2, 59, tzinfo=UTC)) == []  # still 30 November in São Paulo
    assert check_card(last, datetime(2026, 12, 1, 3, 0, tzinfo=UTC)) != []
    assert check_card(replace(GOOD_CARD, expiry_month=1, expiry_year=2031), NOW) == []


def bought(*lines: tuple[int, str]) -> Order:
    made = (OrderLine(product="x", name=name, quantity=quantity, unit_price_minor=1) for quantity, name in lines)
    return replace(an_order(), lines=tuple(made))


@pytest.mark.parametrize(("lines", "expected"), [
    ([(1, "Café especial")], "Café especial"),
    ([(2, "Caneca esmaltada"), (1, "Café especial")], "2 × Caneca esmaltada, Café especial"),
    ([(1, "a\x00b\tc\n\x85d")], "a b c d"),
    ([(1, "a\u202eb\ud800c\u2028d")], "a b c d"),
    ([(3, " \x07 ")], "3 × x"),
    ([(3, "\u2800\u200d")], "3 × x"),
    ([(1, "Cesta 👩\u200d🌾\u00a0 da\u2003feira")], "Cesta 👩\u200d🌾 da feira"),
    ([(1, "é" * 140)], "é" * 140),
    ([(1, "é" * 141)], "é" * 139 + "…"),
    ([(1, "é" * 138 + " longer")], "é" * 138 + "…"),
])  # fmt: skip
def test_what_was_bought_is_said_in_what_the_bank_takes(lines: list[tuple[int, str]], expected: str) -> None:
    assert description_of(bought(*lines)) == expected


@given(st.lists(st.tuples(st.integers(1, 99), st.text()), min_size=1, max_size=20))
def test_a_description_is_clean_and_of_bounded_length_whatever_is_sold(lines: list[tuple[int, str]]) -> None:
    text = description_of(bought(*lines))

    assert 1 <= len(text) <= 140
    assert is_readable(text)
    assert not is_blank(text)


@given(st.integers(-(10**9), 10**9))
def test_the_bank_decided_before_its_answer_came_whatever_its_clock_says(ahead_seconds: int) -> None:
    decided_at = NOW + timedelta(seconds=ahead_seconds)

    paid = settle(an_order(), Approved(PAYMENT, Money(5000, "BRL"), decided_at), NOW)

    assert paid.decided_at == min(decided_at, NOW)


def test_of_an_answer_with_another_orders_payment_only_what_ends_without_money_counts() -> None:
    assert isinstance(disowned(Approved(PAYMENT, Money(5000, "BRL"), NOW)), Unknown)
    assert disowned(Declined(PAYMENT, "code_37", None, NOW)) == Declined(None, "code_37", None, NOW)
    assert disowned(Cancelled(PAYMENT)) == Cancelled(None)


def test_an_order_in_a_state_of_a_later_release_is_neither_settled_nor_cancelled() -> None:
    order = replace(an_order(), status="on_hold")

    assert settle(order, Cancelled(PAYMENT), NOW) == order
    assert not is_overdue(order, NOW + timedelta(days=1), 20)
    assert not order.is_ended


def test_a_card_never_shows_itself_in_a_log() -> None:
    assert "4000" not in repr(GOOD_CARD)
    assert "123" not in repr(GOOD_CARD)
