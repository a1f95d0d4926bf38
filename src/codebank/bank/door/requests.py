"""Reads what callers of the bank wrote: every field checked, every wrong one named. Stores nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from codebank.bank.account import Charge, Merchant
from codebank.bank.door.behaviour import Rehearsal
from codebank.bank.vault import Vault
from codebank.card import brand_of, is_number_shaped, mask, passes_luhn
from codebank.errors import CodebankError, Violation, invalid
from codebank.money import AMOUNT_MINOR_MAX, EXPONENTS, Money
from codebank.v1 import bank_pb2 as pb
from codebank.wire import new_id

KEY_LENGTH_MAX: Final = 64
DESCRIPTION_LENGTH_MAX: Final = 140
HOLDER_NAME_LENGTH_MAX: Final = 80
PARCELAS_MAX: Final = 12


@dataclass(frozen=True, slots=True)
class ChargeReader:
    """Reads requests to charge a card; the number and the CVV go no further than here."""

    vault: Vault
    rehearsal: Rehearsal

    def read(self, request: pb.AuthorizeRequest, merchant: Merchant) -> Charge:
        """Check a request and make it a charge. Raises CodebankError naming every wrong field."""
        violations = _check_card(request)
        violations += _check_money("amount", request.HasField("amount"), request.amount)
        violations += _check_text("description", request.description, DESCRIPTION_LENGTH_MAX)
        violations += _check_key(request.idempotency_key)
        if not 0 <= request.parcelas <= PARCELAS_MAX:
            violations.append(Violation("parcelas", f"must be 1 to {PARCELAS_MAX}"))
        if violations:
            raise invalid(*violations)
        if request.WhichOneof("card") == "card_token":
            return self._of_token(request, merchant)
        return self._of_number(request, merchant)

    def _of_token(self, request: pb.AuthorizeRequest, merchant: Merchant) -> Charge:
        return Charge(
            payment_id=new_id(),
            merchant=merchant,
            idempotency_key=request.idempotency_key,
            # Quoted, so that no token reads like a number, or like a token and an amount.
            request_hash=self._hash(request, f"token {request.card_token!r}"),
            amount_minor=request.amount.amount_minor,
            currency=request.amount.currency,
            description=request.description,
            parcelas=request.parcelas or 1,
            card_masked="••••",
            card_brand="card",
            fingerprint=None,
            token=request.card_token,
            expiry=None,
            cvv_fits=None,
        )

    def _of_number(self, request: pb.AuthorizeRequest, merchant: Merchant) -> Charge:
        card = request.card_data
        number, year, month = card.number, card.expiry_year, card.expiry_month
        # A number whose check digit is wrong can belong to no card: its fingerprint finds none.
        test_card = self.rehearsal.card(number)
        if test_card is not None:
            cvv_fits = card.cvv == test_card.cvv
        else:
            cvv_fits = passes_luhn(number) and self.vault.cvv_fits(card.cvv, number, year, month)
        return Charge(
            payment_id=new_id(),
            merchant=merchant,
            idempotency_key=request.idempotency_key,
            request_hash=self._hash(request, f"{number}|{year}-{month}"),
            amount_minor=request.amount.amount_minor,
            currency=request.amount.currency,
            description=request.description,
            parcelas=request.parcelas or 1,
            card_masked=mask(number),
            card_brand=brand_of(number),
            fingerprint=self.vault.fingerprint(number),
            token=None,
            expiry=(year, month),
            cvv_fits=cvv_fits,
            forced=test_card.forced if test_card else None,
        )

    def _hash(self, request: pb.AuthorizeRequest, card: str) -> bytes:
        """Hash what makes a request this request. The CVV is left out: nothing of it may be kept, not even hashed."""
        amount = request.amount
        text = f"{card}|{amount.amount_minor}|{amount.currency}|{request.parcelas or 1}|{request.description}"
        return self.vault.request_mac(text)


def _check_card(request: pb.AuthorizeRequest) -> list[Violation]:
    which = request.WhichOneof("card")
    if which is None:
        return [Violation("card", "must be card_data or a card_token")]
    if which == "card_token":
        return _check_text("card_token", request.card_token, 64)
    card, violations = request.card_data, []
    if not is_number_shaped(card.number):
        violations.append(Violation("card_data.number", "must be 12 to 19 digits"))
    if not 1 <= card.expiry_month <= 12:
        violations.append(Violation("card_data.expiry_month", "must be 1 to 12"))
    if not 2000 <= card.expiry_year <= 2099:
        violations.append(Violation("card_data.expiry_year", "must have four digits, 2000 to 2099"))
    if not (card.cvv.isascii() and card.cvv.isdigit() and len(card.cvv) in (3, 4)):
        violations.append(Violation("card_data.cvv", "must be three or four digits"))
    return violations


def _check_money(name: str, is_there: bool, money: pb.Money) -> list[Violation]:
    if not is_there:
        return [Violation(name, "is missing")]
    violations = []
    if not 1 <= money.amount_minor <= AMOUNT_MINOR_MAX:
        violations.append(Violation(f"{name}.amount_minor", f"must be 1 to {AMOUNT_MINOR_MAX}"))
    if money.currency not in EXPONENTS:
        violations.append(Violation(f"{name}.currency", "must be an ISO 4217 code that the bank knows, such as BRL"))
    return violations


def _check_text(name: str, text: str, length_max: int) -> list[Violation]:
    if not 1 <= len(text) <= length_max:
        return [Violation(name, f"must have 1 to {length_max} characters")]
    if not text.isprintable():
        return [Violation(name, "must not have control characters")]
    return []


def _check_key(key: str) -> list[Violation]:
    if not 1 <= len(key) <= KEY_LENGTH_MAX or not key.isascii() or not key.isprintable():
        return [Violation("idempotency_key", f"must be 1 to {KEY_LENGTH_MAX} printable ASCII characters")]
    return []


def read_key(key: str) -> str:
    """Check an idempotency key."""
    if violations := _check_key(key):
        raise invalid(*violations)
    return key


def read_payment_id(text: str) -> UUID:
    """Read a payment's id."""
    return _read_id("payment_id", text)


def read_card_id(text: str) -> UUID:
    """Read a card's id."""
    return _read_id("card_id", text)


def _read_id(name: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _not_an_id(name) from None


def _not_an_id(name: str) -> CodebankError:
    return invalid(Violation(name, "must be a UUID"))


@dataclass(frozen=True, slots=True)
class Issue:
    """A request to issue a card."""

    key: str
    account_id: UUID | None
    holder_name: str
    limit: Money | None


def read_issue(request: pb.IssueCardRequest) -> Issue:
    """Check a request to issue a card. Raises CodebankError naming every wrong field."""
    violations = _check_key(request.idempotency_key)
    which = request.WhichOneof("account")
    if which == "new_account":
        new = request.new_account
        violations += _check_text("new_account.holder_name", new.holder_name, HOLDER_NAME_LENGTH_MAX)
        violations += _check_money("new_account.limit", new.HasField("limit"), new.limit)
    elif which is None:
        violations.append(Violation("account", "must be a new_account or an account_id"))
    if violations:
        raise invalid(*violations)
    if which == "new_account":
        limit = Money(request.new_account.limit.amount_minor, request.new_account.limit.currency)
        return Issue(request.idempotency_key, None, request.new_account.holder_name, limit)
    return Issue(request.idempotency_key, _read_id("account_id", request.account_id), "", None)
