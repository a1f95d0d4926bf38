"""A marked card number and CVV go through everything, and stay nowhere but in the vault."""

from __future__ import annotations

import logging

import grpc
import httpx
import pytest

from codebank.runtime.watch.telemetry import JsonFormatter
from codebank.v1 import bank_pb2 as pb
from codebank.v1 import bank_pb2_grpc
from tests.checkout.shop import card_body, fill_basket, payment_form
from tests.conftest import Databases
from tests.system import System, running_system

pytestmark = pytest.mark.anyio


async def issue(system: System) -> tuple[str, str, int, int]:
    """Have the bank make a card of its own: number, CVV, expiry year and month."""
    metadata = (("authorization", f"Bearer {system.settings.operator_key}"),)
    request = pb.IssueCardRequest(
        new_account=pb.NewAccount(holder_name="Marked", limit=pb.Money(amount_minor=10**7, currency="BRL")),
        idempotency_key="marked",
    )
    async with grpc.aio.insecure_channel(system.settings.bank_target()) as channel:
        issued = await bank_pb2_grpc.BankStub(channel).IssueCard(request, metadata=metadata)
    return issued.number, issued.cvv, issued.card.expiry_year, issued.card.expiry_month


async def everything_stored(databases: Databases) -> dict[str, str]:
    """Give all that every table of every database holds, as text."""
    found = {}
    for database in databases.names:
        connection = await databases.connect(database)
        for row in await connection.fetch("select tablename from pg_tables where schemaname = 'public'"):
            table = row["tablename"]
            rows = await connection.fetch(f'select * from "{table}"')
            found[f"{database}.{table}"] = "\n".join(
                " ".join(value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in one.values())
                for one in rows
            )
        await connection.close()
    return found


async def test_trap_a24_a_marked_card_leaves_no_trace_but_its_mask(
    databases: Databases, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answers: list[httpx.Response] = []
    async with running_system(databases, demo=False) as system:
        await system.stop("statement")
        await system.start("statement")
        number, cvv, year, month = await issue(system)
        body = {
            "items": [{"product": "cafe-especial", "quantity": 1}],
            "card": card_body(number, cvv=cvv, expiry_year=year, expiry_month=month),
        }
        wrong = {**body, "card": card_body(number, cvv=cvv, expiry_year=year, expiry_month=99)}
        async with system.shop() as shop:
            for key, sent in (("a", body), ("b", {**body, "card": {**body["card"], "cvv": "000"}}), ("c", wrong)):  # type: ignore[dict-item]
                answers.append(await shop.post("/api/orders", json=sent, headers={"idempotency-key": key}))
            await fill_basket(shop)
            form = {**await payment_form(shop, number, cvv), "expiry": f"{month:02d}/{year % 100}"}
            answers.append(await shop.post("/payment", data=form, follow_redirects=True))
        await system.proven()
        home = system.settings.audit_home().replace("localhost", "127.0.0.1")
        async with httpx.AsyncClient(base_url=home) as room:
            answers += [await room.get(path) for path in ("/", "/api/flow", "/api/proof")]

    assert [answer.status_code for answer in answers] == [201, 201, 422, 200, 200, 200, 200]
    for answer in answers:
        assert number not in answer.text
        assert number not in str(answer.url)
    stored = await everything_stored(databases)
    assert [table for table, text in stored.items() if number in text] == []
    assert f"•••• {number[-4:]}" in stored["bank.payment"]
    formatter = JsonFormatter("test")
    logged = "\n".join(formatter.format(record) for record in caplog.records)
    assert logged
    assert number not in logged
    for name in ("cvv", "CVV"):
        assert f"{name}={cvv}" not in logged
        assert f'{name}": "{cvv}' not in logged


async def test_the_cvv_has_no_column_anywhere(databases: Databases) -> None:
    for database in databases.names:
        connection = await databases.connect(database)
        columns = await connection.fetch(
            "select table_name, column_name from information_schema.columns where table_schema = 'public'"
        )
        await connection.close()
        assert [row for row in columns if "cvv" in row["column_name"] or "cvc" in row["column_name"]] == []
