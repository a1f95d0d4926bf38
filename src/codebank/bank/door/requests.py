"""Reads what callers of the bank wrote: every field checked, every wrong one named. Stores nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from codebank.bank.door.behaviour import ForcedBehaviour
from codebank.bank.operation import OPERATOR_ID, Authorize, BlockCard, Cancel, Key, OpenAccount, UnblockCard
from codebank.bank.vault import Vault
from codebank.card import brand_of, is_number_shaped, mask
from codebank.errors import CodebankError, Violation, invalid
from codebank.events import CardStatus
from codebank.money import AMOUNT_MINOR_MAX, EXPONENTS
from codebank.text import fold_spaces, is_blank, is_readable
from codebank.v1 import bank_pb2 as pb
from codebank.wire import new_id

KEY_LENGTH_MAX: Final = 64
DESCRIPTION_LENGTH_MAX: Final = 140
HOLDER_NAME_LENGTH_MAX: Final = 80
PARCELAS_MAX: Final = 12
_BLOCK_REASONS: Final = {
    pb.BlockCardRequest.REASON_BLOCKED: CardStatus.BLOCKED,
    pb.BlockCardRequest.REASON_LOST: CardStatus.LOST,
    pb.BlockCardRequest.REASON_STOLEN: CardStatus.STOLEN,
}


@dataclass(frozen=True, slots=True)
class RequestReader:
    """Reads what changes the bank; the number and the CVV go no further than here."""

    vault: Vault
    forced: ForcedBehaviour

    def authorize(self, request: pb.AuthorizeRequest, merchant_id: UUID) -> Authorize:
        """Check a request to charge a card. Raises CodebankError naming every wrong field."""
        violations = _check_card(request)
        violations += _check_money("amount", request.HasField("amount"), request.amount)
        violations += _check_text("description", request.description, DESCRIPTION_LENGTH_MAX)
        violations += _check_key(request.idempotency_key)
        if not 0 <= request.parcelas <= PARCELAS_MAX:
            violations.append(Violation("parcelas", f"must be 1 to {PARCELAS_MAX}"))
        if violations:
            raise invalid(*violations)
        if request.WhichOneof("card") == "card_token":
            return self._of_token(request, merchant_id)
        return self._of_number(request, merchant_id)

    def _of_token(self, request: pb.AuthorizeRequest, merchant_id: UUID) -> Authorize:
        return Authorize(
            # Quoted, so that no token reads like a number, or like a token and an amount.
            key=self._key_of_charge(request, merchant_id, f"token {request.card_token!r}"),
            payment_id=new_id(),
            merchant_id=merchant_id,
            amount_minor=request.amount.amount_minor,
            currency=request.amount.currency,
            description=fold_spaces(request.description),
            parcelas=request.parcelas or 1,
            card_masked="••••",
            card_brand="card",
            handle=request.card_token,
            expiry=None,
            cvv_fits=None,
        )

    def _of_number(self, request: pb.AuthorizeRequest, merchant_id: UUID) -> Authorize:
        card = request.card_data
        number, year, month = card.number, card.expiry_year, card.expiry_month
        # A number whose check digit is wrong can belong to no card: its fingerprint finds none.
        test_card = self.forced.card(number)
        if test_card is not None:
            cvv_fits = card.cvv == test_card.cvv
        else:
            cvv_fits = self.vault.cvv_fits(card.cvv, number, year, month)
        return Authorize(
            key=self._key_of_charge(request, merchant_id, f"{number}|{year}-{month}"),
            payment_id=new_id(),
            merchant_id=merchant_id,
            amount_minor=request.amount.amount_minor,
            currency=request.amount.currency,
            description=fold_spaces(request.description),
            parcelas=request.parcelas or 1,
            card_masked=mask(number),
            card_brand=brand_of(number),
            handle=self.vault.fingerprint(number),
            expiry=(year, month),
            cvv_fits=cvv_fits,
            forced=test_card.forced if test_card else None,
        )

    def _key_of_charge(self, request: pb.AuthorizeRequest, merchant_id: UUID, card: str) -> Key:
        """Hash what makes a request this request: its texts as they were written, as a release before us did.

        The CVV is left out: nothing of it may be kept, not even hashed.
        """
        amount = request.amount
        text = f"{card}|{amount.amount_minor}|{amount.currency}|{request.parcelas or 1}|{request.description}"
        return Key(merchant_id, request.idempotency_key, self.vault.request_mac(text))

    def issue(self, request: pb.IssueCardRequest) -> CardOrder:
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
            new = request.new_account
            opens = OpenAccount(
                account_id=new_id(),
                holder_name=fold_spaces(new.holder_name),
                currency=new.limit.currency,
                limit_minor=new.limit.amount_minor,
            )
            text = f"issue|{new.limit.amount_minor}|{new.limit.currency}|{new.holder_name}"
            return CardOrder(self._operators_key(request.idempotency_key, text), opens.account_id, opens)
        account_id = _read_id("account_id", request.account_id)
        return CardOrder(self._operators_key(request.idempotency_key, f"issue|{account_id}"), account_id, None)

    def block(self, request: pb.BlockCardRequest) -> BlockCard:
        """Check a request to block a card. Raises CodebankError naming the wrong field."""
        status = _BLOCK_REASONS.get(request.reason)
        if status is None:
            raise invalid(Violation("reason", "must be blocked, lost or stolen"))
        card_id = read_card_id(request.card_id)
        key = self._optional_key(request.idempotency_key, f"block|{card_id}|{status}")
        return BlockCard(key=key, card_id=card_id, status=status)

    def unblock(self, request: pb.UnblockCardRequest) -> UnblockCard:
        """Check a request to unblock a card. Raises CodebankError naming the wrong field."""
        card_id = read_card_id(request.card_id)
        return UnblockCard(key=self._optional_key(request.idempotency_key, f"unblock|{card_id}"), card_id=card_id)

    def cancel(self, request: pb.CancelRequest, merchant_id: UUID) -> Cancel:
        """Check a request to cancel a key."""
        return Cancel(merchant_id=merchant_id, target=read_key(request.idempotency_key))

    def _operators_key(self, name: str, text: str) -> Key:
        return Key(OPERATOR_ID, name, self.vault.request_mac(text))

    def _optional_key(self, name: str, text: str) -> Key | None:
        return self._operators_key(read_key(name), text) if name else None


@dataclass(frozen=True, slots=True)
class CardOrder:
    """A request to issue a card, before its number is drawn."""

    key: Key
    account_id: UUID
    opens: OpenAccount | None


def _check_card(request: pb.AuthorizeRequest) -> list[Violation]:
    which = request.WhichOneof("card")
    if which is None:
        return [Violation("card", "must be card_data or a card_token")]
    if which == "card_token":
        token = request.card_token
        fits = 1 <= len(token) <= 64 and token.isprintable()
        return [] if fits else [Violation("card_token", "must be 1 to 64 printable characters")]
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
    text = fold_spaces(text)
    if not 1 <= len(text) <= length_max:
        return [Violation(name, f"must have 1 to {length_max} characters")]
    if not is_readable(text):
        return [Violation(name, "must not have control characters, nor any that turn its direction")]
    if is_blank(text):
        return [Violation(name, "must not be blank")]
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
