"""Opens the log that the settings name: Kafka, or the embedded one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from codebank.eventlog.local.log import LocalLog
from codebank.eventlog.log import EventLog
from codebank.runtime.postgres.pool import PoolMeter, open_pool
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import Settings


@asynccontextmanager
async def open_log(
    settings: Settings, role: str, *, database_role: str | None = None, telemetry: Telemetry | None = None
) -> AsyncIterator[EventLog]:
    """Give the log for as long as the block lasts; `database_role` is who reads the embedded one, its owner if None."""
    if settings.kafka:
        # Only who uses Kafka pays for its client.
        from codebank.eventlog.kafka.log import KafkaLog

        kafka = KafkaLog(settings)
        if telemetry is not None:
            telemetry.live_while(kafka.lanes.move)
        try:
            yield kafka
        finally:
            await kafka.close()
        return
    dsn = settings.database_url("log", database_role)
    meter = PoolMeter(telemetry, "log") if telemetry else None
    pool = await open_pool(dsn, max_size=4, role=role, read_only=database_role is not None, meter=meter)
    try:
        yield LocalLog(pool, dsn, settings.member_timeout_seconds)
    finally:
        await pool.close()
