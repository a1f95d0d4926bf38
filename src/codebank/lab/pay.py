"""One purchase end to end from the terminal: through the shop's REST to the line on the statement."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from codebank.bank.test_cards import TestCard
from codebank.errors import Code, CodebankError
from codebank.settings import Settings
from codebank.wire import new_id

_PATIENCE_SECONDS = 30
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Reached:
    """A stage of the purchase that was reached, and when."""

    name: str
    detail: str
    #: Since the purchase began.
    after_milliseconds: int


@dataclass(frozen=True, slots=True)
class Purchase:
    """How a purchase went."""

    order: Mapping[str, Any]
    stages: tuple[Reached, ...]

    @property
    def is_paid(self) -> bool:
        """Whether the money moved."""
        return bool(self.order["status"] == "paid")


def buy(settings: Settings, card: TestCard, product: str, quantity: int, tell: Callable[[Reached], None]) -> Purchase:
    """Buy one product and follow the payment until its line is on the statement.

    Raises CodebankError where a part does not answer, or the line does not come.
    """
    began = time.monotonic()
    stages: list[Reached] = []

    def reach(name: str, detail: str) -> None:
        stage = Reached(name, detail, round((time.monotonic() - began) * 1000))
        stages.append(stage)
        tell(stage)

    body = {"items": [{"product": product, "quantity": quantity}], "card": card.body}
    key = str(new_id())
    order = _call(settings.checkout_home(), "POST", "/api/orders", body, {"idempotency-key": key})
    reach("order", f"{order['id']} {order['status']}")
    order = _wait(
        lambda: _call(settings.checkout_home(), "GET", f"/api/orders/{order['id']}"),
        lambda found: found["status"] not in ("pending", "processing"),
        "the bank's answer did not come",
    )
    reach("bank", order["status"] + (f" ({order['decline']['code']})" if order["decline"] else ""))
    if order["payment_id"]:
        arrival = _wait(
            lambda: _call(settings.statement_home(), "GET", f"/api/arrivals/{order['payment_id']}"),
            lambda found: found["arrived"],
            "the line did not come to the statement",
        )
        late = arrival["milliseconds_after_commit"]
        reach("statement", f"{arrival['status']}, {late} ms after the bank decided")
    return Purchase(order, tuple(stages))


def _wait(
    ask: Callable[[], dict[str, Any]], is_done: Callable[[dict[str, Any]], bool], otherwise: str
) -> dict[str, Any]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not is_done(found := ask()):
        if time.monotonic() > deadline:
            raise CodebankError(Code.DEADLINE, otherwise)
        time.sleep(_POLL_SECONDS)
    return found


def _call(
    home: str, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    place = urlsplit(home)
    connection = HTTPConnection(place.hostname or "localhost", place.port or 80, timeout=_PATIENCE_SECONDS)
    try:
        text = json.dumps(body) if body is not None else None
        connection.request(method, path, text, {"content-type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        document: dict[str, Any] = json.loads(answer.read())
    except (OSError, HTTPException, ValueError) as error:
        raise CodebankError(
            Code.UNAVAILABLE, f"{home} does not answer: {error}", hint="start it with `codebank up`"
        ) from None
    finally:
        connection.close()
    if answer.status >= 400:
        raise CodebankError(Code.INVALID, f"{home}{path} answered {answer.status}: {document.get('detail')}")
    return document
