"""The operator's hand on what was put aside, and on the statement as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from codebank.errors import Code, CodebankError
from codebank.eventlog.choice import open_log
from codebank.eventlog.log import LOG_ERRORS, EventLog
from codebank.events import SEARCH_DEAD_LETTERS_TOPIC
from codebank.runtime.postgres.pool import open_pool
from codebank.runtime.web.peer import PeerError, PeerUnavailable
from codebank.search.connect import rewind
from codebank.settings import Settings
from codebank.statement.dead_letters import Letter, Origin, Replay, letter_of, read_letters, replay
from codebank.statement.rebuild import rebuild

_SCAN = 1000


@asynccontextmanager
async def _statement(settings: Settings) -> AsyncIterator[tuple[asyncpg.Pool, EventLog]]:
    try:
        async with open_log(settings, "operator") as log:
            pool = await open_pool(settings.database_url("statement"), max_size=2, role="operator")
            try:
                yield pool, log
            finally:
                await pool.close()
    except (*LOG_ERRORS, PeerError, PeerUnavailable) as error:
        raise CodebankError(Code.UNAVAILABLE, f"a part does not answer: {error}") from None


async def _letters(settings: Settings, pool: asyncpg.Pool, log: EventLog) -> list[Letter]:
    """Read all letters: the statement's from its database, Kafka Connect's from their topic."""
    found = await read_letters(pool)
    if settings.kafka:
        for partition, end in (await log.ends(SEARCH_DEAD_LETTERS_TOPIC)).items():
            position = 0
            while position < end and (records := await log.scan(SEARCH_DEAD_LETTERS_TOPIC, partition, position, _SCAN)):
                found += [letter for letter in map(letter_of, records) if letter is not None]
                position = records[-1].offset + 1
    return sorted(found, key=lambda letter: letter.at, reverse=True)


async def listed_letters(settings: Settings) -> list[dict[str, Any]]:
    """Show every record that was put aside, the newest first. Its value is shown as text, as far as it is text."""
    async with _statement(settings) as (pool, log):
        letters = await _letters(settings, pool, log)
    return [
        {
            "origin": str(letter.origin),
            "reader": letter.reader,
            "reason": letter.reason,
            "at": letter.at.isoformat(timespec="seconds"),
            "replayed_at": letter.replayed_at.isoformat(timespec="seconds") if letter.replayed_at else None,
            "key": letter.key.decode(errors="backslashreplace"),
            "value": letter.value.decode(errors="backslashreplace"),
            "headers": dict(letter.headers),
        }
        for letter in letters
    ]


async def replay_letters(settings: Settings, names: Sequence[str]) -> list[Replay]:
    """Read records again, all where none is named.

    What the statement put aside is applied to it. For what Kafka Connect put aside, the connector goes back to the
    record: documents that are there already are not changed by that. Raises CodebankError for an unknown origin.
    """
    try:
        origins = [Origin.parse(name) for name in names] or None
    except ValueError:
        raise CodebankError(Code.INVALID, "an origin is written as topic/partition/offset") from None
    async with _statement(settings) as (pool, log):
        letters = await _letters(settings, pool, log)
        known = {letter.origin for letter in letters}
        missing = [str(origin) for origin in origins or () if origin not in known]
        if missing:
            raise CodebankError(Code.NOT_FOUND, f"nothing was put aside at {', '.join(missing)}")
        chosen = [letter for letter in letters if origins is None or letter.origin in origins]
        mine = [one.origin for one in chosen if one.reader == "statement" and (origins or one.replayed_at is None)]
        done = await replay(pool, mine)
        back: dict[int, int] = {}
        for letter in chosen:
            if letter.reader == "search":
                at = letter.origin.partition
                back[at] = min(letter.origin.offset, back.get(at, letter.origin.offset))
                done.append(Replay(letter.origin, "applied"))
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
