"""`codebank up`: everything on this machine, nothing to install. Keeps it running until Ctrl-C, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from codebank.errors import Code, CodebankError
from codebank.machine.attach import SETTINGS_FILE
from codebank.machine.keys import KEYS, make_key
from codebank.machine.ports import PortTaken, check_ports
from codebank.machine.postgres import EmbeddedPostgres
from codebank.machine.servers.app import load_servers
from codebank.machine.state_lock import StateLock
from codebank.machine.supervisor import Child, Supervisor
from codebank.machine.unprivileged import make_folder
from codebank.operate.demo import seed_all
from codebank.roles import ROLES, all_ports, migrate_all, seen_by
from codebank.runtime.children import command_of
from codebank.runtime.files import write_atomically
from codebank.runtime.postgres.provision import prepare_databases
from codebank.runtime.process import background, when_asked_to_stop
from codebank.runtime.watch.health import Health, ask_health, is_ready
from codebank.search.connect import apply_connectors, remove_search
from codebank.settings import DATABASES, PREFIX, READER_ROLE, Settings

#: Kept in the state folder: what a new machine makes once, and must never lose.
_SECRETS_FILE: Final = "secrets.json"
_LOCK_FILE: Final = "up.lock"
#: Which log the databases belong to.
_LOG_FILE: Final = "log.txt"
_EMBEDDED: Final = "embedded"
#: After a kill -9 of an earlier `up`, its roles may hold their ports until they have finished.
_PORT_PATIENCE_SECONDS: Final = 12
#: A role's own grace comes first; this is what the supervisor adds before it kills.
_EXTRA_GRACE_SECONDS: Final = 5

Say = Callable[[str], None]


@dataclass(frozen=True)
class Machine:
    """The whole system on one machine."""

    settings: Settings
    say: Say
    fresh: bool = False

    async def run(self, show: Callable[[Settings], None]) -> None:
        """Start the database, prepare it, start the roles in order and keep all running; when cancelled, stop in order.

        Raises CodebankError where a part does not start.
        """
        settings = self.settings
        with contextlib.ExitStack() as databases:
            keeping: list[Coroutine[Any, Any, None]] = []
            if not settings.postgres:
                self.say("starting PostgreSQL")
                # In this thread, on purpose: the server would die with the thread that starts it.
                postgres = databases.enter_context(EmbeddedPostgres(settings.state / "postgres"))
                await prepare_databases(postgres.dsn("postgres", "postgres"), list(DATABASES), READER_ROLE)
                keeping += [postgres.keep_running(self.say), postgres.end_if_it_hangs(self.say)]
            async with background(*keeping):
                await self._prepare()
                self.say(f"starting {', '.join(ROLES)}")
                grace_seconds = settings.stop_grace_seconds + _EXTRA_GRACE_SECONDS
                async with Supervisor(_children(settings), self.say, grace_seconds=grace_seconds).running():
                    _write_privately(settings.state / SETTINGS_FILE, settings.environment())
                    (settings.state / _LOG_FILE).write_text(settings.kafka or _EMBEDDED)
                    show(settings)
                    await asyncio.Event().wait()

    async def _prepare(self) -> None:
        """Bring databases and log up to date."""
        for database, names in (await migrate_all(self.settings)).items():
            if names:
                self.say(f"migrated {database}: {', '.join(names)}")
        if self.settings.kafka:
            await self._prepare_kafka()
        if self.settings.demo:
            await seed_all(self.settings)

    async def _prepare_kafka(self) -> None:
        """Make topics and connectors as they must be; a fresh system begins with empty ones."""
        from codebank.eventlog.kafka.topics import prepare_topics, recreate_topics

        searches = bool(self.settings.connect and self.settings.elasticsearch)
        if self.fresh:
            self.say("emptying Kafka's topics and the search index")
            if searches:
                await remove_search(self.settings)
            await recreate_topics(self.settings)
        else:
            await prepare_topics(self.settings)
        if searches:
            await apply_connectors(self.settings, self.say)


def _children(settings: Settings) -> list[Child]:
    # Everything that the settings say, and nothing of ours beside it.
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    children = []
    for role in ROLES.values():
        port = getattr(settings, role.health_port)

        async def ready(port: int = port) -> bool:
            return await is_ready(settings.own_host(), port)

        async def live(port: int = port) -> bool:
            return await ask_health(settings.own_host(), port, live=True) is Health.WELL

        children.append(
            Child(
                name=role.name,
                argv=command_of("codebank", "run", role.name),
                env={**others, **seen_by(role, settings).environment()},
                ready=ready,
                log_path=settings.state / "logs" / f"{role.name}.log",
                group=role.group,
                live=live,
            )
        )
    return children


def addresses(settings: Settings) -> dict[str, str]:
    """Give the addresses that people use."""
    return {
        "shop": settings.checkout_home(),
        "statement": settings.statement_home(),
        "control room": settings.audit_home(),
        "bank (gRPC)": settings.shown(settings.bank_port),
    }


def complete(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Fill in what `up` provides: secrets of the state folder, test cards and demo unless they were set."""
    path = settings.state / _SECRETS_FILE
    kept = json.loads(path.read_text()) if path.exists() else {}
    # The vault's key cannot be changed once cards were sealed with it, so what is kept stays.
    made = {name: kept.get(name) or make_key() for name in KEYS}
    if made != kept:
        _write_privately(path, made)
    given = {name: getattr(settings, name) or value for name, value in made.items()}
    demo: dict[str, Any] = {name: True for name in ("test_cards", "demo") if PREFIX + name.upper() not in environ}
    return replace(settings, **(demo | given))


def _write_privately(path: Path, values: Mapping[str, str]) -> None:
    write_atomically(path, json.dumps(values).encode(), 0o600)


def _clear(state: Path) -> None:
    """Forget everything of an earlier life, but for the lock that we hold."""
    for item in state.iterdir():
        # The servers of `make kafka` live on; what they hold of us is emptied through them.
        if item.name in (_LOCK_FILE, "servers", "servers.json"):
            continue
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


def _looks_like_ours(state: Path) -> bool:
    names = {item.name for item in state.iterdir()}
    ours = {"postgres", "logs", "servers", "servers.json", f"{_SECRETS_FILE}.new", f"{SETTINGS_FILE}.new"}
    return names <= ours | {_LOCK_FILE, _SECRETS_FILE, SETTINGS_FILE, _LOG_FILE}


def choose_log(settings: Settings, kind: str | None) -> Settings:
    """Point the settings to the log that was asked for; None leaves it to the settings.

    Raises CodebankError where this machine's Kafka is asked for and does not run.
    """
    if kind == "embedded":
        return replace(settings, kafka="", connect="", elasticsearch="")
    if kind == "kafka" and not settings.kafka:
        found: dict[str, Any] = dict(load_servers(settings.state))
        return replace(settings, **found)
    return settings


def refuse_other_log(settings: Settings) -> None:
    """Refuse to go on with another log than before: its events would be missing there."""
    path = settings.state / _LOG_FILE
    before = path.read_text().strip() if path.exists() else ""
    now = settings.kafka or _EMBEDDED
    if before and before != now:
        raise CodebankError(
            Code.FAILED_PRECONDITION,
            f"this state was made with the log {before}, and {now} does not have its events",
            hint="start with `--fresh` to begin anew, or set CODEBANK_STATE to another folder",
        )


async def _wait_for_ports(settings: Settings) -> None:
    deadline = time.monotonic() + _PORT_PATIENCE_SECONDS
    while True:
        try:
            return check_ports(all_ports(settings), settings.host)
        except PortTaken:
            # Only our own leftovers are worth waiting for.
            if not (settings.state / SETTINGS_FILE).exists() or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.2)


async def run_up(
    settings: Settings, environ: Mapping[str, str], *, fresh: bool, say: Say, show: Callable[[Settings], None]
) -> None:
    """Run the whole system until Ctrl-C or SIGTERM.

    Raises CodebankError where it runs already, where a port is taken, or where a part does not start.
    """
    make_folder(settings.state)
    stop = asyncio.Event()
    when_asked_to_stop(stop.set)
    with StateLock(settings.state).held(addresses(settings)):
        if fresh:
            if not _looks_like_ours(settings.state):
                raise CodebankError(
                    Code.FAILED_PRECONDITION,
                    f"{settings.state} holds files that are not ours; nothing was removed",
                    hint="set CODEBANK_STATE to a folder of its own",
                )
            _clear(settings.state)
        await _wait_for_ports(settings)
        settings = complete(settings, environ)
        refuse_other_log(settings)
        try:
            # It is cancelled when it is asked to stop, also where it has not begun to serve.
            async with background(Machine(settings, say, fresh).run(show)):
                await stop.wait()
                say("stopping")
        finally:
            (settings.state / SETTINGS_FILE).unlink(missing_ok=True)
