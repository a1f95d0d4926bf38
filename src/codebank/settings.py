"""Settings: the environment, read once, as one frozen value. The defaults need no server.

Every field is one variable: `CODEBANK_` and the field's name in capitals. `docs/reference.md` lists them all.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from codebank.errors import Code, CodebankError

PREFIX: Final = "CODEBANK_"
#: Every database; the owner role of each has the same name.
DATABASES: Final = ("bank", "checkout", "statement", "log")
#: The role that may read every database and write none.
READER_ROLE: Final = "audit"


def default_state_folder() -> Path:
    """Say where a machine's state lies: root's in /var/lib, anybody else's in their own state folder."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/codebank")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "codebank"


def _setting(help_text: str, default: Any = None, *, secret: bool = False, factory: Any = None) -> Any:
    metadata = {"help": help_text, "secret": secret}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that may differ between two machines."""

    state: Path = _setting("folder of all that this machine keeps", factory=default_state_folder)
    postgres: str = _setting(
        "libpq address of a PostgreSQL server without user and database, such as `postgresql://db:5432`; "
        "empty means the embedded one",
        "",
    )
    postgres_passwords: str = _setting(
        "passwords of the database roles, as `bank=…,checkout=…,statement=…,log=…,audit=…`", "", secret=True
    )
    pool_size_max: int = _setting("connections that one role holds to one database at most", 8)

    bank_port: int = _setting("gRPC port of the bank", 50051)
    checkout_port: int = _setting("port of the shop's pages and REST", 8000)
    statement_port: int = _setting("port of the statement's pages and REST", 8010)
    audit_port: int = _setting("port of the control room", 8020)
    bank_health_port: int = _setting("health and metrics of the bank", 9101)
    relay_health_port: int = _setting("health and metrics of the relay", 9102)
    checkout_health_port: int = _setting("health and metrics of the checkout", 9103)
    statement_health_port: int = _setting("health and metrics of the statement", 9104)
    projector_health_port: int = _setting("health and metrics of the projector", 9105)
    audit_health_port: int = _setting("health and metrics of the audit", 9106)
    host: str = _setting("address that every port is opened on", "127.0.0.1")

    bank_address: str = _setting("where the checkout finds the bank, as `host:port`; empty means this machine", "")
    checkout_url: str = _setting("public address of the shop; empty means this machine", "")
    statement_url: str = _setting("public address of the statement; empty means this machine", "")
    audit_url: str = _setting("public address of the control room; empty means this machine", "")

    vault_key: str = _setting("64 hexadecimal digits: the key of the card vault; `up` makes one", "", secret=True)
    operator_key: str = _setting("key of the operator's calls; `up` makes one", "", secret=True)
    merchant_key: str = _setting("API key with which the checkout calls the bank; `up` makes one", "", secret=True)
    web_secret: str = _setting("secret with which pages and keys are signed; `up` makes one", "", secret=True)

    test_cards: bool = _setting("whether the published test cards force their outcomes", False)
    demo: bool = _setting("whether pages show the demo's hints: test cards, the demo cardholder", False)
    batch_size_max: int = _setting("authorisations in one bank transaction at most", 512)
    queue_size_max: int = _setting("authorisations that may wait in one bank process", 8192)
    stop_grace_seconds: int = _setting("how long a stopping role may finish what it took", 10)

    relay_batch_max: int = _setting("events that the relay ships at once", 500)
    projector_batch_max: int = _setting("events that a projector stores at once", 500)
    member_timeout_seconds: int = _setting("silence after which a group gives a member's partitions away", 3)

    call_budget_seconds: int = _setting("time that one payment may take from the checkout's side", 5)
    resolve_after_seconds: int = _setting("age at which the resolver asks for an unknown outcome", 3)
    cancel_after_seconds: int = _setting("age at which the resolver cancels an unknown outcome", 20)

    session_hours: int = _setting("how long a sign-in lasts", 12)
    sign_in_attempts_max: int = _setting(
        "wrong sign-ins per e-mail, and tenfold per address, in a quarter of an hour", 5
    )
    secure_cookies: bool = _setting("whether cookies are sent over TLS only", False)

    log_level: str = _setting("least level that is logged: debug, info, warning or error", "info")

    @staticmethod
    def load(environ: Mapping[str, str]) -> Settings:
        """Read the settings from an environment.

        Raises CodebankError naming each variable that is unknown or does not fit its type.
        """
        known = {PREFIX + item.name.upper(): item for item in fields(Settings)}
        values: dict[str, Any] = {}
        wrong: list[str] = []
        for variable, text in environ.items():
            if not variable.startswith(PREFIX):
                continue
            item = known.get(variable)
            if item is None:
                wrong.append(f"{variable} is not a setting")
                continue
            try:
                values[item.name] = _parse(str(item.type), text)
            except ValueError as error:
                wrong.append(f"{variable}: {error}")
        if wrong:
            raise CodebankError(Code.INVALID, "; ".join(wrong), hint="docs/reference.md lists every setting")
        return Settings(**values)

    def database_url(self, database: str, role: str | None = None) -> str:
        """Give the address of a database for its owner, or for the role named."""
        user = role or database
        password = self._passwords().get(user, "")
        credentials = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
        if self.postgres:
            scheme, _, rest = self.postgres.partition("://")
            place, question, query = rest.partition("?")
            return f"{scheme}://{credentials}@{place.rstrip('/')}/{database}{question}{query}"
        return f"postgresql://{credentials}@/{database}?host={quote(str(self.socket_folder()), safe='')}"

    def socket_folder(self) -> Path:
        """Say where the embedded PostgreSQL listens."""
        return socket_folder(self.state / "postgres")

    def _passwords(self) -> dict[str, str]:
        pairs = (pair.partition("=") for pair in self.postgres_passwords.split(",") if pair)
        return {user.strip(): password for user, _, password in pairs}

    def environment(self) -> dict[str, str]:
        """Write the settings back as variables, for a child process."""
        return {PREFIX + item.name.upper(): _text(getattr(self, item.name)) for item in fields(self)}

    def checkout_home(self) -> str:
        """Give the shop's public address."""
        return self.checkout_url or f"http://localhost:{self.checkout_port}"

    def statement_home(self) -> str:
        """Give the statement's public address."""
        return self.statement_url or f"http://localhost:{self.statement_port}"

    def audit_home(self) -> str:
        """Give the control room's public address."""
        return self.audit_url or f"http://localhost:{self.audit_port}"

    def bank_target(self) -> str:
        """Give the address of the bank's gRPC server."""
        return self.bank_address or f"127.0.0.1:{self.bank_port}"


def socket_folder(folder: Path) -> Path:
    """Choose where the embedded server of `folder` listens: a socket's path may have 107 bytes at most."""
    inside = folder / "socket"
    if len(os.fsencode(inside)) <= 80:
        return inside
    digest = hashlib.sha256(os.fsencode(inside)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"codebank-{digest}"


def _parse(type_name: str, text: str) -> Any:
    if type_name == "int":
        number = int(text)
        if number < 0:
            raise ValueError(f"{number} is negative")
        return number
    if type_name == "bool":
        if text.lower() in {"on", "true", "yes", "1"}:
            return True
        if text.lower() in {"off", "false", "no", "0", ""}:
            return False
        raise ValueError(f"{text!r} is neither on nor off")
    if type_name == "Path":
        return Path(text).expanduser().absolute()
    return text


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
