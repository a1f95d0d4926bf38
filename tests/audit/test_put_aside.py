"""Events that were put aside, lie under another account's key, or are lost: named by their cause, and no lag."""

from __future__ import annotations

import pytest

from tests.audit.test_control import buy
from tests.audit.test_proof import broken, hurt, names
from tests.conftest import Databases
from tests.system import System, running_system

pytestmark = pytest.mark.anyio
#: The record of the last payment; its account has no later event.
LAST = "from record where headers ->> 'ce_type' = 'codebank.payment.approved' order by appended_at desc limit 1"


async def bought(system: System) -> str:
    """Buy twice, and give the second payment once everything is on the statement."""
    await buy(system)
    payment_id: str = (await buy(system))["payment_id"]
    await system.proven()
    return payment_id


async def put_aside(databases: Databases, payment_id: str) -> None:
    """Leave the statement as its projector would have, had the payment's event been unreadable."""
    log = await databases.connect("log")
    row = await log.fetchrow(f'select partition, "offset", key, value, headers {LAST}')
    assert row is not None
    statement = await databases.connect("statement")
    await statement.execute(
        'insert into dead_letter (topic, partition, "offset", reason, key, value, headers)'
        " values ('codebank.payments', $1, $2, 'no such type', $3, $4, $5)",
        *row.values(),
    )
    await statement.execute("delete from line where payment_id = $1", payment_id)
    await statement.execute(
        "update account set sequence = sequence - 1 where account_id = $1::uuid", row["headers"]["ce_subject"]
    )
    await statement.close()
    await log.close()


async def test_trap_c09_an_event_put_aside_is_named_until_it_is_replayed_and_no_longer(databases: Databases) -> None:
    async with running_system(databases, "bank", "checkout", "relay", "projector") as system:
        payment_id = await bought(system)
        await put_aside(databases, payment_id)
        last = await system.prove()
        # A later event moved the account on; the one put aside is still the only one that is excused.
        await hurt(databases.dsn("statement", "postgres"), "update account set sequence = sequence + 1")
        waiting = await system.prove()
        await hurt(databases.dsn("statement", "postgres"), "update dead_letter set replayed_at = now()")
        replayed = await system.prove()
        await hurt(
            databases.dsn("statement", "postgres"), "update dead_letter set replayed_at = null; delete from line"
        )
        two_missing = await system.prove()

    assert (last.lag_events, names(last)) == (0, set())
    assert (broken(waiting), names(waiting)) == (["statement"], {"put_aside"})
    assert (broken(replayed), names(replayed)) == (["statement"], {"missing"})
    assert names(two_missing) == {"put_aside", "missing"}


async def test_an_event_under_another_accounts_key_is_named_and_no_gap_without_end(databases: Databases) -> None:
    async with running_system(databases, "bank", "checkout", "relay", "projector") as system:
        payment_id = await bought(system)
        await put_aside(databases, payment_id)
        await hurt(
            databases.dsn("log", "postgres"),
            "update record set key = convert_to(gen_random_uuid()::text, 'utf8')"
            f' where (partition, "offset") = (select partition, "offset" {LAST})',
        )
        on_file = await system.prove()
        await hurt(databases.dsn("statement", "postgres"), "delete from dead_letter")
        lost = await system.prove()

    assert (on_file.lag_events, broken(on_file), names(on_file)) == (0, ["log"], {"misfiled", "put_aside"})
    # Nobody has it on file: then it is a loss, and still no lag.
    assert (lost.lag_events, names(lost)) == (0, {"misfiled", "numbers", "changes"})


async def test_a_number_of_the_future_in_a_strangers_headers_excuses_nothing(databases: Databases) -> None:
    async with running_system(databases, "bank", "checkout", "relay", "projector") as system:
        await bought(system)
        await hurt(
            databases.dsn("statement", "postgres"),
            'insert into dead_letter (topic, partition, "offset", reason, key, value, headers)'
            " select 'codebank.payments', 0, 900 + row_number() over (), 'no JSON', '', '', jsonb_build_object("
            " 'ce_subject', account_id, 'ce_sequence', case number when 1 then '999' else 'nine' end)"
            " from account, generate_series(1, 2) as number",
        )

        proof = await system.prove()

    assert (proof.agrees, proof.lag_events) == (True, 0)


async def test_an_outbox_row_that_cannot_be_read_is_named(databases: Databases) -> None:
    async with running_system(databases, "bank", "checkout") as system:
        await buy(system)
        await hurt(
            databases.dsn("bank", "postgres"), "update outbox set value = 'no JSON' where type like '%.approved'"
        )

        proof = await system.prove()

    assert "malformed" in names(proof)
