"""The shop's REST: products and orders, beside the pages. Answers problems (RFC 9457) with the field's name."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codebank.checkout.order import ITEMS_MAX, PARCELAS_MAX, QUANTITY_MAX, CardInput, Order
from codebank.checkout.service import Item, Shop
from codebank.checkout.store import goods
from codebank.checkout.store import orders as store
from codebank.checkout.tasks import Tasks
from codebank.errors import Code, CodebankError, Violation, invalid
from codebank.runtime.web.http import Json, is_clean_text, one_header, read_json

PAGE_SIZE_MAX: Final = 50
_LIMIT_DIGITS_MAX: Final = 9
_PROCESSING_RETRY_SECONDS: Final = "1"


class ItemBody(msgspec.Struct, forbid_unknown_fields=True):
    """One product of a new order."""

    product: Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX)]


class CardBody(msgspec.Struct, forbid_unknown_fields=True):
    """The card that pays."""

    #: What number and CVV must be is said by `check_card`, in words.
    number: Annotated[str, msgspec.Meta(max_length=40)]
    expiry_month: Annotated[int, msgspec.Meta(ge=1, le=12)]
    expiry_year: Annotated[int, msgspec.Meta(ge=2000, le=2099)]
    cvv: Annotated[str, msgspec.Meta(max_length=40)]


class OrderBody(msgspec.Struct, forbid_unknown_fields=True):
    """A new order."""

    items: Annotated[list[ItemBody], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]
    card: CardBody
    parcelas: Annotated[int, msgspec.Meta(ge=1, le=PARCELAS_MAX)] = 1


def order_document(order: Order) -> dict[str, Any]:
    """Show an order as REST tells it."""
    return {
        "id": order.order_id,
        "status": order.status,
        "total": {"amount_minor": order.total.amount_minor, "currency": order.total.currency},
        "parcelas": order.parcelas,
        "items": [
            {
                "product": line.product,
                "name": line.name,
                "quantity": line.quantity,
                "unit_price_minor": line.unit_price_minor,
            }
            for line in order.lines
        ],
        "card": {"masked": order.card_masked, "brand": order.card_brand},
        "payment_id": order.payment_id,
        "decline": {"code": order.decline_code, "advice": order.advice} if order.decline_code else None,
        "created_at": order.created_at,
        "settled_at": order.settled_at,
    }


def api_routes(shop: Shop, tasks: Tasks) -> list[Route]:
    """List the routes of REST."""

    async def products(request: Request) -> Response:
        limit = read_limit(request.query_params.get("limit", "20"))
        cursor = request.query_params.get("cursor", "")
        if not is_clean_text(cursor) or len(cursor) > 60:
            raise invalid(Violation("cursor", "is not a cursor of this list"))
        async with shop.pool.acquire() as connection:
            found = await goods.list_products(connection, cursor, limit + 1)
        more = found[limit - 1].slug if len(found) > limit else None
        return Json({"products": [msgspec.to_builtins(item) for item in found[:limit]], "next_cursor": more})

    async def create_order(request: Request) -> Response:
        key = read_idempotency_key(request)
        body = await read_json(request, OrderBody)
        items = _read_items(body)
        card = CardInput(
            number=body.card.number,
            expiry_month=body.card.expiry_month,
            expiry_year=body.card.expiry_year,
            cvv=body.card.cvv,
        )
        placed = await shop.place_items(key, items, card, body.parcelas)
        if not placed.is_new:
            return _answer(placed.order, 200, {"idempotency-replayed": "true"})
        order = await tasks.finish(shop.pay(placed.order, card))
        return _answer(order, 201 if order.is_ended else 202, {})

    async def get_order(request: Request) -> Response:
        async with shop.pool.acquire() as connection:
            order = await store.find_order(connection, order_id=read_order_id(request))
        if order is None:
            raise CodebankError(Code.NOT_FOUND, "no such order")
        return _answer(order, 200, {})

    async def openapi(_request: Request) -> Response:
        document = (resources.files("codebank.checkout") / "openapi.json").read_bytes()
        return Response(document, media_type="application/json")

    return [
        Route("/api/products", products, methods=["GET"]),
        Route("/api/orders", create_order, methods=["POST"]),
        Route("/api/orders/{order_id}", get_order, methods=["GET"]),
        Route("/api/openapi.json", openapi, methods=["GET"]),
    ]


def _answer(order: Order, status: int, headers: dict[str, str]) -> Response:
    extra = {"cache-control": "no-store", "location": f"/api/orders/{order.order_id}", **headers}
    if not order.is_ended:
        extra["retry-after"] = _PROCESSING_RETRY_SECONDS
    return Json(order_document(order), status_code=status, headers=extra)


def _read_items(body: OrderBody) -> list[Item]:
    seen: set[str] = set()
    for place, item in enumerate(body.items):
        if not is_clean_text(item.product):
            raise invalid(Violation(f"items[{place}].product", "must not have control characters"))
        if item.product in seen:
            raise invalid(Violation(f"items[{place}].product", "is in the list twice"))
        seen.add(item.product)
    return [Item(item.product, item.quantity) for item in body.items]


def read_idempotency_key(request: Request) -> str:
    """Read the header that makes a repeat safe."""
    key = one_header(request, "idempotency-key")
    if not 1 <= len(key) <= 64 or not key.isascii() or not key.isprintable():
        raise invalid(Violation("idempotency-key", "must be a header of 1 to 64 printable ASCII characters"))
    return key


def read_order_id(request: Request) -> UUID:
    """Read an order's id; what is no id is no order."""
    try:
        return UUID(request.path_params["order_id"])
    except ValueError:
        raise CodebankError(Code.NOT_FOUND, "no such order") from None


def read_limit(text: str) -> int:
    """Read how many rows a page shall have."""
    if not (text.isascii() and text.isdigit() and len(text) <= _LIMIT_DIGITS_MAX and 1 <= int(text) <= PAGE_SIZE_MAX):
        raise invalid(Violation("limit", f"must be 1 to {PAGE_SIZE_MAX}"))
    return int(text)
