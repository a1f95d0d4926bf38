"""A message that cannot be read: its sender is told which field broke it."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codebank.runtime.grpc.protobuf import broken_field
from codebank.v1 import bank_pb2 as pb

AUTHORIZE = pb.AuthorizeRequest.DESCRIPTOR
STREAM = pb.AuthorizeStreamRequest.DESCRIPTOR
#: Bytes that are no UTF-8, of the same length as the marked text.
MARK, BROKEN = b"@@@@", b"\xff\xfe\xff\xfe"


def request(**texts: str) -> pb.AuthorizeRequest:
    """Make a request whose marked field can be broken in its bytes."""
    card = pb.CardData(number=texts.get("number", "4"), cvv=texts.get("cvv", "1"), expiry_month=12)
    return pb.AuthorizeRequest(
        card_data=card,
        amount=pb.Money(amount_minor=2**40, currency=texts.get("currency", "BRL")),
        description=texts.get("description", "x"),
        idempotency_key=texts.get("idempotency_key", "k"),
    )


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ("number", "card_data.number"),
        ("cvv", "card_data.cvv"),
        ("currency", "amount.currency"),
        ("description", "description"),
        ("idempotency_key", "idempotency_key"),
    ],
)
def test_a_text_that_is_no_utf8_is_named_by_its_path(field: str, path: str) -> None:
    message = request(**{field: MARK.decode()})
    data = message.SerializeToString().replace(MARK, BROKEN)

    assert broken_field(AUTHORIZE, data) == path


def test_a_text_inside_a_list_is_named_by_its_path() -> None:
    good, bad = request(), request(description=MARK.decode())
    data = pb.AuthorizeStreamRequest(requests=[good, bad]).SerializeToString().replace(MARK, BROKEN)

    assert broken_field(STREAM, data) == "requests.description"


def test_a_field_that_is_cut_short_is_named() -> None:
    data = pb.AuthorizeRequest(idempotency_key="a-long-key").SerializeToString()[:-3]

    assert broken_field(AUTHORIZE, data) == "idempotency_key"


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 11, b"\x0b", b"\x07\x00"])
def test_what_is_no_message_at_all_is_the_request(data: bytes) -> None:
    assert broken_field(AUTHORIZE, data) == "request"


def test_a_message_that_can_be_read_breaks_nowhere() -> None:
    assert broken_field(AUTHORIZE, request().SerializeToString()) == "request"


@given(st.binary(max_size=200))
@example(request().SerializeToString() + b"\xfa")
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_name_and_never_an_error(data: bytes) -> None:
    assert broken_field(AUTHORIZE, data)
