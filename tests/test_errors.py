"""Errors: every code has a status for both doors, and says what is wrong and what to do."""

from __future__ import annotations

import grpc
import pytest

from codebank.errors import GRPC_STATUS, HTTP_STATUS, Code, CodebankError, Violation, invalid


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_a_grpc_status_and_an_http_status(code: Code) -> None:
    assert GRPC_STATUS[code] in grpc.StatusCode.__members__
    assert 400 <= HTTP_STATUS[code] <= 599


def test_trap_b19_what_is_the_servers_fault_is_not_called_the_callers() -> None:
    servers = {Code.UNAVAILABLE, Code.DEADLINE, Code.INTERNAL}

    assert {code for code, status in HTTP_STATUS.items() if status >= 500} == servers


def test_an_invalid_value_names_every_field() -> None:
    error = invalid(Violation("amount.currency", "is missing"), Violation("parcelas", "must be 1 to 12"))

    assert error.code is Code.INVALID
    assert str(error) == "invalid value in amount.currency, parcelas"
    assert [violation.field for violation in error.violations] == ["amount.currency", "parcelas"]


def test_a_hint_stands_on_a_line_of_its_own() -> None:
    assert str(CodebankError(Code.CONFLICT, "it is taken", hint="take another")) == "it is taken\nhint: take another"
    assert str(CodebankError(Code.CONFLICT, "it is taken")) == "it is taken"
