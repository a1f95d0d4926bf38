"""Signing in: passwords by argon2, sessions kept on the server, guesses counted.

An unknown e-mail costs as much time as a wrong password and is answered the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import asyncpg
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from codebank.errors import Code, CodebankError
from codebank.runtime.watch.telemetry import Telemetry
from codebank.statement.store import people as store
from codebank.wire import utc_now

#: OWASP's second choice for argon2id: 19 MiB, two passes, one lane.
_TIME_COST: Final = 2
_MEMORY_KIB: Final = 19 * 1024
#: Hashes computed at once; more would starve the pages.
_AT_ONCE: Final = 2
WINDOW_SECONDS: Final = 15 * 60
#: An address may serve a whole house.
_ADDRESS_FACTOR: Final = 10
_PASSWORD_LENGTH_MAX: Final = 200


def password_hasher() -> PasswordHasher:
    """Give the hasher that every password goes through."""
    return PasswordHasher(time_cost=_TIME_COST, memory_cost=_MEMORY_KIB, parallelism=1)


@dataclass
class SignIn:
    """Lets cardholders in and out."""

    pool: asyncpg.Pool
    telemetry: Telemetry
    attempts_max: int
    session_hours: int
    _hasher: PasswordHasher = field(default_factory=password_hasher)
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    _nobodys_hash: str = ""

    @property
    def _lasting(self) -> timedelta:
        return timedelta(hours=self.session_hours)

    async def enter(self, email: str, password: str, address: str) -> str:
        """Give a session's token. Raises CodebankError where the two do not fit, or after too many tries."""
        outcome = "refused"
        try:
            token = await self._enter(email, password, address)
            outcome = "entered"
            return token
        except CodebankError as error:
            outcome = "too_many" if error.code is Code.TOO_MANY else "refused"
            raise
        finally:
            self.telemetry.counter("codebank_sign_ins_total", outcome).inc()

    async def _enter(self, email: str, password: str, address: str) -> str:
        email = email.strip().casefold()
        async with self.pool.acquire() as connection:
            await self._count(connection, f"address:{address}", self.attempts_max * _ADDRESS_FACTOR)
            await self._count(connection, f"email:{email[:320]}", self.attempts_max)
            cardholder = await store.find_cardholder(connection, email) if "\0" not in email else None
        if not await self._fits(cardholder.password_hash if cardholder else "", password) or cardholder is None:
            raise CodebankError(Code.UNAUTHENTICATED, "e-mail or password do not fit")
        token = secrets.token_urlsafe(32)
        async with self.pool.acquire() as connection, connection.transaction():
            await store.forget_attempts(connection, f"email:{email}")
            expires_at = utc_now() + self._lasting
            await store.add_session(connection, _hash(token), cardholder.cardholder_id, expires_at)
        return token

    async def _count(self, connection: asyncpg.pool.PoolConnectionProxy, who: str, attempts_max: int) -> None:
        now = utc_now()
        attempts, since = await store.count_attempt(connection, who.replace("\0", ""), now, WINDOW_SECONDS)
        if attempts > attempts_max:
            over = since + timedelta(seconds=WINDOW_SECONDS) - now
            raise CodebankError(Code.TOO_MANY, "too many tries to sign in", retry_after_seconds=max(1, over.seconds))

    async def _fits(self, password_hash: str, password: str) -> bool:
        async with self._places:
            return await asyncio.to_thread(self._verify, password_hash, password[:_PASSWORD_LENGTH_MAX])

    def _verify(self, password_hash: str, password: str) -> bool:
        if not self._nobodys_hash:
            self._nobodys_hash = self._hasher.hash(secrets.token_hex(16))
        try:
            return self._hasher.verify(password_hash or self._nobodys_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def who(self, token: str) -> store.Cardholder | None:
        """Tell whose session a token is."""
        if not token:
            return None
        now = utc_now()
        async with self.pool.acquire() as connection:
            return await store.find_session(connection, _hash(token), now, now + self._lasting)

    async def leave(self, token: str) -> None:
        """End a session."""
        async with self.pool.acquire() as connection:
            await store.end_session(connection, _hash(token))


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
