"""The proof finds every kind of difference, and none where there is only lag."""

from __future__ import annotations

import asyncio
import re

import pytest

from codebank.audit.proof.reconcile import Proof
from codebank.bank.test_cards import TEST_CARDS
from tests.checkout.shop import card_body
from tests.conftest import Databases
from tests.system import System, running_system

pytestmark = pytest.mark.anyio
MIXED = [card.number for card in TEST_CARDS if card.behaviour == "plain"]


async def shop_around(system: System, count: int) -> None:
    """Buy with cards of every outcome."""
    async with system.shop() as shop:

        async def buy(number: int) -> None:
            card = TEST_CARDS[number % len(MIXED)] if number % 3 else TEST_CARDS[0]
            body = {
                "items": [{"product": "cafe-especial", "quantity": 1 + number % 3}],
                "card": card_body(card.number, cvv=card.cvv),
            }
            answer = await shop.post("/api/orders", json=body, headers={"idempotency-key": f"k{number}"})
            assert answer.status_code == 201, answer.text

        for start in range(0, count, 20):
            await asyncio.gather(*(buy(number) for number in range(start, min(start + 20, count))))


def broken(proof: Proof) -> list[str]:
    return [check.name for check in proof.checks if not check.holds]


def names(proof: Proof) -> set[str]:
    return {difference.name for check in proof.checks for difference in check.differences}


async def test_all_sides_agree_after_payments_of_every_outcome(databases: Databases) -> None:
    async with running_system(databases) as system:
        await shop_around(system, 120)

        proof = await system.proven()

    assert proof.agrees
    assert {check.name: check.compared for check in proof.checks}["statement"] == 120
    assert all(check.compared > 0 for check in proof.checks)


async def test_what_is_on_its_way_is_lag_and_no_difference(databases: Databases) -> None:
    async with running_system(databases, "bank", "checkout", "relay", "projector") as system:
        await shop_around(system, 10)
        await system.proven()
        await system.stop("projector")
        await shop_around_more(system, 10)
        without_projector = await system.prove()
        await system.stop("relay")
        await shop_around_more(system, 20)
        without_relay = await system.prove()

    assert without_projector.agrees
    assert without_relay.agrees
    assert 0 < without_projector.lag_events < without_relay.lag_events


async def shop_around_more(system: System, first: int) -> None:
    async with system.shop() as shop:
        for number in range(first, first + 10):
            body = {"items": [{"product": "cafe-especial", "quantity": 1}], "card": card_body()}
            await shop.post("/api/orders", json=body, headers={"idempotency-key": f"m{number}"})


async def test_under_load_the_proof_never_cries_wolf(databases: Databases) -> None:
    async with running_system(databases) as system:
        shopping = asyncio.create_task(shop_around(system, 200))
        proofs = []
        while not shopping.done():
            proofs.append(await system.prove())
        await shopping
        proofs.append(await system.proven())

    assert [broken(proof) for proof in proofs if not proof.agrees] == []
    assert len(proofs) > 2


HARM = [
    ("statement", "delete from line where payment_id = (select min(payment_id::text)::uuid from line)", ["statement"]),
    ("statement", "update line set amount_minor = amount_minor + 1 where status = 'approved'", ["statement"]),
    ("statement", "update line set status = 'approved', decline_code = null where status = 'declined'", ["statement"]),
    ("bank", "update account set used_minor = used_minor + 1 where used_minor > 0", ["used"]),
    ("bank", "update entry set amount_minor = amount_minor + 1", ["used", "moved", "chain"]),
    ("bank", "delete from entry", ["used", "moved", "chain"]),
    ("bank", "update entry set created_at = created_at + interval '1 second'", ["chain"]),
    ("bank", "update payment set amount_minor = amount_minor + 1, captured_minor = amount_minor + 1"
     " where status = 'approved'", ["moved", "events", "orders"]),
    ("bank", "update payment set captured_minor = amount_minor - 1 where status = 'approved'", ["moved", "events"]),
    ("bank", "update payment set version = 3 where status = 'approved'", ["events"]),
    ("bank", "update payment set version = 1, captured_minor = amount_minor where status = 'declined'",
     ["moved", "events"]),
    ("bank", "delete from payment where status = 'approved'", ["balance", "events", "orders", "keys"]),
    ("bank", "delete from idempotency_key", ["keys"]),
    ("bank", "update idempotency_key set payment_id = gen_random_uuid() where payment_id is not null", ["keys"]),
    ("bank", "update idempotency_key set request_hash = sha256(request_hash)", ["events"]),
    ("bank", "update idempotency_key set hash_version = 2 where payment_id is not null", ["events"]),
    ("log", "delete from record where \"offset\" = 30 and partition = 6", ["events", "log"]),
    ("log", "insert into record select topic, partition, \"offset\" + 9999, key, value, headers from record", ["log"]),
    ("statement", "update line set account_id = gen_random_uuid() where status = 'approved'", ["statement"]),
    ("checkout", "delete from order_line; delete from orders where status = 'paid'", ["orders"]),
    ("checkout", "update orders set status = 'cancelled' where status = 'paid'", ["orders"]),
    ("checkout", "update orders set total_minor = total_minor + 1 where status = 'paid'", ["orders"]),
    ("checkout", "update orders set status = 'paid', decline_code = null, payment_id = gen_random_uuid()"
     " where status = 'declined'", ["orders"]),
]  # fmt: skip


@pytest.mark.parametrize(("database", "harm", "expected"), HARM, ids=lambda value: str(value)[:40])
async def test_every_harm_is_found_and_named(
    databases: Databases, database: str, harm: str, expected: list[str]
) -> None:
    async with running_system(databases, "bank", "checkout", "relay", "projector") as system:
        await shop_around(system, 40)
        await system.proven()
        keeper_dsn = databases.dsn(database, "postgres")
        await hurt(keeper_dsn, harm)

        proof = await system.prove()

    assert not proof.agrees
    assert set(expected) <= set(broken(proof))
    for check in proof.checks:
        assert all(re.search(r"\d", difference) for difference in check.differences)


@pytest.mark.parametrize(("moved", "name"), [("value, headers", "misfiled"), ("value, headers, key", "astray")])
async def test_an_event_away_from_the_others_of_its_account_is_named(
    databases: Databases, moved: str, name: str
) -> None:
    changes = ", ".join(f"{column} = other.{column}" for column in moved.split(", "))
    async with running_system(databases, "bank", "checkout", "relay", "projector") as system:
        await shop_around(system, 40)
        await system.proven()
        await hurt(
            databases.dsn("log", "postgres"),
            f"update record mine set {changes} from record other"
            ' where mine.partition = 6 and mine."offset" = 30 and other.partition <> 6 and other."offset" = 0',
        )

        proof = await system.prove()

    assert name in names(proof)
    assert {"events", "log"} <= set(broken(proof))


async def hurt(dsn: str, sql: str) -> None:
    """Change something by hand, as no program of ours could."""
    from codebank.runtime.postgres.pool import connect

    connection = await connect(dsn)
    await connection.execute("set session_replication_role = replica")
    await connection.execute(sql)
    await connection.close()


async def test_the_reader_can_change_nothing(databases: Databases) -> None:
    from codebank.runtime.postgres.pool import connect

    for database in databases.names:
        connection = await connect(databases.dsn(database, "audit"))
        with pytest.raises(Exception, match="permission denied"):
            await connection.execute("delete from migration")
        await connection.close()


async def test_the_control_room_shows_the_flow_and_a_dead_part(databases: Databases) -> None:
    async with running_system(databases) as system:
        await shop_around(system, 5)
        await system.proven()
        home = system.settings.audit_home().replace("localhost", "127.0.0.1")
        import httpx

        async with httpx.AsyncClient(base_url=home) as browser:
            page, part = await browser.get("/"), await browser.get("/now")
            flow = (await browser.get("/api/flow")).json()
            proof = (await browser.get("/api/proof")).json()

    assert page.status_code == part.status_code == 200
    assert part.text.strip().startswith('<div id="now"')
    assert flow["lines"] == sum(flow["payments"].values()) == sum(flow["orders"].values()) == 5
    assert len(flow["log"]["partitions"]) == 12
    assert proof["agrees"] is True
    # Its health ports are not open in this test: every role is shown as dead, and nothing breaks.
    assert set(flow["roles"].values()) == {False}
    assert 'class="node dead"' in page.text
