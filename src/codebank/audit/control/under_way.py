"""How old the oldest event is that the bank told of and the statement has not stored, whatever the roles say of it."""

from __future__ import annotations

from datetime import datetime

from codebank.audit.store import control as store
from codebank.audit.store.sides import Sides
from codebank.events import PAYMENTS_TOPIC


async def oldest_under_way(sides: Sides, now: datetime) -> float:
    """Give its age in seconds; 0 where nothing is under way. Raises one of SIDE_ERRORS where a side is away.

    A position past the log's end is of another log: nothing of this one was stored.
    """
    moments = [await store.read_waiting_since(sides.bank)]
    positions = await store.read_positions(sides.statement)
    # After the positions, which are never ahead of it then.
    for partition, end in (await sides.log.ends(PAYMENTS_TOPIC)).items():
        position = positions.get(partition, 0)
        if position != end:
            records = await sides.log.scan(PAYMENTS_TOPIC, partition, position if position < end else 0, 1)
            moments += [record.appended_at for record in records]
    ages = [(now - moment).total_seconds() for moment in moments if moment is not None]
    return max([0.0, *ages])
