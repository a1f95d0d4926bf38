"""Bad input to every field: a clear error with the field's name, nothing stored, and never the bank's fault."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import grpc
import pytest

from codebank.money import AMOUNT_MINOR_MAX
from codebank.v1 import bank_pb2 as pb
from tests.bank import MERCHANT, OPERATOR, charge, issue, read_books, refusal, wrong_fields
from tests.conftest import BankServer

if TYPE_CHECKING:
    from codebank.v1.bank_pb2_grpc import BankAsyncStub

pytestmark = pytest.mark.anyio
INT32_MAX, INT64_MAX, INT64_MIN = 2**31 - 1, 2**63 - 1, -(2**63)
Change = Callable[[pb.AuthorizeRequest], Any]


def setting(path: str, value: object) -> Change:
    """Give a change that sets one field, named by its path."""

    def change(request: pb.AuthorizeRequest) -> None:
        *parents, name = path.split(".")
        target: Any = request
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, name, value)

    return change


TEXTS_TOO_LONG_OR_ODD = ["", "x" * 141, "a\0b", "a\nb", "\u200b\u202e", "x" * 100_000]
FIELDS: dict[str, list[object]] = {
    "card_data.number": [
        "", "4", "4" * 11, "4" * 20, "4" * 100_000, "4000 0010 0000 0018", "400000100000001x", "-400000100000001",
        "４０００００１００００００１８", "4000001000000018\0", "4000001000000018\n", "NaN", "4e15",
    ],
    "card_data.expiry_month": [0, -1, 13, 99, INT32_MAX, -(2**31)],
    "card_data.expiry_year": [0, 1, 26, 1999, 2100, -1, INT32_MAX],
    "card_data.cvv": ["", "0", "12", "12345", "12x", "1 2", "-12", "１２３", "²²²", "12\0", "x" * 100_000],
    "amount.amount_minor": [0, -1, AMOUNT_MINOR_MAX + 1, INT64_MAX, INT64_MIN, 2**32 * 100],
    "amount.currency": ["", "ZZZ", "brl", "BRLX", "R$", "B\0L", "B" * 100_000],
    "description": [*TEXTS_TOO_LONG_OR_ODD],
    "parcelas": [-1, 13, INT32_MAX, -(2**31)],
    "idempotency_key": ["", "x" * 65, "a\0b", "a\nb", "chave-é", "💳", "x" * 100_000],
}  # fmt: skip


def sending(channel: grpc.aio.Channel, method: str) -> Any:
    """Give a call that sends bytes as they are."""
    return channel.unary_unary(f"/codebank.v1.Bank/{method}", request_serializer=None, response_deserializer=None)


async def outcome(call: Awaitable[Any]) -> tuple[str, set[str], str]:
    """Give the status, the fields and the text with which a call was refused."""
    error = await refusal(call)
    return error.code().name, wrong_fields(error), str(error.details())


@pytest.mark.parametrize("field", sorted(FIELDS))
async def test_trap_b04_every_bad_value_of_a_charge_is_refused_by_the_fields_name(
    field: str, bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    before = await read_books(books)

    for value in FIELDS[field]:
        request = charge("k")
        setting(field, value)(request)
        status, fields, text = await outcome(bank.Authorize(request, metadata=MERCHANT))
        assert (status, fields) == ("INVALID_ARGUMENT", {field}), repr(value)[:60]
        assert field in text
        assert request.card_data.number not in text or not request.card_data.number

    assert await read_books(books) == before


def a_card() -> pb.IssueCardRequest:
    limit = pb.Money(amount_minor=10_000, currency="BRL")
    return pb.IssueCardRequest(new_account=pb.NewAccount(holder_name="x", limit=limit), idempotency_key="k")


@pytest.mark.parametrize(
    "text",
    ["\t", "a\tb", "a\u202eb", "a\u2066b\u2069", "\u2003\u00a0", "\u200d", "\u3164", " ", "x" * 140 + "\u00a0y"],
)
async def test_a_text_that_shows_nothing_or_turns_its_direction_is_refused(
    text: str, bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    before = await read_books(books)
    request, card = charge("k"), a_card()
    request.description = card.new_account.holder_name = text

    assert (await outcome(bank.Authorize(request, metadata=MERCHANT)))[:2] == ("INVALID_ARGUMENT", {"description"})
    named = await outcome(bank.IssueCard(card, metadata=OPERATOR))
    assert named[:2] == ("INVALID_ARGUMENT", {"new_account.holder_name"})
    assert await read_books(books) == before


async def test_spaces_of_a_text_fold_and_joiners_stay_and_a_repeat_of_the_same_text_is_the_same_request(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    request, card = charge("k"), a_card()
    request.description = "\u3000Cesta\u00a0 da  feira 👩\u200d🌾 "
    card.new_account.holder_name = "Zoë\u2003 da Silva\u00a0"

    first, again = [await bank.Authorize(request, metadata=MERCHANT) for _ in range(2)]
    issued, issued_again = [await bank.IssueCard(card, metadata=OPERATOR) for _ in range(2)]

    assert first.payment == again.payment
    assert (again.replayed, issued_again.card) == (True, issued.card)
    assert await books.fetchval("select description from payment") == "Cesta da feira 👩\u200d🌾"
    assert await books.fetchval("select count(*) from account where holder_name = 'Zoë da Silva'") == 1


async def test_every_wrong_field_is_named_at_once(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    before = await read_books(books)
    request = charge("k")
    for field, values in FIELDS.items():
        setting(field, values[0])(request)

    status, fields, _ = await outcome(bank.Authorize(request, metadata=MERCHANT))

    assert (status, fields) == ("INVALID_ARGUMENT", set(FIELDS))
    assert await read_books(books) == before


async def test_what_is_missing_is_named(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    before = await read_books(books)
    without_card, without_amount = charge("k"), charge("k")
    without_card.ClearField("card_data")
    without_amount.ClearField("amount")

    assert (await outcome(bank.Authorize(without_card, metadata=MERCHANT)))[:2] == ("INVALID_ARGUMENT", {"card"})
    assert (await outcome(bank.Authorize(without_amount, metadata=MERCHANT)))[:2] == ("INVALID_ARGUMENT", {"amount"})
    nothing = await outcome(bank.Authorize(pb.AuthorizeRequest(), metadata=MERCHANT))
    assert nothing[:2] == ("INVALID_ARGUMENT", {"card", "amount", "description", "idempotency_key"})
    assert await read_books(books) == before


@pytest.mark.parametrize("token", ["", "x" * 65, "tok\0", "tok\n"])
async def test_a_bad_token_is_refused_by_its_name(token: str, bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    before = await read_books(books)
    request = charge("k")
    request.card_token = token

    assert (await outcome(bank.Authorize(request, metadata=MERCHANT)))[:2] == ("INVALID_ARGUMENT", {"card_token"})
    assert await read_books(books) == before


async def test_bytes_that_are_no_message_or_no_utf8_name_their_field(
    bank_server: BankServer, books: asyncpg.Connection
) -> None:
    before = await read_books(books)
    marked = {
        "description": setting("description", "@@@@"),
        "idempotency_key": setting("idempotency_key", "@@@@"),
        "amount.currency": setting("amount.currency", "@@@@"),
        "card_data.number": setting("card_data.number", "@@@@"),
        "card_data.cvv": setting("card_data.cvv", "@@@@"),
    }
    async with grpc.aio.insecure_channel(bank_server.address) as channel:
        call = sending(channel, "Authorize")

        for field, change in marked.items():
            request = charge("k")
            change(request)
            data = request.SerializeToString().replace(b"@@@@", b"\xff\xfe\xff\xfe")
            assert (await outcome(call(data, metadata=MERCHANT)))[:2] == ("INVALID_ARGUMENT", {field})
        for method in ("Authorize", "Cancel", "GetPayment", "IssueCard", "GetCard", "BlockCard", "UnblockCard"):
            garbage = sending(channel, method)(b"\xff\xff\xff", metadata=OPERATOR)
            assert (await outcome(garbage))[:2] == ("INVALID_ARGUMENT", {"request"})

    assert await read_books(books) == before


async def test_ten_megabytes_are_refused_before_they_are_read(
    bank_server: BankServer, books: asyncpg.Connection
) -> None:
    before = await read_books(books)
    async with grpc.aio.insecure_channel(bank_server.address) as channel:
        big = charge("k")
        big.description = "x" * 10_000_000

        error = await refusal(sending(channel, "Authorize")(big.SerializeToString(), metadata=MERCHANT))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await read_books(books) == before


async def test_bad_input_to_the_calls_of_a_merchant_names_its_field(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    before = await read_books(books)
    bad_ids = ["", "1", "x" * 100_000, "00000000-0000-0000-0000-00000000000g", "a\0b", "NaN"]

    for key in FIELDS["idempotency_key"]:
        assert isinstance(key, str)
        for call in (
            bank.Cancel(pb.CancelRequest(idempotency_key=key), metadata=MERCHANT),
            bank.GetPayment(pb.GetPaymentRequest(idempotency_key=key), metadata=MERCHANT),
        ):
            assert (await outcome(call))[:2] == ("INVALID_ARGUMENT", {"idempotency_key"}), repr(key)[:60]
    for text in bad_ids:
        call_by_id = bank.GetPayment(pb.GetPaymentRequest(payment_id=text), metadata=MERCHANT)
        assert (await outcome(call_by_id))[:2] == ("INVALID_ARGUMENT", {"payment_id"})
    assert (await outcome(bank.GetPayment(pb.GetPaymentRequest(), metadata=MERCHANT)))[1] == {"which"}
    unknown = bank.GetPayment(pb.GetPaymentRequest(payment_id=str(UUID(int=5))), metadata=MERCHANT)
    assert (await outcome(unknown))[0] == "NOT_FOUND"

    assert await read_books(books) == before


async def test_bad_input_to_the_calls_of_the_operator_names_its_field(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    before = await read_books(books)
    cards = await books.fetchval("select count(*) from card")

    def request(name: str = "Ana", amount: int = 100, currency: str = "BRL", key: str = "k") -> pb.IssueCardRequest:
        limit = pb.Money(amount_minor=amount, currency=currency)
        return pb.IssueCardRequest(new_account=pb.NewAccount(holder_name=name, limit=limit), idempotency_key=key)

    table: list[tuple[pb.IssueCardRequest, str]] = [
        *((request(name=name), "new_account.holder_name") for name in ("", "x" * 81, "a\0b")),
        *((request(amount=n), "new_account.limit.amount_minor") for n in (0, -1, AMOUNT_MINOR_MAX + 1, INT64_MAX)),
        *((request(currency=c), "new_account.limit.currency") for c in ("", "ZZZ", "brl")),
        *((request(key=key), "idempotency_key") for key in ("", "x" * 65, "é", "a\0")),
        (pb.IssueCardRequest(idempotency_key="k"), "account"),
        (pb.IssueCardRequest(account_id="1", idempotency_key="k"), "account_id"),
    ]
    for bad, field in table:
        assert (await outcome(bank.IssueCard(bad, metadata=OPERATOR)))[:2] == ("INVALID_ARGUMENT", {field})
    for text in ("", "1", "a\0b"):
        for call in (
            bank.GetCard(pb.GetCardRequest(card_id=text), metadata=OPERATOR),
            bank.BlockCard(
                pb.BlockCardRequest(card_id=text, reason=pb.BlockCardRequest.REASON_LOST), metadata=OPERATOR
            ),
            bank.UnblockCard(pb.UnblockCardRequest(card_id=text), metadata=OPERATOR),
        ):
            assert (await outcome(call))[:2] == ("INVALID_ARGUMENT", {"card_id"})
    no_reason = bank.BlockCard(pb.BlockCardRequest(card_id=str(UUID(int=1))), metadata=OPERATOR)
    assert (await outcome(no_reason))[:2] == ("INVALID_ARGUMENT", {"reason"})

    assert await read_books(books) == before
    assert await books.fetchval("select count(*) from card") == cards


async def test_what_the_operator_asks_of_nobodys_card_or_account_is_not_found(bank: BankAsyncStub) -> None:
    nobody = str(UUID(int=5))

    for call in (
        bank.GetCard(pb.GetCardRequest(card_id=nobody), metadata=OPERATOR),
        bank.UnblockCard(pb.UnblockCardRequest(card_id=nobody), metadata=OPERATOR),
        bank.BlockCard(pb.BlockCardRequest(card_id=nobody, reason=pb.BlockCardRequest.REASON_LOST), metadata=OPERATOR),
        bank.IssueCard(pb.IssueCardRequest(account_id=nobody, idempotency_key="k"), metadata=OPERATOR),
    ):
        assert (await outcome(call))[0] == "NOT_FOUND"


async def test_trap_b05_wrong_data_of_a_card_is_declined_and_its_cvv_keeps_its_zero(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = None
    for number in range(100):
        issued = await issue(bank, 1_000, f"issue-{number}")
        if issued.cvv.startswith("0"):
            break
    assert issued is not None
    assert issued.cvv.startswith("0")
    right = pb.CardData(
        number=issued.number,
        expiry_month=issued.card.expiry_month,
        expiry_year=issued.card.expiry_year,
        cvv=issued.cvv,
    )

    async def answer(key: str, **changes: Any) -> int:
        request = charge(key)
        request.card_data.CopyFrom(right)
        request.card_data.MergeFrom(pb.CardData(**changes))
        return (await bank.Authorize(request, metadata=MERCHANT)).payment.decline_code

    assert await answer("a", cvv=f"{(int(issued.cvv) + 1) % 1000:03d}") == pb.DECLINE_CODE_WRONG_CVV
    assert await answer("b", cvv=issued.cvv + "0") == pb.DECLINE_CODE_WRONG_CVV
    assert await answer("c", expiry_year=2000) == pb.DECLINE_CODE_WRONG_EXPIRY
    assert await answer("d", expiry_month=issued.card.expiry_month % 12 + 1) == pb.DECLINE_CODE_WRONG_EXPIRY
    assert (await read_books(books)).used_minor == 0
    assert await answer("e") == pb.DECLINE_CODE_UNSPECIFIED
    short = charge("f")
    short.card_data.CopyFrom(right)
    short.card_data.cvv = issued.cvv[1:]
    assert (await outcome(bank.Authorize(short, metadata=MERCHANT)))[1] == {"card_data.cvv"}
    old = charge("g")
    old.card_data.expiry_month, old.card_data.expiry_year = 1, 1999
    assert (await outcome(bank.Authorize(old, metadata=MERCHANT)))[1] == {"card_data.expiry_year"}
