"""What a load costs: the processor time of each role, and of PostgreSQL on its behalf.

A role tells its own on its health port. PostgreSQL says which of its processes serves whom; what they took stands in
/proc, so that only a server on this machine can be asked.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

import asyncpg

from codebank.lab.processor import own_microseconds
from codebank.settings import Settings

_ASK_SECONDS: Final = 5
_SPENT: Final = re.compile(rb"^process_cpu_seconds_total (\S+)$", re.MULTILINE)
#: Sessions by the name that they give themselves, where that is not the name of their role.
_SERVES: Final = {"statement-live": "statement", "reader": "projector"}
#: What no session owns: writing ahead, checkpoints, vacuum.
UPKEEP: Final = "upkeep"
#: How the sessions of a measurement call themselves: they are no part of it.
BENCH: Final = "bench"


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """Microseconds that were spent: until a moment, or between two."""

    roles: Mapping[str, int]
    #: Role → of PostgreSQL's processes that serve it; empty where the server is on another machine.
    postgres: Mapping[str, int]

    def per(self, count: int) -> ProcessorTime:
        """Give the share of each of so many."""
        return ProcessorTime(
            {name: spent // max(1, count) for name, spent in self.roles.items()},
            {name: spent // max(1, count) for name, spent in self.postgres.items()},
        )


@dataclass(frozen=True, slots=True)
class Meters:
    """Where every part stands at a moment."""

    roles: Mapping[str, int]
    #: Process → whom it serves, and what it took.
    postgres: Mapping[int, tuple[str, int]]

    def since(self, earlier: Meters) -> ProcessorTime:
        """Tell what was spent since an earlier moment; a process that ended meanwhile took its own with it."""
        postgres: dict[str, int] = defaultdict(int)
        for pid, (name, spent) in self.postgres.items():
            postgres[name] += spent - earlier.postgres.get(pid, (name, 0))[1]
        roles = {name: spent - earlier.roles.get(name, 0) for name, spent in self.roles.items()}
        return ProcessorTime(roles, dict(postgres))


async def read_meters(settings: Settings, health_ports: Mapping[str, int], pool: asyncpg.Pool) -> Meters:
    """Read what every part took until now; a role that does not answer is left out."""
    roles = {}
    for name, port in health_ports.items():
        spent = await asyncio.to_thread(_of_role, settings.own_host(), port)
        if spent is not None:
            roles[name] = spent
    rows = await pool.fetch("select pid, application_name from pg_stat_activity")
    postgres = {}
    for row in rows:
        spent = _of_process(row["pid"])
        name = row["application_name"] or UPKEEP
        if spent is not None and name != BENCH:
            postgres[row["pid"]] = (_SERVES.get(name, name), spent)
    return Meters(roles, postgres)


def _of_role(host: str, port: int) -> int | None:
    connection = HTTPConnection(host, port, timeout=_ASK_SECONDS)
    try:
        connection.request("GET", "/metrics")
        found = _SPENT.search(connection.getresponse().read())
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
    return round(float(found[1]) * 1_000_000) if found else None


def _of_process(pid: int) -> int | None:
    """Read the time of one of PostgreSQL's processes; None where this machine has no such process."""
    try:
        return own_microseconds(pid) if Path(f"/proc/{pid}/comm").read_text().startswith("postgres") else None
    except OSError:
        return None
