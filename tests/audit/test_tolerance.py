"""Nothing that a newer bank says breaks the proof or the control room; a difference between sides stays one."""

from __future__ import annotations

from uuid import uuid4

import pytest

from codebank.audit.store.ledger import broken_balances, payments_moved_wrongly
from codebank.machine.postgres import EmbeddedPostgres
from tests.audit.future import let_the_future_in
from tests.audit.test_control import REFUSED, buy, control_room
from tests.audit.test_proof import broken, hurt
from tests.conftest import Databases, make_databases
from tests.system import running_system

pytestmark = pytest.mark.anyio
ROLES = ("bank", "checkout", "relay", "projector", "audit")


@pytest.fixture
async def databases(postgres: EmbeddedPostgres) -> Databases:
    """Give databases of the test's own: what a newer bank does to their tables is not taken back."""
    return await make_databases(postgres)


@pytest.mark.parametrize(
    ("language", "state", "reason"),
    [
        ("pt", "situação não reconhecida", "Recusado por um motivo não reconhecido."),
        ("en", "state not recognised", "Refused for a reason that is not recognised."),
    ],
)
async def test_values_without_a_name_are_proven_and_shown_with_their_code(
    databases: Databases, language: str, state: str, reason: str
) -> None:
    async with running_system(databases, *ROLES) as system:
        paid, refused, shipped = await buy(system), await buy(system, REFUSED), await buy(system)
        await system.proven()
        await let_the_future_in(databases, *(one["payment_id"] for one in (paid, refused, shipped)))

        proof = await system.prove()
        async with control_room(system, language) as browser:
            room = await browser.get("/")
            flow = await browser.get("/api/flow")
            pages = [await browser.get(f"/payments/{one['payment_id']}") for one in (paid, refused, shipped)]
            documents = [await browser.get(f"/api/payments/{one['id']}") for one in (paid, refused)]

    assert (proof.agrees, proof.lag_events) == (True, 0), broken(proof)
    assert [answer.status_code for answer in (room, flow, *pages, *documents)] == [200] * 7
    for page in (room.text, pages[0].text):
        assert f'{state} <code class="small">contested</code>' in page
        assert "XTS" in page
    for page in (room.text, pages[1].text):
        assert f'{reason} <code class="small">moon_phase</code>' in page
    assert f'{state} <code class="small">shipped</code>' in pages[2].text
    assert flow.json()["payments"] == {"contested": 2, "deferred": 1}
    assert [(one.json()["status"], one.json()["is_complete"]) for one in documents] == [
        ("contested", True), ("deferred", True),
    ]  # fmt: skip


async def test_a_state_without_a_name_that_differs_between_sides_is_a_difference(databases: Databases) -> None:
    async with running_system(databases, *ROLES) as system:
        paid, refused, shipped = await buy(system), await buy(system, REFUSED), await buy(system)
        await system.proven()
        await let_the_future_in(databases, *(one["payment_id"] for one in (paid, refused, shipped)))
        await hurt(
            databases.dsn("statement", "postgres"), "update line set status = 'approved' where status <> 'deferred'"
        )

        proof = await system.prove()
        await system.stop("audit")
        await system.start("audit")
        async with control_room(system) as browser:
            page = await browser.get("/")
            while "Há diferenças" not in page.text:
                page = await browser.get("/now")

    assert broken(proof) == ["statement"]
    assert "no banco situação não reconhecida (contested)" in page.text


async def test_a_currency_that_differs_between_sides_is_a_difference(databases: Databases) -> None:
    async with running_system(databases, *ROLES[:-1]) as system:
        await buy(system)
        await system.proven()
        await hurt(databases.dsn("statement", "postgres"), "update line set currency = 'XTS'")

        proof = await system.prove()

    assert broken(proof) == ["statement"]
    (found,) = (check.differences[0] for check in proof.checks if not check.holds)
    assert "is in BRL at the bank, in XTS on the statement" in found


async def test_what_a_payment_without_a_name_may_hold_is_no_difference_and_more_is(databases: Databases) -> None:
    bank = await databases.connect("bank")
    payment_id = uuid4()
    await hurt(
        databases.dsn("bank", "postgres"),
        "alter table payment drop constraint payment_status_check;"
        "insert into account (account_id, holder_name, currency, limit_minor, used_minor, created_at)"
        f" values ('{payment_id}', 'Ana', 'BRL', 1000, 300, now());"
        "insert into payment (account_id, payment_id, merchant_id, idempotency_key, status, amount_minor, currency,"
        " captured_minor, version, parcelas, description, merchant_name, merchant_category, card_masked, card_brand,"
        f" created_at, updated_at) values ('{payment_id}', '{payment_id}', gen_random_uuid(), 'k', 'held', 300, 'BRL',"
        " 0, 1, 1, '', '', '5462', '', '', now(), now())",
    )
    held = await broken_balances(bank)
    await bank.execute("update account set used_minor = 301")
    more = await broken_balances(bank)

    assert (held, [row["used_minor"] for row in more]) == ([], [301])
    assert await payments_moved_wrongly(bank) == []
    await bank.close()
