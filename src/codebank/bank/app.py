"""The bank as a running role: its pool, its one lane, its gRPC server, and a stop that answers what it took."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from codebank.bank.batch import Batcher
from codebank.bank.door.api import Bank
from codebank.bank.door.behaviour import Rehearsal
from codebank.bank.service import Authoriser
from codebank.bank.vault import Vault
from codebank.runtime.grpc.server import build_server
from codebank.runtime.grpc.tls import Identity, server_credentials
from codebank.runtime.postgres.pool import PoolMeter, open_pool
from codebank.runtime.watch.telemetry import Telemetry, fields
from codebank.settings import Settings
from codebank.v1 import bank_pb2

log = logging.getLogger(__name__)

#: One account locked by somebody else for longer than this fails its own charge, not the whole lane.
_LOCK_TIMEOUT = "2s"


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
        server_settings={"lock_timeout": _LOCK_TIMEOUT},
        meter=PoolMeter(telemetry, "bank"),
    )
    batcher = Batcher(
        Authoriser(pool, telemetry).carry_out, telemetry, settings.batch_size_max, settings.queue_size_max
    )
    bank = Bank(pool, vault, batcher, telemetry, settings.operator_key, Rehearsal(settings.test_cards))
    server, health = build_server(telemetry, bank_pb2.DESCRIPTOR.services_by_name["Bank"], bank)
    server.add_generic_rpc_handlers(tuple(extra))
    # Plain ones would be refused by nobody: with certificates there is no other door.
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    lane = asyncio.create_task(batcher.run())
    await server.start()
    await health.set(True)
    telemetry.ready.set()
    try:
        yield port
    finally:
        telemetry.ready.clear()
        await health.set(False)
        # Takes no new call, lets those under way be answered by the lane, then ends the lane.
        await server.stop(settings.stop_grace_seconds)
        batcher.close()
        try:
            await lane
        finally:
            await pool.close()


async def serve_bank(settings: Settings, telemetry: Telemetry, stop: asyncio.Event) -> None:
    """Run the role until it is asked to stop."""
    async with open_bank(settings, telemetry, f"{settings.host}:{settings.bank_port}") as port:
        log.info("serving", extra=fields(port=port))
        await stop.wait()
