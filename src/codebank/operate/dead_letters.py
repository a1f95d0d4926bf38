"""The operator's hand on what was put aside, and on the statement as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from codebank.errors import Code, CodebankError
from codebank.eventlog.choice import open_log
from codebank.eventlog.log import LOG_ERRORS, EventLog
from codebank.events import PAYMENTS_TOPIC
from codebank.runtime.postgres.pool import open_pool
from codebank.runtime.web.peer import PeerError, PeerUnavailable
from codebank.search.connect import CONNECTOR, group_of, rewind
from codebank.settings import Settings
from codebank.statement.dead_letters import DeadLetter, Origin, Replay, dismiss_letter, read_dead_letters, replay
from codebank.statement.rebuild import rebuild
from codebank.statement.search_letters import (
    SEARCH_READER,
    gather_search_letters,
    read_search_letters,
    settle_replayed,
)

_BECAUSE_LENGTH_MAX: Final = 300
#: How long the connector may take to go back to a record and past it, and how often it is asked.
_CONNECTOR_SECONDS: Final = 30
_LOOK_SECONDS: Final = 0.3
#: How long its letters may take to be on their topic.
_LETTERS_SECONDS: Final = 5
#: A partition is rebuilt in one transaction, which waits for a log that may be slow to tell.
_LOG_PATIENCE: Final = "10min"


@asynccontextmanager
async def _statement(settings: Settings) -> AsyncIterator[tuple[asyncpg.Pool, EventLog]]:
    try:
        async with open_log(settings, "operator") as log:
            dsn, patient = settings.database_url("statement"), {"idle_in_transaction_session_timeout": _LOG_PATIENCE}
            pool = await open_pool(dsn, max_size=2, role="operator", server_settings=patient)
            try:
                yield pool, log
            finally:
                await pool.close()
    except (*LOG_ERRORS, PeerError, PeerUnavailable) as error:
        raise CodebankError(Code.UNAVAILABLE, f"a part does not answer: {error}") from None


async def _read_all(pool: asyncpg.Pool, log: EventLog) -> list[DeadLetter]:
    """Read all dead letters, those of the search as they stand on their topic now; the newest first."""
    await gather_search_letters(pool, log)
    found = await read_dead_letters(pool) + await read_search_letters(pool)
    return sorted(found, key=lambda dead: dead.at, reverse=True)


async def listed_dead_letters(settings: Settings) -> list[dict[str, Any]]:
    """Show every record that was put aside, the newest first. Its value is shown as text, as far as it is text."""
    async with _statement(settings) as (pool, log):
        found = await _read_all(pool, log)
    return [
        {
            "origin": str(dead.origin),
            "reader": dead.reader,
            "reason": dead.reason,
            "at": dead.at.isoformat(timespec="seconds"),
            "replayed_at": dead.replayed_at.isoformat(timespec="seconds") if dead.replayed_at else None,
            "dismissed_at": dead.dismissed_at.isoformat(timespec="seconds") if dead.dismissed_at else None,
            "dismissed_because": dead.dismissed_because,
            "key": dead.key.decode(errors="backslashreplace"),
            "value": dead.value.decode(errors="backslashreplace"),
            "headers": dict(dead.headers),
        }
        for dead in found
    ]


async def _named(pool: asyncpg.Pool, log: EventLog, names: Sequence[str]) -> list[DeadLetter]:
    """Find the letters of these origins, all that wait where none is named. Raises CodebankError for an unknown one."""
    try:
        origins = [Origin.parse(name) for name in names]
    except ValueError:
        raise CodebankError(Code.INVALID, "an origin is written as topic/partition/offset") from None
    found = await _read_all(pool, log)
    known = {dead.origin for dead in found}
    missing = [str(origin) for origin in origins if origin not in known]
    if missing:
        raise CodebankError(Code.NOT_FOUND, f"nothing was put aside at {', '.join(missing)}")
    return [dead for dead in found if (dead.origin in origins if origins else dead.is_waiting)]


async def replay_dead_letters(settings: Settings, names: Sequence[str]) -> list[Replay]:
    """Read records again, all that wait where none is named.

    What the statement put aside is applied to it. For what Kafka Connect put aside, the connector goes back to the
    record, and what it then does with it is waited for: documents that are there already are not changed by that.
    Raises CodebankError for an unknown origin.
    """
    async with _statement(settings) as (pool, log):
        chosen = await _named(pool, log, names)
        of_search = [dead for dead in chosen if dead.reader == SEARCH_READER]
        mine = [dead.origin for dead in chosen if dead.reader != SEARCH_READER]
        done = await replay(pool, mine) if mine else []
        if of_search:
            done += await _replay_search(settings, pool, log, of_search)
    return done


async def _replay_search(
    settings: Settings, pool: asyncpg.Pool, log: EventLog, letters: Sequence[DeadLetter]
) -> list[Replay]:
    back: dict[int, int] = {}
    until: dict[int, int] = {}
    for dead in letters:
        number, offset = dead.origin.partition, dead.origin.offset
        back[number] = min(offset, back.get(number, offset))
        until[number] = max(offset + 1, until.get(number, 0))
    await rewind_search(settings, back)
    if not await _passed(log, until):
        return [Replay(dead.origin, "the connector has not come to it yet; the list will tell") for dead in letters]
    await _put_aside_again(pool, log, letters)
    became = await settle_replayed(pool, letters)
    return [Replay(dead.origin, became[dead.origin]) for dead in letters]


async def _put_aside_again(pool: asyncpg.Pool, log: EventLog, letters: Sequence[DeadLetter]) -> None:
    """Gather what the connector put aside again, for as long as that may still be on its way.

    It does not wait for letters of records that it could not read before it says that it has passed them. One that
    comes later still is found by whoever gathers next, and waits again.
    """
    deadline = asyncio.get_running_loop().time() + _LETTERS_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        await gather_search_letters(pool, log)
        times = {dead.origin: dead.times for dead in await read_search_letters(pool)}
        if all(times[dead.origin] > dead.times for dead in letters):
            return
        await asyncio.sleep(_LOOK_SECONDS)


async def _passed(log: EventLog, until: Mapping[int, int]) -> bool:
    """Wait until the connector has read so far; tell whether it did."""
    deadline = asyncio.get_running_loop().time() + _CONNECTOR_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        came = await log.committed(PAYMENTS_TOPIC, group_of(CONNECTOR))
        if all(came.get(number, 0) >= offset for number, offset in until.items()):
            return True
        await asyncio.sleep(_LOOK_SECONDS)
    return False


async def dismiss_dead_letters(settings: Settings, names: Sequence[str], because: str) -> int:
    """Decide that records will never be read, for a reason that is kept with them; tell how many letters that were.

    Nothing is thrown away: they are listed as before, may still be replayed by name, and excuse their numbers.
    Raises CodebankError for an unknown origin, or a reason that is none.
    """
    because = because.strip()
    if not because or len(because) > _BECAUSE_LENGTH_MAX or not because.isprintable():
        raise CodebankError(Code.INVALID, f"a reason has 1 to {_BECAUSE_LENGTH_MAX} printable characters")
    if not names:
        raise CodebankError(Code.INVALID, "name the records by their origin")
    async with _statement(settings) as (pool, log):
        chosen = await _named(pool, log, names)
        for dead in chosen:
            await dismiss_letter(pool, dead, because)
    return len(chosen)


async def rebuild_statement(settings: Settings, tell: Callable[[int, int, int], None]) -> int:
    """Make the statement anew from the log; gives the number of records."""
    async with _statement(settings) as (pool, log):
        return await rebuild(pool, log, tell)


async def rewind_search(settings: Settings, offsets: dict[int, int]) -> None:
    """Let the connector read partitions again. Raises CodebankError where it cannot be told so."""
    if not settings.connect:
        raise CodebankError(Code.INVALID, "CODEBANK_CONNECT must say where Kafka Connect is")
    try:
        await rewind(settings, offsets)
    except (PeerError, PeerUnavailable) as error:
        raise CodebankError(Code.UNAVAILABLE, f"Kafka Connect: {error}") from None
