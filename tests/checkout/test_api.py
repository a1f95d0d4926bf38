"""The shop's REST: one order per key, problems that name the field, and never an error of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from codebank.checkout import service
from codebank.runtime.postgres.pool import connect
from codebank.settings import Settings
from tests.checkout.shop import (
    APPROVED,
    LIMIT_EXCEEDED,
    TIMEOUT_AFTER_COMMIT,
    UNAVAILABLE_ONCE,
    card_body,
    open_shop,
    order_body,
    orders_of,
    payments_of,
)
from tests.conftest import BankServer

pytestmark = pytest.mark.anyio
DOCUMENT = json.loads((resources.files("codebank.checkout") / "openapi.json").read_bytes())


@pytest.fixture
async def api(shop_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with open_shop(shop_settings) as browsers:
        yield browsers()


def fits(schema: str, document: Any) -> bool:
    """Tell whether a document is what the description says."""
    root = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
    return bool(Draft202012Validator(root).is_valid(document))


async def order(api: httpx.AsyncClient, key: str = "k", **body: Any) -> httpx.Response:
    return await api.post("/api/orders", json=order_body(**body), headers={"idempotency-key": key})


async def test_an_order_is_paid_and_read_again(api: httpx.AsyncClient, shop_settings: Settings) -> None:
    made = await order(api, parcelas=3)
    read = await api.get(made.headers["location"])

    assert (made.status_code, read.status_code) == (201, 200)
    assert made.json() == read.json()
    assert fits("Order", made.json())
    assert made.json()["status"] == "paid"
    assert made.json()["total"] == {"amount_minor": 5_490, "currency": "BRL"}
    assert made.json()["card"] == {"masked": "•••• 0018", "brand": "visa"}
    payment = (await payments_of(shop_settings))[0]
    assert (str(payment["payment_id"]), payment["parcelas"]) == (made.json()["payment_id"], 3)


async def test_a_decline_is_an_order_not_an_error(api: httpx.AsyncClient) -> None:
    made = await order(api, number=LIMIT_EXCEEDED)

    assert made.status_code == 201
    assert made.json()["status"] == "declined"
    assert made.json()["decline"] == {"code": "limit_exceeded", "advice": "try_again_later"}


async def test_the_same_key_fifty_times_at_once_is_one_order_and_one_charge(
    api: httpx.AsyncClient, shop_settings: Settings
) -> None:
    answers = await asyncio.gather(*(order(api) for _ in range(50)))

    assert {answer.json()["id"] for answer in answers} == {answers[0].json()["id"]}
    assert sorted({answer.status_code for answer in answers}) == [200, 201]
    assert len(await orders_of(shop_settings)) == len(await payments_of(shop_settings)) == 1


@pytest.mark.parametrize("changes", [
    {"parcelas": 2}, {"items": [{"product": "cafe-especial", "quantity": 2}]}, {"number": LIMIT_EXCEEDED},
    {"card": card_body(expiry_month=11)},
])  # fmt: skip
async def test_the_same_key_with_another_order_is_refused_and_nothing_moves(
    api: httpx.AsyncClient, shop_settings: Settings, changes: dict[str, Any]
) -> None:
    first = await order(api)

    second = await order(api, **changes)
    again = await order(api)

    assert second.status_code == 409
    assert second.json()["type"] == "urn:codebank:problem:key_reused"
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert len(await payments_of(shop_settings)) == 1


@pytest.mark.parametrize("change", [
    "update product set price_minor = price_minor + 1",
    "delete from product where slug = 'cafe-especial'",
])  # fmt: skip
async def test_trap_c06_a_repeat_is_answered_with_its_order_whatever_the_catalogue_says_by_now(
    api: httpx.AsyncClient, shop_settings: Settings, change: str
) -> None:
    first = await order(api)
    keeper = await connect(shop_settings.database_url("checkout"))
    await keeper.execute(change)
    await keeper.close()

    again = await order(api)

    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["idempotency-replayed"] == "true"


async def test_trap_c06_a_repeat_is_answered_with_its_order_when_the_card_has_expired_meanwhile(
    api: httpx.AsyncClient, shop_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await order(api)
    monkeypatch.setattr(service, "utc_now", lambda: datetime(2035, 1, 2, tzinfo=UTC))

    again = await order(api)
    new = await order(api, "another key")

    assert (again.status_code, again.json()) == (200, first.json())
    assert [error["field"] for error in new.json()["errors"]] == ["card.expiry_month"]
    assert len(await orders_of(shop_settings)) == 1


async def test_trap_a10_a_lost_answer_is_asked_for_again_with_the_same_key_and_charges_once(
    api: httpx.AsyncClient, shop_settings: Settings
) -> None:
    made = await order(api, number=TIMEOUT_AFTER_COMMIT)

    assert made.json()["status"] == "paid"
    assert [payment["status"] for payment in await payments_of(shop_settings)] == ["approved"]


async def test_a_bank_that_was_away_for_a_moment_is_asked_again(api: httpx.AsyncClient) -> None:
    assert (await order(api, number=UNAVAILABLE_ONCE)).json()["status"] == "paid"


BAD_BODIES: list[tuple[Any, str]] = [
    (order_body(items=[]), "items"),
    (order_body(items=[{"product": "cafe-especial", "quantity": 0}]), "items[0].quantity"),
    (order_body(items=[{"product": "cafe-especial", "quantity": -1}]), "items[0].quantity"),
    (order_body(items=[{"product": "cafe-especial", "quantity": 100}]), "items[0].quantity"),
    (order_body(items=[{"product": "cafe-especial", "quantity": 2**63}]), "items[0].quantity"),
    (order_body(items=[{"product": "cafe-especial", "quantity": 1.5}]), "items[0].quantity"),
    (order_body(items=[{"product": "cafe-especial", "quantity": "1"}]), "items[0].quantity"),
    (order_body(items=[{"product": "cafe-especial", "quantity": True}]), "items[0].quantity"),
    (order_body(items=[{"product": "nada", "quantity": 1}]), "items[0].product"),
    (order_body(items=[{"product": "", "quantity": 1}]), "items[0].product"),
    (order_body(items=[{"product": "a\x00b", "quantity": 1}]), "items[0].product"),
    (order_body(items=[{"product": "cafe-especial", "quantity": 1}] * 2), "items[1].product"),
    (order_body(items=[{"product": f"p{n}", "quantity": 1} for n in range(21)]), "items"),
    (order_body(items="x"), "items"),
    (order_body(parcelas=0), "parcelas"),
    (order_body(parcelas=13), "parcelas"),
    (order_body(parcelas=None), "parcelas"),
    (order_body(extra=1), "body"),
    (order_body(card=card_body(number="4000001000000019")), "card.number"),
    (order_body(card=card_body(number="4000")), "card.number"),
    (order_body(card={**card_body(), "number": 4000001000000018}), "card.number"),
    (order_body(card=card_body(number="4000001000000018\n")), "card.number"),
    (order_body(card=card_body(expiry_month=0)), "card.expiry_month"),
    (order_body(card=card_body(expiry_month=99)), "card.expiry_month"),
    (order_body(card=card_body(expiry_year=1999)), "card.expiry_year"),
    (order_body(card=card_body(expiry_year=2020)), "card.expiry_month"),
    (order_body(card=card_body(cvv="12")), "card.cvv"),
    (order_body(card=card_body(cvv=123)), "card.cvv"),
    (order_body(card=card_body(cvv="")), "card.cvv"),
    (order_body(card=None), "card"),
    ({"items": [{"product": "cafe-especial", "quantity": 1}]}, "body"),
    ([], "body"),
]


@pytest.mark.parametrize(("body", "field"), BAD_BODIES, ids=lambda value: str(value)[:60])
async def test_trap_a25_every_bad_field_is_named_and_nothing_is_stored(
    api: httpx.AsyncClient, shop_settings: Settings, body: Any, field: str
) -> None:
    answer = await api.post("/api/orders", json=body, headers={"idempotency-key": "k"})

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert fits("Problem", answer.json())
    assert await orders_of(shop_settings) == []


@pytest.mark.parametrize("raw", [
    b'{"items": NaN}', b'{"items": [{"product": "x", "quantity": Infinity}]}', b"\xff\xfe", b'{"items": "\xc3\x28"}',
    b"",
    b"{", b"[" * 20_000, b'{"card": {"number": "\\ud800"}}',
])  # fmt: skip
async def test_a_body_that_is_no_json_is_refused(api: httpx.AsyncClient, shop_settings: Settings, raw: bytes) -> None:
    headers = {"idempotency-key": "k", "content-type": "application/json"}

    answer = await api.post("/api/orders", content=raw, headers=headers)

    assert answer.status_code == 422
    assert await orders_of(shop_settings) == []


async def test_ten_megabytes_are_refused_early(api: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "k", "content-type": "application/json"}

    answer = await api.post("/api/orders", content=b" " * 10_000_000, headers=headers)

    assert answer.status_code == 413
    assert answer.json()["title"] == "too large"


@pytest.mark.parametrize("headers", [
    {}, {"idempotency-key": ""}, {"idempotency-key": "x" * 65}, {"idempotency-key": "a\tb"},
    {"idempotency-key": "é".encode()},
])  # fmt: skip
async def test_an_order_needs_a_key(api: httpx.AsyncClient, headers: dict[str, Any]) -> None:
    answer = await api.post("/api/orders", json=order_body(), headers=headers)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "idempotency-key"


async def test_two_different_keys_are_one_too_many(api: httpx.AsyncClient, shop_settings: Settings) -> None:
    async def sent(*keys: str) -> httpx.Response:
        return await api.post("/api/orders", json=order_body(), headers=[("idempotency-key", key) for key in keys])

    two, same, again = await sent("a", "b"), await sent("c", "c"), await sent("c")

    assert two.status_code == 422
    assert two.json()["errors"] == [
        {"field": "idempotency-key", "detail": "was sent more than once, with different values"}
    ]
    assert (same.status_code, again.json()) == (201, same.json())
    assert len(await orders_of(shop_settings)) == 1


async def test_a_media_type_is_understood_whatever_its_case(api: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "k", "content-type": "Application/JSON; Charset=UTF-8"}

    made = await api.post("/api/orders", content=json.dumps(order_body()), headers=headers)
    basket = await api.post(
        "/basket", content="product=cafe-especial", headers={"content-type": "APPLICATION/x-www-form-urlencoded"}
    )
    missing = await api.get("/nada", headers={"accept": "Application/Json"})

    assert (made.status_code, basket.status_code) == (201, 303)
    assert missing.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("card", "field", "detail"), [
    (card_body(number=""), "card.number", "is missing"),
    (card_body(number="4000"), "card.number", "must be 12 to 19 digits"),
    (card_body(number="4000001000000019"), "card.number", "is not a card number: its check digit is wrong"),
    (card_body(cvv=""), "card.cvv", "is missing"),
    (card_body(cvv="12"), "card.cvv", "must be three or four digits"),
    (
        card_body(expiry_year=2020), "card.expiry_month",
        "is past: the card was good to the end of that month",
    ),
])  # fmt: skip
async def test_a_problem_says_what_is_wrong_with_the_card(
    api: httpx.AsyncClient, card: dict[str, Any], field: str, detail: str
) -> None:
    answer = await order(api, card=card)

    assert answer.json()["errors"] == [{"field": field, "detail": detail}]


async def test_a_field_that_is_not_known_is_named_as_it_was_written(api: httpx.AsyncClient) -> None:
    assert "'giftWrap'" in (await order(api, giftWrap=True)).json()["errors"][0]["detail"]


async def test_products_come_in_pages(api: httpx.AsyncClient) -> None:
    found: list[str] = []
    cursor = ""
    while True:
        page = (await api.get("/api/products", params={"limit": 5, "cursor": cursor})).json()
        assert all(fits("Product", product) for product in page["products"])
        found += [product["slug"] for product in page["products"]]
        if page["next_cursor"] is None:
            break
        cursor = page["next_cursor"]

    assert len(found) == len(set(found)) == 12


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=51", "limit=x", "limit=-1", "limit=1e1", "limit=000000001" + 20 * "0",
        "cursor=%00", "cursor=" + "x" * 99,
    ],
)  # fmt: skip
async def test_a_bad_query_is_named(api: httpx.AsyncClient, query: str) -> None:
    answer = await api.get(f"/api/products?{query}")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == query.partition("=")[0]


@pytest.mark.parametrize("order_id", ["x", "0" * 36, "01900000-0000-7000-8000-00000000ffff", "%00"])
async def test_an_order_that_is_not_there_is_not_found(api: httpx.AsyncClient, order_id: str) -> None:
    assert (await api.get(f"/api/orders/{order_id}")).status_code == 404


async def test_the_description_is_valid_and_names_every_route(api: httpx.AsyncClient) -> None:
    served = (await api.get("/api/openapi.json")).json()

    validate(served)
    assert served == DOCUMENT
    assert set(served["paths"]) == {"/api/products", "/api/orders", "/api/orders/{order_id}", "/api/openapi.json"}


async def test_no_card_number_is_in_the_shops_database(
    api: httpx.AsyncClient, shop_settings: Settings, bank_server: BankServer
) -> None:
    await order(api)

    connection = await bank_server.settings.databases.connect("checkout")  # type: ignore[attr-defined]
    rows = [
        str(dict(row))
        for table in ("orders", "order_line", "basket", "basket_line")
        for row in await connection.fetch(f"select * from {table}")
    ]
    await connection.close()
    assert rows
    assert all(APPROVED not in row for row in rows)
