"""Errors: a code, a sentence, and one table each to the gRPC status and the HTTP status.

What has no code is `internal` outside and a stack trace inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """Why something was not done."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    KEY_REUSED = "key_reused"
    FAILED_PRECONDITION = "failed_precondition"
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"
    DEADLINE = "deadline"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


GRPC_STATUS: dict[Code, str] = {
    Code.INVALID: "INVALID_ARGUMENT",
    Code.UNAUTHENTICATED: "UNAUTHENTICATED",
    Code.FORBIDDEN: "PERMISSION_DENIED",
    Code.NOT_FOUND: "NOT_FOUND",
    Code.CONFLICT: "ABORTED",
    Code.KEY_REUSED: "ALREADY_EXISTS",
    Code.FAILED_PRECONDITION: "FAILED_PRECONDITION",
    Code.TOO_LARGE: "INVALID_ARGUMENT",
    Code.TOO_MANY: "RESOURCE_EXHAUSTED",
    Code.DEADLINE: "DEADLINE_EXCEEDED",
    Code.UNAVAILABLE: "UNAVAILABLE",
    Code.INTERNAL: "INTERNAL",
}

HTTP_STATUS: dict[Code, int] = {
    Code.INVALID: 422,
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.CONFLICT: 409,
    Code.KEY_REUSED: 409,
    Code.FAILED_PRECONDITION: 409,
    Code.TOO_LARGE: 413,
    Code.TOO_MANY: 429,
    Code.DEADLINE: 504,
    Code.UNAVAILABLE: 503,
    Code.INTERNAL: 500,
}


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field."""

    #: The field's path as the caller wrote it, such as `amount.currency`.
    field: str
    #: A sentence: lower-case start, no full stop.
    reason: str


class CodebankError(Exception):
    """Something was not done, for a reason that the caller may know."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        hint: str = "",
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.violations = tuple(violations)
        self.hint = hint
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


def invalid(*violations: Violation) -> CodebankError:
    """Make the error that names every wrong field."""
    names = ", ".join(violation.field for violation in violations)
    return CodebankError(Code.INVALID, f"invalid value in {names}", violations=violations)
