"""THE TABLE: role → how it is built, its ports, its databases. The one wiring file: step through it to see it all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from codebank.audit import metrics as audit
from codebank.audit.app import open_audit
from codebank.bank import metrics as bank
from codebank.bank.app import serve_bank
from codebank.bank.test_cards import TEST_CARDS
from codebank.checkout import metrics as checkout
from codebank.checkout.app import open_shop
from codebank.eventlog import metrics as eventlog
from codebank.eventlog.choice import open_log
from codebank.eventlog.relay import Relay
from codebank.operate.demo import DEMO_EMAIL, DEMO_PASSWORD
from codebank.runtime.postgres.migrate import migrate
from codebank.runtime.postgres.pool import connect
from codebank.runtime.watch.metrics import PROCESS_METRICS, Metric
from codebank.runtime.watch.telemetry import Telemetry
from codebank.runtime.web.metrics import WEB_METRICS
from codebank.runtime.web.serve import serve_app
from codebank.settings import DATABASES, READER_ROLE, Settings
from codebank.statement import metrics as statement
from codebank.statement.app import open_statement, run_projector

Run = Callable[[Settings, Telemetry, asyncio.Event], Awaitable[None]]

#: How long an open statement page may take to let go; it comes back by itself.
_PAGES_GRACE_SECONDS: Final = 1


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of process."""

    name: str
    run: Run
    #: The setting that holds its health port.
    health_port: str
    #: The setting that holds its own port, and what is served there; empty where it serves nothing.
    port: str
    serves: str
    databases: tuple[str, ...]
    #: The secrets that it reads, beside the passwords of the database roles as which it signs in.
    secrets: tuple[str, ...]
    database_roles: tuple[str, ...]
    #: Roles of one group start together, after the groups before.
    group: str
    #: What it counts beside what every process counts.
    metrics: tuple[Metric, ...]


async def _relay(settings: Settings, telemetry: Telemetry, stop: asyncio.Event) -> None:
    async with open_log(settings, "relay", telemetry=telemetry) as log:
        relay = Relay(
            settings.database_url("bank"), log, telemetry, settings.relay_batch_max, settings.relay_lease_seconds
        )
        await relay.run(stop)


async def _checkout(settings: Settings, telemetry: Telemetry, stop: asyncio.Event) -> None:
    async with open_shop(settings, telemetry, TEST_CARDS) as app:
        await serve_app(
            app,
            settings.host,
            settings.checkout_port,
            stop,
            grace_seconds=settings.stop_grace_seconds,
            keep_alive_seconds=settings.keep_alive_seconds,
            on_ready=telemetry.ready.set,
        )


async def _statement(settings: Settings, telemetry: Telemetry, stop: asyncio.Event) -> None:
    async with open_statement(settings, telemetry, (DEMO_EMAIL, DEMO_PASSWORD)) as (app, hub):
        await serve_app(
            app,
            settings.host,
            settings.statement_port,
            stop,
            grace_seconds=_PAGES_GRACE_SECONDS,
            keep_alive_seconds=settings.keep_alive_seconds,
            on_ready=telemetry.ready.set,
            on_stop=hub.close,
        )


async def _audit(settings: Settings, telemetry: Telemetry, stop: asyncio.Event) -> None:
    async with open_audit(settings, telemetry, health_ports(settings)) as app:
        await serve_app(
            app,
            settings.host,
            settings.audit_port,
            stop,
            grace_seconds=_PAGES_GRACE_SECONDS,
            keep_alive_seconds=settings.keep_alive_seconds,
            on_ready=telemetry.ready.set,
        )


#: What the log may ask of whoever opens it.
_LOG_SECRETS: Final = ("kafka_sasl_password",)
_TABLE: Final = (
    Role(
        "bank",
        serve_bank,
        "bank_health_port",
        "bank_port",
        "the bank's gRPC",
        ("bank",),
        ("vault_key", "operator_key"),
        ("bank",),
        "first",
        bank.METRICS,
    ),
    Role(
        "relay",
        _relay,
        "relay_health_port",
        "",
        "",
        ("bank", "log"),
        _LOG_SECRETS,
        ("bank", "log"),
        "first",
        eventlog.METRICS,
    ),
    Role(
        "projector",
        run_projector,
        "projector_health_port",
        "",
        "",
        ("log", "statement"),
        _LOG_SECRETS,
        ("log", "statement"),
        "first",
        statement.PROJECTOR_METRICS,
    ),
    Role(
        "checkout",
        _checkout,
        "checkout_health_port",
        "checkout_port",
        "the shop's pages",
        ("checkout",),
        ("merchant_key", "web_secret"),
        ("checkout",),
        "second",
        (*checkout.METRICS, *WEB_METRICS),
    ),
    Role(
        "statement",
        _statement,
        "statement_health_port",
        "statement_port",
        "the statement's pages",
        ("statement",),
        (),
        ("statement",),
        "second",
        (*statement.PAGES_METRICS, *WEB_METRICS),
    ),
    Role(
        "audit",
        _audit,
        "audit_health_port",
        "audit_port",
        "the control room",
        DATABASES,
        (*_LOG_SECRETS, "elasticsearch_password"),
        (READER_ROLE,),
        "second",
        (*audit.METRICS, *WEB_METRICS),
    ),
)
ROLES: Final[Mapping[str, Role]] = {role.name: role for role in _TABLE}
#: Every metric of the system → the roles that show it.
METRICS: Final[Mapping[Metric, Sequence[str]]] = {
    metric: [role.name for role in _TABLE if metric in role.metrics or metric in PROCESS_METRICS]
    for metric in (*(metric for role in _TABLE for metric in role.metrics), *PROCESS_METRICS)
}


def seen_by(role: Role, settings: Settings) -> Settings:
    """Leave out of the settings every secret that a role does not read."""
    hidden: dict[str, Any] = {
        item.name: "" for item in fields(settings) if item.metadata["secret"] and item.name not in role.secrets
    }
    known = [(name, password) for name, password in settings.role_passwords().items() if name in role.database_roles]
    hidden["postgres_passwords"] = ",".join(f"{name}={password}" for name, password in known)
    return replace(settings, **hidden)


def telemetry_of(role: Role) -> Telemetry:
    """Give what a role tells of itself: its own metrics, and those of every process."""
    return Telemetry((*role.metrics, *PROCESS_METRICS))


def health_ports(settings: Settings) -> dict[str, int]:
    """Give every role's health port."""
    return {role.name: getattr(settings, role.health_port) for role in ROLES.values()}


def all_ports(settings: Settings) -> list[tuple[int, str, str]]:
    """List every port that the roles open, with the setting that moves it and what it is for."""
    named = [(role.port, role.serves) for role in ROLES.values() if role.port]
    named += [(role.health_port, f"health and metrics of the {role.name}") for role in ROLES.values()]
    return [(getattr(settings, field), f"CODEBANK_{field.upper()}", what) for field, what in named]


async def migrate_all(settings: Settings) -> dict[str, list[str]]:
    """Bring every database up to date and tell which files were applied."""
    applied = {}
    for database in DATABASES:
        connection = await connect(settings.database_url(database), role="migrate")
        try:
            applied[database] = await migrate(connection, database)
        finally:
            await connection.close()
    return applied
