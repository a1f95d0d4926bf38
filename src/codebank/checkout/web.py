"""The shop's pages: catalogue, product, basket, payment, order. All work without JavaScript."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from codebank.card import BRANDS
from codebank.checkout.api import read_order_id
from codebank.checkout.catalogue import Product
from codebank.checkout.form import expiry_again, is_whole, read_card, read_quantity
from codebank.checkout.order import (
    CURRENCY,
    PARCELAS_MAX,
    QUANTITY_MAX,
    EmptyBasket,
    Order,
    StaleAttempt,
    TotalChanged,
    split,
)
from codebank.checkout.orderpage import Limits, order_view
from codebank.checkout.service import Shop
from codebank.checkout.store import goods
from codebank.checkout.store import orders as store
from codebank.checkout.tasks import Tasks
from codebank.civil import local_day
from codebank.errors import Code, CodebankError
from codebank.money import Money
from codebank.runtime.web.http import Json, read_form
from codebank.runtime.web.pages import Pages
from codebank.wire import utc_now

_COOKIE: Final = "basket"
_COOKIE_SECONDS: Final = 30 * 24 * 3600
#: As the page's script reads them: one list for both.
_BRANDS: Final = json.dumps(BRANDS)


@dataclass
class Web:
    """Answers the shop's pages."""

    shop: Shop
    pages: Pages
    tasks: Tasks
    secure_cookies: bool
    #: Shown on the payment page of a demo.
    test_cards: Sequence[object]

    def routes(self) -> list[Route]:
        """List the routes of the pages."""
        return [
            Route("/", self.catalogue, methods=["GET"]),
            Route("/products/{slug}", self.product, methods=["GET"]),
            Route("/basket", self.basket, methods=["GET"]),
            Route("/basket", self.change_basket, methods=["POST"]),
            Route("/payment", self.payment, methods=["GET"]),
            Route("/payment", self.pay, methods=["POST"]),
            Route("/attempts/{attempt_key}", self.attempt, methods=["GET"]),
            Route("/orders/{order_id}", self.order, methods=["GET"]),
            Route("/orders/{order_id}/status", self.order_status, methods=["GET"]),
        ]

    async def catalogue(self, request: Request) -> Response:
        """Show what is on sale."""
        async with self.shop.pool.acquire() as connection:
            products = await goods.list_products(connection, "", 100)
        return await self._page(request, "catalogue.html", {"products": products})

    async def product(self, request: Request) -> Response:
        slug = request.path_params["slug"]
        async with self.shop.pool.acquire() as connection:
            found = await goods.find_products(connection, [slug]) if "\0" not in slug else {}
        if slug not in found:
            raise CodebankError(Code.NOT_FOUND, "no such product")
        return await self._product_page(request, found[slug])

    async def _product_page(
        self, request: Request, product: Product, error: str = "", quantity: str = "1", status: int = 200
    ) -> Response:
        values = {"product": product, "quantity": quantity, "error": error, "quantity_max": QUANTITY_MAX}
        return await self._page(request, "product.html", values, status=status)

    async def basket(self, request: Request) -> Response:
        is_capped = "capped" in request.query_params
        return await self._page(request, "basket.html", {"quantity_max": QUANTITY_MAX, "is_capped": is_capped})

    async def change_basket(self, request: Request) -> Response:
        """Put a product into the basket, or set how many of it there are."""
        form = await read_form(request)
        slug, adds = form.get("product", ""), form.get("action") == "add"
        quantity = read_quantity(form.get("quantity", "1"))
        basket = await self._read_basket(request)
        async with self.shop.pool.acquire() as connection, connection.transaction():
            found = await goods.find_products(connection, [slug]) if "\0" not in slug else {}
            if slug not in found:
                raise CodebankError(Code.NOT_FOUND, "no such product")
            if quantity is not None and (quantity > 0 or not adds):
                basket_id = basket.basket_id if basket else await goods.add_basket(connection)
                present = {line.product.slug: line.quantity for line in basket.lines} if basket and adds else {}
                quantity += present.get(slug, 0)
                await goods.set_quantity(connection, basket_id, slug, min(quantity, QUANTITY_MAX))
        if quantity is None or (quantity == 0 and adds):
            wrong = self.pages.say(request, "product.wrong_quantity", count=QUANTITY_MAX)
            return await self._product_page(request, found[slug], wrong, form.get("quantity", "")[:9], 422)
        response = RedirectResponse("/basket?capped" if quantity > QUANTITY_MAX else "/basket", status_code=303)
        response.set_cookie(
            _COOKIE,
            str(basket_id),
            max_age=_COOKIE_SECONDS,
            httponly=True,
            samesite="lax",
            secure=self.secure_cookies,
        )
        return response

    async def payment(self, request: Request) -> Response:
        """Show the payment form of the basket."""
        return await self._payment_page(request, {}, {})

    async def _payment_page(
        self, request: Request, errors: dict[str, str], form: dict[str, str], notice: str = "", status: int = 200
    ) -> Response:
        basket = await self._read_basket(request)
        if basket is None or not basket.lines:
            return RedirectResponse("/basket", status_code=303)
        choices = [(count, _shares(basket.total_minor, count)) for count in range(1, PARCELAS_MAX + 1)]
        values: dict[str, Any] = {
            "errors": errors,
            "notice": notice,
            # The number and the CVV are never written back into a page.
            "expiry": expiry_again(form),
            "brands": _BRANDS,
            "call_seconds": self.shop.bank.budget_seconds,
            "parcelas": form.get("parcelas", "1"),
            "choices": choices,
            "test_cards": self.test_cards,
            # The server's month: a browser's clock and zone refuse no card.
            "month": f"{local_day(utc_now()):%Y-%m}",
        }
        return await self._page(request, "payment.html", values, status=status)

    async def pay(self, request: Request) -> Response:
        """Place the order and have it paid; whoever sends the page again is shown the order that it made."""
        clicked_at = utc_now()
        form = await read_form(request)
        basket_id, attempt_key = self._basket_id(request), _read_uuid(form.get("attempt", ""))
        if basket_id is None or attempt_key is None:
            return RedirectResponse("/basket", status_code=303)
        # The key first: a page sent again is answered with its order, whatever would be wrong with it by now.
        if (before := await self.shop.find_attempt(basket_id, attempt_key)) is not None:
            return _to_order(before)
        card, wrong = read_card(form, utc_now())
        parcelas, total = form.get("parcelas", "1"), form.get("total_minor", "")
        if wrong or not is_whole(parcelas, PARCELAS_MAX) or not is_whole(total, 10**12):
            errors = {name: self.pages.say(request, key) for name, key in wrong.items()}
            return await self._payment_page(request, errors, form, status=422)
        language = self.pages.language(request)
        try:
            placed = await self.shop.place_basket(
                basket_id, attempt_key, int(total), card, int(parcelas), language, clicked_at
            )
        except StaleAttempt:
            return await self._payment_page(request, {}, form, self.pages.say(request, "payment.stale"), 409)
        except TotalChanged:
            return await self._payment_page(request, {}, form, self.pages.say(request, "payment.changed"), 409)
        except EmptyBasket:
            return RedirectResponse("/basket", status_code=303)
        if placed.is_new:
            await self.tasks.finish(self.shop.pay(placed.order, card))
        return _to_order(placed.order)

    async def attempt(self, request: Request) -> Response:
        """Tell a page that lost its answer which order its key made."""
        basket_id, attempt_key = self._basket_id(request), _read_uuid(request.path_params["attempt_key"])
        order = await self.shop.find_attempt(basket_id, attempt_key) if basket_id and attempt_key else None
        if order is None:
            raise CodebankError(Code.NOT_FOUND, "no order of this page")
        document = {"location": _address(order), "status": order.status, "tries": order.tries}
        return Json(document, headers={"cache-control": "no-store"})

    async def order(self, request: Request) -> Response:
        """Show an order of this browser's basket."""
        return await self._page(request, "order.html", await self._order_values(request) | {"is_part": False})

    async def order_status(self, request: Request) -> Response:
        """Give the part of the order's page that changes."""
        values = await self._order_values(request)
        html = self.pages.block(request, "order.html", "status", values | {"basket_count": 0, "is_part": True})
        return HTMLResponse(html, headers={"cache-control": "no-store"})

    async def _order_values(self, request: Request) -> dict[str, Any]:
        async with self.shop.pool.acquire() as connection:
            order = await store.find_order(connection, order_id=read_order_id(request))
        # Another browser's order is no order here.
        if order is None or order.basket_id is None or order.basket_id != self._basket_id(request):
            raise CodebankError(Code.NOT_FOUND, "no such order")
        limits = Limits(self.shop.cancel_after_seconds, tells_all=self.pages.site.demo)
        view = order_view(order, self.pages.site.statement_url, utc_now(), limits)
        return {"order": order, "view": view}

    async def _page(self, request: Request, template: str, values: dict[str, Any], *, status: int = 200) -> Response:
        basket = await self._read_basket(request)
        shared = {
            "basket": basket,
            "basket_count": basket.count if basket else 0,
            "basket_total": Money(basket.total_minor, CURRENCY) if basket else Money(0, CURRENCY),
            "price": lambda minor: Money(minor, CURRENCY),
        }
        return self.pages.render(request, template, shared | values, status=status)

    def _basket_id(self, request: Request) -> UUID | None:
        return _read_uuid(request.cookies.get(_COOKIE, ""))

    async def _read_basket(self, request: Request) -> goods.Basket | None:
        basket_id = self._basket_id(request)
        if basket_id is None:
            return None
        async with self.shop.pool.acquire() as connection:
            return await goods.read_basket(connection, basket_id)


def _to_order(order: Order) -> Response:
    return RedirectResponse(_address(order), status_code=303)


def _address(order: Order) -> str:
    return f"/orders/{order.order_id}"


def _shares(total_minor: int, count: int) -> tuple[Money, bool]:
    """Give the first parcela of a choice, and whether the others are a cent less."""
    shares = split(total_minor, count)
    return Money(shares[0], CURRENCY), shares[0] != shares[-1]


def _read_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
