"""An order's page: there are words in both languages for whatever an order may hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from codebank.checkout.order import OrderStatus
from codebank.checkout.orderpage import order_view
from codebank.events import Advice, DeclineCode
from codebank.runtime.web.language import LANGUAGES, load_words
from tests.checkout.test_order import an_order

WORDS = load_words("codebank.runtime.web", "codebank.checkout")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("status", [*OrderStatus, "on_hold"])
@pytest.mark.parametrize("overdue", [True, False])
def test_every_state_has_words(status: str, overdue: bool, language: str) -> None:
    view = order_view(replace(an_order(), status=status), "", overdue=overdue)

    assert WORDS.say(language, view.title)
    assert WORDS.say(language, view.reason) or status == OrderStatus.PAID
    assert WORDS.say(language, f"order.step_bank_{view.kind}")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("code", [*DeclineCode, "code_37", "unspecified"])
@pytest.mark.parametrize("advice", [*Advice, "advice_9", None])
def test_every_reason_and_advice_has_words_and_the_raw_code_beside(
    code: str, advice: str | None, language: str
) -> None:
    order = replace(an_order(OrderStatus.DECLINED), decline_code=code, advice=advice)

    view = order_view(order, "")

    assert WORDS.say(language, view.reason)
    assert (view.reason == "order.reason_declined") == (code not in set(DeclineCode))
    assert bool(view.advice and WORDS.say(language, view.advice)) == (advice is not None)
    assert view.codes == (f"{code} · {advice}" if advice == "advice_9" else code)
