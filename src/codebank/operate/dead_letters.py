"""The operator's hand on what was put aside, and on the statement as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from codebank.errors import Code, CodebankError
from codebank.eventlog.choice import open_log
from codebank.eventlog.log import LOG_ERRORS, EventLog
from codebank.events import SEARCH_DEAD_LETTERS_TOPIC
from codebank.runtime.postgres.pool import open_pool
from codebank.runtime.web.peer import PeerError, PeerUnavailable
from codebank.search.connect import rewind
from codebank.settings import Settings
from codebank.statement.dead_letters import DeadLetter, Origin, Replay, dead_letter_of, read_dead_letters, replay
from codebank.statement.rebuild import rebuild

_SCAN = 1000


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


async def _read_all(settings: Settings, pool: asyncpg.Pool, log: EventLog) -> list[DeadLetter]:
    """Read all dead letters: the statement's from its database, Kafka Connect's from their topic."""
    found = await read_dead_letters(pool)
    if settings.kafka:
        for partition, end in (await log.ends(SEARCH_DEAD_LETTERS_TOPIC)).items():
            position = 0
            while position < end and (records := await log.scan(SEARCH_DEAD_LETTERS_TOPIC, partition, position, _SCAN)):
                found += [dead for dead in map(dead_letter_of, records) if dead is not None]
                position = records[-1].offset + 1
    return sorted(found, key=lambda dead: dead.at, reverse=True)


async def listed_dead_letters(settings: Settings) -> list[dict[str, Any]]:
    """Show every record that was put aside, the newest first. Its value is shown as text, as far as it is text."""
    async with _statement(settings) as (pool, log):
        found = await _read_all(settings, pool, log)
    return [
        {
            "origin": str(dead.origin),
            "reader": dead.reader,
            "reason": dead.reason,
            "at": dead.at.isoformat(timespec="seconds"),
            "replayed_at": dead.replayed_at.isoformat(timespec="seconds") if dead.replayed_at else None,
            "key": dead.key.decode(errors="backslashreplace"),
            "value": dead.value.decode(errors="backslashreplace"),
            "headers": dict(dead.headers),
        }
        for dead in found
    ]


async def replay_dead_letters(settings: Settings, names: Sequence[str]) -> list[Replay]:
    """Read records again, all where none is named.

    What the statement put aside is applied to it. For what Kafka Connect put aside, the connector goes back to the
    record: documents that are there already are not changed by that. Raises CodebankError for an unknown origin.
    """
    try:
        origins = [Origin.parse(name) for name in names] or None
    except ValueError:
        raise CodebankError(Code.INVALID, "an origin is written as topic/partition/offset") from None
    async with _statement(settings) as (pool, log):
        found = await _read_all(settings, pool, log)
        known = {dead.origin for dead in found}
        missing = [str(origin) for origin in origins or () if origin not in known]
        if missing:
            raise CodebankError(Code.NOT_FOUND, f"nothing was put aside at {', '.join(missing)}")
        chosen = [dead for dead in found if origins is None or dead.origin in origins]
        mine = [one.origin for one in chosen if one.reader == "statement" and (origins or one.replayed_at is None)]
        done = await replay(pool, mine)
        back: dict[int, int] = {}
        for dead in chosen:
            if dead.reader == "search":
                at = dead.origin.partition
                back[at] = min(dead.origin.offset, back.get(at, dead.origin.offset))
                done.append(Replay(dead.origin, "applied"))
        if back:
            await rewind(settings, back)
    return done


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
