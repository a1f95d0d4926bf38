"""A system that a newer bank has written into: values without a name here in every open field, on every side."""

from __future__ import annotations

import json
from typing import Any

from tests.audit.test_proof import hurt
from tests.conftest import Databases

#: Every constraint that says which values a column may have.
_OPEN = """do $$ declare one record; begin
    for one in select conrelid::regclass as of_table, conname from pg_constraint
               where contype = 'c' and connamespace = 'public'::regnamespace loop
        execute format('alter table %s drop constraint %I', one.of_table, one.conname);
    end loop;
end $$;"""


async def let_the_future_in(databases: Databases, paid: str, refused: str, shipped: str) -> None:
    """Give payments, all accounts and cards, and one order states, codes and a currency of a newer bank."""
    contested = f"('{paid}', '{shipped}')"
    await hurt(
        databases.dsn("bank", "postgres"),
        f"{_OPEN} alter table payment add column contested_minor bigint default 7;"
        " alter table account add column mood text default 'calm';"
        " update account set status = 'frozen', currency = 'XTS' where kind = 'cardholder';"
        " update card set status = 'melted';"
        " update payment set status = 'contested', currency = 'XTS', version = 1, captured_minor = amount_minor"
        f" where payment_id in {contested};"
        " update payment set status = 'deferred', decline_code = 'moon_phase', version = 1, captured_minor = 0"
        f" where payment_id = '{refused}'",
    )
    await hurt(
        databases.dsn("statement", "postgres"),
        f"{_OPEN} update line set status = 'contested', currency = 'XTS' where payment_id in {contested};"
        f" update line set status = 'deferred', decline_code = 'moon_phase' where payment_id = '{refused}';"
        " update account set status = 'frozen', currency = 'XTS'",
    )
    await hurt(
        databases.dsn("checkout", "postgres"),
        f"{_OPEN} update orders set status = 'shipped', currency = 'XTS' where payment_id = '{shipped}'",
    )
    await _rewrite_the_log(
        databases, {paid: ("contested", None), shipped: ("contested", None), refused: ("deferred", "moon_phase")}
    )


async def _rewrite_the_log(databases: Databases, states: dict[str, tuple[str, str | None]]) -> None:
    log = await databases.connect("log")
    for row in await log.fetch('select topic, partition, "offset", value, headers from record'):
        event: dict[str, Any] = json.loads(row["value"])
        headers = dict(row["headers"]) | {"ce_weather": "fair"}
        payment = event.get("payment")
        if payment is None:
            event["type"] = headers["ce_type"] = event["type"].replace("opened", "aged").replace("issued", "engraved")
        elif payment["payment_id"] in states:
            payment["status"], payment["decline_code"] = states[payment["payment_id"]]
            payment |= {"version": 1, "captured_minor": 0 if payment["decline_code"] else payment["amount_minor"]}
            payment |= {"currency": "BRL" if payment["decline_code"] else "XTS", "contested_minor": 7}
            event["type"] = headers["ce_type"] = f"codebank.payment.{payment['status']}"
        event |= {"mood": "calm"}
        await log.execute(
            'update record set value = $4, headers = $5 where (topic, partition, "offset") = ($1, $2, $3)',
            *(row["topic"], row["partition"], row["offset"], json.dumps(event).encode(), headers),
        )
    await log.close()
