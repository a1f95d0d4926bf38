"""What is forgotten when something is added to the bank: each test names the file that still does not know it.

An operation, a reason to decline, a payment's status and an event's type each stand in several files, because several
readers must know them. Whoever adds one runs these tests and is told what is missing.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from codebank.bank.door.api import Bank
from codebank.bank.door.decline import _DECLINES
from codebank.bank.metrics import METRICS
from codebank.bank.operation import OpenAccount, Operation
from codebank.bank.rules import RULES
from codebank.bank.test_cards import TEST_CARDS
from codebank.events import EVENT_TYPES, PAYMENT_EVENT_TYPES, CardStatus, DeclineCode, PaymentState, PaymentStatus
from codebank.v1 import bank_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "codebank"
SERVICE = pb.DESCRIPTOR.services_by_name["Bank"]
#: Calls that read, or that carry an operation under another name.
READING = {"GetPayment", "GetCard"}
CARRYING = {"AuthorizeStream": "Authorize"}
#: Operations that no caller may ask for.
INNER = {OpenAccount}


def words(room: str, language: str) -> dict[str, str]:
    """Read a room's sentences by their dotted keys."""

    def flat(table: dict, prefix: str = "") -> dict[str, str]:
        found: dict[str, str] = {}
        for key, value in table.items():
            found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        return found

    return flat(tomllib.loads((SOURCE / room / "words" / f"{language}.toml").read_text(encoding="utf-8")))


def subclasses(shape: type[Operation]) -> set[type[Operation]]:
    return set(shape.__subclasses__()) | {found for one in shape.__subclasses__() for found in subclasses(one)}


def checked_values(table: str, column: str) -> set[str]:
    """Read the values that the database takes for a column, from the last migration that says so."""
    found: set[str] = set()
    for path in sorted((SOURCE / "bank" / "migrations").glob("*.sql")):
        text = re.sub(r"--.*", "", path.read_text())
        of_table = re.findall(rf"(?:create|alter) table {table} .*?;", text, re.DOTALL)
        for values in re.findall(rf"check \({column} in \(([^)]*)\)\)", "".join(of_table)):
            found = set(re.findall(r"'(\w+)'", values))
    return found


# Operations


def test_every_operation_has_its_rule() -> None:
    assert subclasses(Operation) == set(RULES), "bank/rules.py"


def test_kinds_are_told_apart_for_ever() -> None:
    kinds = [operation.kind for operation in RULES]

    assert len(set(kinds)) == len(kinds), "bank/operation.py: two operations have one kind"


def test_every_operation_can_be_asked_for() -> None:
    asked = {CARRYING.get(method.name, method.name) for method in SERVICE.methods} - READING

    assert asked == {operation.__name__ for operation in set(RULES) - INNER}, "proto/codebank/v1/bank.proto"


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
def test_every_call_is_answered_and_the_mesh_lets_somebody_make_it(method: str) -> None:
    assert callable(getattr(Bank, method, None)), "bank/door/api.py"
    callers = (ROOT / "deploy" / "istio" / "callers.yaml").read_text()
    assert f"/codebank.v1.Bank/{method}" in callers, "deploy/istio/callers.yaml"
    assert all(yaml.safe_load_all(callers))


# Reasons to decline


@pytest.mark.parametrize("code", DeclineCode)
def test_every_reason_to_decline_is_known_wherever_it_is_told(code: DeclineCode) -> None:
    assert f"DECLINE_CODE_{code.name}" in pb.DeclineCode.DESCRIPTOR.values_by_name, "proto/codebank/v1/bank.proto"
    assert code in _DECLINES, "bank/door/decline.py: advice and response code"
    (counted,) = [metric for metric in METRICS if metric.name == "codebank_payments_total"]
    assert ("declined", code) in counted.starts, "bank/metrics.py"
    for language in ("pt", "en"):
        assert f"decline.{code}" in words("runtime/web", language), f"runtime/web/words/{language}.toml"
        assert f"outcome.{code}" in words("checkout", language), f"checkout/words/{language}.toml"
    assert code in {card.outcome for card in TEST_CARDS}, "bank/test_cards.py: a card that brings it about"
    assert f"| `{code}` |" in (ROOT / "docs" / "reference.md").read_text(), "make reference"


def test_what_is_told_of_a_reason_goes_with_it() -> None:
    told_by_proto = {name.removeprefix("DECLINE_CODE_").lower() for name in pb.DeclineCode.DESCRIPTOR.values_by_name}

    assert told_by_proto - {"unspecified"} == set(DeclineCode), "proto/codebank/v1/bank.proto"
    assert set(_DECLINES) == set(DeclineCode), "bank/door/decline.py"
    for language in ("pt", "en"):
        spoken = {key.removeprefix("decline.") for key in words("runtime/web", language) if key.startswith("decline.")}
        assert spoken == set(DeclineCode), f"runtime/web/words/{language}.toml"
        shown = {key.removeprefix("outcome.") for key in words("checkout", language) if key.startswith("outcome.")}
        assert shown == {card.outcome for card in TEST_CARDS}, f"checkout/words/{language}.toml"


# Payments and cards


def test_what_is_told_of_a_status_goes_with_it() -> None:
    for shape, message, prefix in (
        (PaymentStatus, pb.PaymentStatus, "PAYMENT_STATUS_"),
        (CardStatus, pb.CardStatus, "CARD_STATUS_"),
    ):
        told_by_proto = {name.removeprefix(prefix).lower() for name in message.DESCRIPTOR.values_by_name}
        assert told_by_proto - {"unspecified"} == set(shape), "proto/codebank/v1/bank.proto"
    assert set(PAYMENT_EVENT_TYPES) == set(PaymentStatus), "events.py"
    assert set(PAYMENT_EVENT_TYPES.values()) <= set(EVENT_TYPES), "events.py"


@pytest.mark.parametrize("status", PaymentStatus)
def test_every_status_of_a_payment_is_known_wherever_it_is_told(status: PaymentStatus) -> None:
    assert f"PAYMENT_STATUS_{status.name}" in pb.PaymentStatus.DESCRIPTOR.values_by_name, "proto/codebank/v1/bank.proto"
    assert status in PAYMENT_EVENT_TYPES, "events.py: the type of its event"
    assert status in checked_values("payment", "status"), "bank/migrations: the check of payment.status"
    for language in ("pt", "en"):
        assert f"spoken.{status}" in words("audit/control", language), f"audit/control/words/{language}.toml"
    kibana = (ROOT / "deploy" / "observability" / "kibana" / "make.py").read_text()
    assert f'"{status}"' in kibana, "deploy/observability/kibana/make.py"


@pytest.mark.parametrize("status", CardStatus)
def test_every_status_of_a_card_is_known_wherever_it_is_told(status: CardStatus) -> None:
    assert f"CARD_STATUS_{status.name}" in pb.CardStatus.DESCRIPTOR.values_by_name, "proto/codebank/v1/bank.proto"
    assert status in checked_values("card", "status"), "bank/migrations: the check of card.status"


def test_the_index_has_a_field_for_everything_that_is_told_of_a_payment() -> None:
    template = json.loads((ROOT / "deploy" / "search" / "payments.json").read_text())

    mapped = set(template["template"]["mappings"]["properties"])
    assert set(PaymentState.__struct_fields__) - mapped == set(), "deploy/search/payments.json"


# Events


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_every_type_of_event_is_described(event_type: str) -> None:
    described = json.loads((ROOT / "docs" / "asyncapi.json").read_text())

    assert event_type in {message["name"] for message in described["components"]["messages"].values()}, "make reference"
