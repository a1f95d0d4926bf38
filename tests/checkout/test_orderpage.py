"""An order's page: words in both languages for whatever an order may hold, and a journey that hides no waiting."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from codebank.checkout.order import Order, OrderStatus
from codebank.checkout.orderpage import Limits, OrderView, Sentence, order_view
from codebank.checkout.refusal import CARD_DATA, Refusal
from codebank.events import Advice, DeclineCode
from codebank.runtime.web.language import LANGUAGES, load_words
from codebank.v1 import bank_pb2 as pb
from tests.checkout.test_order import NOW, PAYMENT, an_order

WORDS = load_words("codebank.runtime.web", "codebank.checkout")
LIMITS = Limits(cancel_after_seconds=20, tells_all=True)
#: What the protocol can name, and what only a newer bank can.
CODES = [
    *sorted(name.removeprefix("DECLINE_CODE_").lower() for name in pb.DeclineCode.DESCRIPTOR.values_by_name),
    "code_37",
]
#: What the button says, by what the advice says: whoever adds a way adds it here.
BUTTONS = {
    "fix_the_data": ("Confira número, validade e CVV", "Corrigir os dados", "/payment"),
    "other_card": ("Use outro cartão", "Usar outro cartão", "/payment"),
    "holder_asks": ("Use outro cartão e fale com o banco", "Usar outro cartão", "/payment"),
    "smaller_amount": ("Use outro cartão ou", "Usar outro cartão", "/payment"),
    "try_again_later": ("Espere alguns minutos", "Tentar de novo", "/payment"),
    "shop": ("O problema não é o seu cartão", "Voltar ao carrinho", "/basket"),
    "same_card": ("com o mesmo cartão", "com o mesmo cartão", "/payment"),
    "other": ("Use outro cartão ou fale com o banco", "Usar outro cartão", "/payment"),
}


def seen(order: Order, after_seconds: int = 0, limits: Limits = LIMITS) -> OrderView:
    return order_view(order, "http://extrato", NOW + timedelta(seconds=after_seconds), limits)


def declined(code: str, advice: str | None = None) -> Order:
    return replace(an_order(OrderStatus.DECLINED), decline_code=code, advice=advice)


def said(words: Sentence, language: str = "pt") -> str:
    return WORDS.say(language, words.key, **words.values)


def milliseconds(count: int) -> timedelta:
    return timedelta(milliseconds=count)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("status", [*OrderStatus, "on_hold"])
@pytest.mark.parametrize("after_seconds", [0, 99])
@pytest.mark.parametrize("tries", [1, 2])
def test_every_state_has_words(status: str, after_seconds: int, tries: int, language: str) -> None:
    view = seen(replace(an_order(), status=status, tries=tries), after_seconds)

    assert WORDS.say(language, view.title)
    assert said(view.reason, language) or status == OrderStatus.PAID
    assert all(said(step.what, language) for step in view.steps)
    assert all(said(words, language) for words in view.under_way)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("advice", [*Advice, "advice_9", None])
def test_every_reason_and_advice_has_words_and_the_raw_code_beside(
    code: str, advice: str | None, language: str
) -> None:
    view = seen(declined(code, advice))

    assert said(view.reason, language)
    assert (view.reason.key == "order.reason_declined") == (code not in set(DeclineCode))
    assert isinstance(view.refusal, Refusal)
    assert WORDS.say(language, view.refusal.advice)
    assert WORDS.say(language, view.refusal.button)
    assert view.codes == (f"{code} · {advice}" if advice == "advice_9" else code)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("advice", [*Advice, "advice_9", None])
def test_advice_and_button_of_every_reason_say_the_same(code: str, advice: str | None) -> None:
    refusal = seen(declined(code, advice)).refusal

    assert refusal is not None
    way = refusal.advice.removeprefix("order.advice_")
    advises, offers, target = BUTTONS[way]
    assert advises in WORDS.say("pt", refusal.advice)
    assert offers in WORDS.say("pt", refusal.button)
    assert refusal.button == f"order.again_{way}"
    assert refusal.target == target


@pytest.mark.parametrize(("code", "way"), [
    (DeclineCode.WRONG_CVV, "fix_the_data"),
    (DeclineCode.WRONG_EXPIRY, "fix_the_data"),
    (DeclineCode.INVALID_NUMBER, "fix_the_data"),
    (DeclineCode.EXPIRED_CARD, "other_card"),
    (DeclineCode.CURRENCY_NOT_HELD, "other_card"),
    (DeclineCode.CARD_STOLEN, "holder_asks"),
    (DeclineCode.LIMIT_EXCEEDED, "smaller_amount"),
    (DeclineCode.TOO_MANY_ATTEMPTS, "try_again_later"),
    # Neither the card nor its holder is to blame.
    (DeclineCode.INVALID_MERCHANT, "shop"),
    (DeclineCode.CANCELLED_KEY, "same_card"),
])  # fmt: skip
def test_a_buyer_is_offered_what_helps(code: str, way: str) -> None:
    refusal = seen(declined(code, Advice.DO_NOT_TRY_AGAIN)).refusal

    assert refusal is not None
    assert refusal.advice == f"order.advice_{way}"


@pytest.mark.parametrize(("advice", "way"), [
    (Advice.FIX_THE_DATA, "fix_the_data"), (Advice.TRY_AGAIN_LATER, "try_again_later"),
    (Advice.DO_NOT_TRY_AGAIN, "other_card"), ("advice_9", "other"), (None, "other"),
])  # fmt: skip
def test_of_a_reason_without_words_the_banks_advice_counts(advice: str | None, way: str) -> None:
    refusal = seen(declined("code_37", advice)).refusal

    assert refusal is not None
    assert refusal.advice == f"order.advice_{way}"


def test_of_advice_without_words_nothing_is_made_even_where_the_reason_has_some() -> None:
    refusal = seen(declined(DeclineCode.TOO_MANY_ATTEMPTS, "advice_9")).refusal

    assert refusal == Refusal("decline.too_many_attempts", "order.advice_other", "order.again_other")


@pytest.mark.parametrize("code", [DeclineCode.INVALID_NUMBER, DeclineCode.WRONG_CVV, DeclineCode.WRONG_EXPIRY])
def test_which_of_a_cards_data_was_wrong_is_told_with_test_cards_only(code: str) -> None:
    told, public = seen(declined(code)), seen(declined(code), limits=Limits(20, tells_all=False))

    assert (told.reason.key, told.codes) == (f"decline.{code}", code)
    assert (public.reason.key, public.codes) == ("order.reason_card_data", CARD_DATA)
    assert told.refusal is not None
    assert public.refusal is not None
    assert (told.refusal.advice, told.refusal.button) == (public.refusal.advice, public.refusal.button)


def test_an_order_that_was_cancelled_says_that_the_bank_was_silent_for_how_long_and_offers_the_same_card() -> None:
    cancelled = replace(an_order(OrderStatus.CANCELLED), settled_at=NOW + milliseconds(21_400), tries=4)

    view = seen(cancelled)

    assert view.kind == "returned"
    assert said(view.reason) == "O banco não respondeu em 21 s; cancelamos por segurança e nada foi cobrado."
    assert view.refusal is not None
    assert "mesmo cartão" in WORDS.say("pt", view.refusal.button)
    assert [(step.kind, said(step.what), step.after_milliseconds) for step in view.steps] == [
        ("done", "Pedido recebido", 0),
        ("failed", "Banco não respondeu (4×)", None),
        ("done", "Cancelado por segurança", 21_400),
    ]


def test_an_order_whose_money_was_given_back_says_so() -> None:
    cancelled = replace(an_order(OrderStatus.CANCELLED), settled_at=NOW + milliseconds(21_400), payment_id=PAYMENT)

    view = seen(cancelled)

    assert "o valor foi devolvido" in said(view.reason)
    assert "nada foi cobrado" not in said(view.reason)
    assert view.steps[-1].arrival_url == f"http://extrato/api/arrivals/{PAYMENT}"


@pytest.mark.parametrize(("tries", "word"), [(1, "Resposta recebida"), (2, "Resposta recebida na 2ª tentativa")])
def test_every_time_counts_from_the_click_and_a_lost_answer_is_a_step_of_its_own(tries: int, word: str) -> None:
    paid = replace(
        an_order(OrderStatus.PAID), payment_id=UUID(int=7), decided_at=NOW + milliseconds(11),
        settled_at=NOW + milliseconds(3_200), tries=tries,
    )  # fmt: skip

    steps = seen(paid).steps

    assert [(step.kind, said(step.what), step.after_milliseconds) for step in steps] == [
        ("done", "Pedido recebido", 0),
        ("done", "Banco aprovou", 11),
        ("done", word, 3_200),
        ("", "No extrato", 11),  # what the statement adds counts from the decision
    ]


@pytest.mark.parametrize(("after_seconds", "tries", "expected"), [
    (1, 1, ["1ª tentativa", "há 1 s", "Sem resposta até 20 s, cancelamos por segurança e nada é cobrado."]),
    (7, 3, ["3ª tentativa", "há 7 s", "Sem resposta até 20 s, cancelamos por segurança e nada é cobrado."]),
    (21, 5, ["5ª tentativa", "há 21 s", "Estamos cancelando por segurança."]),
])  # fmt: skip
def test_a_payment_under_way_tells_the_try_the_time_and_what_comes_next(
    after_seconds: int, tries: int, expected: list[str]
) -> None:
    view = seen(replace(an_order(OrderStatus.PROCESSING), tries=tries), after_seconds)

    assert [said(words) for words in view.under_way] == expected


@pytest.mark.parametrize("status", [OrderStatus.PAID, OrderStatus.DECLINED, OrderStatus.CANCELLED, "on_hold"])
def test_nothing_is_under_way_where_nobody_asks(status: str) -> None:
    assert seen(replace(an_order(), status=status), 5).under_way == ()
