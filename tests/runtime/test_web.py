"""What every site's door understands of a request's headers: origin, language, types, keys."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from codebank.errors import CodebankError
from codebank.runtime.web.app import is_same_origin
from codebank.runtime.web.http import media_type, one_header
from codebank.runtime.web.language import choose_language


def request_with(*headers: tuple[str, str]) -> Request:
    return Request({"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers]})


@pytest.mark.parametrize(("origin", "host"), [
    ("http://shop", "shop"), ("http://shop", "shop:80"), ("http://shop:80", "shop"), ("https://shop", "shop:443"),
    # TLS may end in front of us.
    ("https://shop", "shop"), ("https://shop:8443", "shop:8443"),
    ("http://shop", "SHOP"), ("http://Shop:80", "sHOP"), ("HTTP://shop", "shop"),
    ("http://[::1]:8000", "[::1]:8000"), ("http://[::1]:8000", "[0:0:0:0:0:0:0:1]:8000"), ("http://[::1]", "[::1]:80"),
    ("http://[fe80::A]:80", "[FE80::a]"), ("http://127.0.0.1:8000", "127.0.0.1:8000"),
])  # fmt: skip
def test_one_place_is_the_same_origin_however_it_is_written(origin: str, host: str) -> None:
    assert is_same_origin(origin, host)


@pytest.mark.parametrize(("origin", "host"), [
    ("http://evil", "shop"), ("http://shop:8001", "shop:8000"), ("http://shop", "shop:443"),
    ("https://shop", "shop:80"),
    ("http://shop.", "shop"), ("null", "shop"), ("", "shop"), ("", ""), ("http://shop", ""), ("http://", ""),
    ("http://shop:x", "shop:x"), ("http://shop@evil", "evil"), ("http://evil", "shop@evil"), ("http://shop/", "shop"),
    ("http://evil", "shop/evil"), ("http://[zz]", "[zz]"), ("file://shop", "shop"), ("http://shop:99999", "shop:99999"),
    ("http://[::1]", "[::2]"),
])  # fmt: skip
def test_another_place_is_not(origin: str, host: str) -> None:
    assert not is_same_origin(origin, host)


@pytest.mark.parametrize(("asked", "expected"), [
    ("", "pt"), ("en", "en"), ("EN-gb", "en"), ("pt-PT", "pt"), ("en-US,en;q=0.9", "en"), ("fr", "pt"),
    ("en;q=0.5, pt;q=0.9", "pt"), ("pt;q=0.5, en;q=0.9", "en"), ("pt;q=0.1,en;q=0.2,de", "en"),
    ("fr, en;q=0.8", "en"), ("fr, pt-BR;q=0.3, en;q=0.2", "pt"), ("en;q=1.000, pt;q=1", "en"),
    ("en;q=0", "pt"), ("pt;q=0", "en"), ("en;q=0, *", "pt"), ("pt;q=0, *;q=0.1", "en"), ("*", "pt"),
    ("*;q=0.5, en", "en"), ("*;q=0.9, en;q=0.5", "pt"), ("*;q=0", "pt"), ("en ; Q=0.3", "en"),
    ("enx", "pt"), ("ptx, en;q=0.1", "en"), ("en;q=abc", "pt"), ("en;q=0.9999", "pt"), (";;,,q=1", "pt"),
    ("en;q=0.1, en-GB;q=0.9, pt;q=0.5", "en"),
])  # fmt: skip
def test_a_language_is_chosen_by_how_much_it_is_wanted(asked: str, expected: str) -> None:
    assert choose_language(None, asked) == expected


def test_what_the_reader_set_comes_before_what_the_browser_asks_for() -> None:
    assert choose_language("pt", "en") == "pt"
    assert choose_language("xx", "en") == "en"


@pytest.mark.parametrize("written", ["application/json", "Application/JSON; charset=utf-8", " APPLICATION/json ;x=y"])
def test_a_media_type_knows_no_case(written: str) -> None:
    assert media_type(request_with(("content-type", written))) == "application/json"


def test_a_header_that_stands_for_one_thing_is_refused_where_it_says_two() -> None:
    assert one_header(request_with(), "idempotency-key") == ""
    assert one_header(request_with(("idempotency-key", "a"), ("idempotency-key", "a")), "idempotency-key") == "a"
    with pytest.raises(CodebankError, match="idempotency-key"):
        one_header(request_with(("idempotency-key", "a"), ("idempotency-key", "b")), "idempotency-key")
