"""The bank as a running role: its pool, its one lane, its gRPC server, and a stop that answers what it took."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import grpc

from codebank.address import place
from codebank.bank.batch import Batcher
from codebank.bank.door.api import Bank
from codebank.bank.door.behaviour import ForcedBehaviour
from codebank.bank.executor import Executor
from codebank.bank.vault import Vault
from codebank.eventlog.waking import Waker
from codebank.runtime.grpc.server import GrpcHealth, build_server
from codebank.runtime.grpc.tls import Identity, server_credentials
from codebank.runtime.postgres.errors import OUTAGES
from codebank.runtime.postgres.pool import PoolMeter, open_pool
from codebank.runtime.process import background
from codebank.runtime.watch.telemetry import Telemetry, fields
from codebank.settings import Settings
from codebank.v1 import bank_pb2

log = logging.getLogger(__name__)

#: What is decided without locks waits so long for one that somebody else has; then what he holds is set aside.
_LOCK_TIMEOUT: Final = "100ms"
#: A bank that hangs inside a transaction holds its locks no longer than that.
_IDLE_IN_TRANSACTION_TIMEOUT: Final = "2s"
#: Everything that the bank asks for is found by an index, one row at a time. A plan that was made while the tables were
#: empty would read them whole for as long as nobody has counted their rows anew.
PLANS: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}
_WATCH_SECONDS: Final = 1
#: Whether what is decided could be written now.
_WRITABLE: Final = "select not pg_is_in_recovery() and current_setting('transaction_read_only') = 'off'"


@asynccontextmanager
async def open_bank(
    settings: Settings, telemetry: Telemetry, address: str, extra: Sequence[grpc.GenericRpcHandler[Any, Any]] = ()
) -> AsyncIterator[int]:
    """Serve the bank at an address and give its port; on leaving, answer what was taken, then close.

    `extra` are handlers served beside it, for measurements.
    """
    vault = Vault(settings.vault_key)  # first: a bank without its key must not start
    identity = Identity.of(settings)
    credentials = server_credentials(identity) if identity else None
    pool = await open_pool(
        settings.database_url("bank"),
        max_size=settings.pool_size_max,
        role="bank",
        server_settings={
            "lock_timeout": _LOCK_TIMEOUT,
            "idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION_TIMEOUT,
            **PLANS,
        },
        meter=PoolMeter(telemetry, "bank"),
    )
    waker = Waker(settings.database_url("bank"), "bank")
    executor = Executor(pool, telemetry, on_written=waker.wake)
    batcher = Batcher(executor, telemetry, settings.batch_size_max, settings.queue_size_max)
    bank = Bank(pool, vault, batcher, telemetry, settings.operator_key, ForcedBehaviour(settings.test_cards))
    service, shares_port = bank_pb2.DESCRIPTOR.services_by_name["Bank"], settings.bank_processes > 1
    server, health = build_server(telemetry, service, bank, shares_port=shares_port)
    server.add_generic_rpc_handlers(tuple(extra))
    # Plain ones would be refused by nobody: with certificates there is no other door.
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    try:
        async with background(batcher.run(), batcher.run_aside(), waker.run()):
            await server.start()
            # Once before anybody is told that it serves: until then nobody knows its health.
            await _say_whether_it_can_write(pool, telemetry, health)
            async with background(_keep_saying_whether_it_can_write(pool, telemetry, health)):
                telemetry.ready.set()
                yield port
            telemetry.ready.clear()
            await health.set(False)
            # Takes no new call, lets those under way be answered by the lane, then ends the lane.
            await server.stop(settings.stop_grace_seconds)
            batcher.close()
            await batcher.ended.wait()
    finally:
        telemetry.ready.clear()
        await server.stop(None)
        await pool.close()


async def _keep_saying_whether_it_can_write(pool: asyncpg.Pool, telemetry: Telemetry, health: GrpcHealth) -> None:
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        await _say_whether_it_can_write(pool, telemetry, health)


async def _say_whether_it_can_write(pool: asyncpg.Pool, telemetry: Telemetry, health: GrpcHealth) -> None:
    """Be ready only while the database takes what is decided; a server that turned read-only is looked for anew."""
    can_write = False
    with contextlib.suppress(*OUTAGES):
        async with asyncio.timeout(_WATCH_SECONDS), pool.acquire() as connection:
            can_write = await connection.fetchval(_WRITABLE)
    telemetry.ready.note("database", does=can_write)
    if not can_write:
        await pool.expire_connections()
    await health.set(can_write)


async def serve_bank(settings: Settings, telemetry: Telemetry, stop: asyncio.Event) -> None:
    """Run the role until it is asked to stop."""
    async with open_bank(settings, telemetry, place(settings.host, settings.bank_port)) as port:
        log.info("serving", extra=fields(port=port))
        await stop.wait()
