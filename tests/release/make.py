"""Makes tests/data and tests/skew/recorded anew from the release before: `python -m tests.release.make`.

Runs its `codebank up` on a folder of its own, buys and calls as merchants and operators do, stops its parts one after
the other so that something is left at every step, and writes down what there is. Takes half a minute.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from codebank.bank.test_cards import TEST_CARDS, Behaviour, TestCard
from codebank.eventlog.local.log import LocalLog
from codebank.eventlog.log import NewRecord
from codebank.events import PAYMENTS_TOPIC
from codebank.runtime.postgres.pool import open_pool
from codebank.settings import DATABASES, Settings
from tests.checkout.shop import fill_basket, payment_form
from tests.release import code_before, run_code, start, understood
from tests.release.state import KEPT, keep
from tests.skew import CALLS, EVENTS, Call, Messages
from tests.skew.caller import Caller, calling
from tests.system import CODEBANK, children, own_environment

_DESCRIPTOR = """
import base64
from codebank.v1 import bank_pb2
print(base64.b64encode(bank_pb2.DESCRIPTOR.serialized_pb).decode())
"""


def published(outcome: str) -> TestCard:
    return next(card for card in TEST_CARDS if card.outcome == outcome)


def charge(key: str, card: TestCard, amount_minor: int = 1290, **changes: Any) -> dict[str, Any]:
    data = {
        "number": card.number,
        "expiryMonth": card.expiry_month,
        "expiryYear": card.expiry_year,
        "cvv": card.cvv,
    }
    amount = {"amountMinor": str(amount_minor), "currency": "BRL"}
    return {"cardData": data, "amount": amount, "description": "café", "idempotencyKey": key, **changes}


@dataclass
class Recorder:
    """Makes calls and keeps them."""

    caller: Caller
    calls: list[Call] = field(default_factory=list)

    async def say(self, rpc: str, caller: str, request: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(await self.caller.call(rpc, caller, request))
        return dict(self.calls[-1].answer or {})


async def charge_published_cards(recorder: Recorder) -> None:
    for number, card in enumerate(TEST_CARDS):
        if card.behaviour is Behaviour.PLAIN:
            await recorder.say("Authorize", "merchant", charge(f"{card.outcome}-{number}", card))
    approved, refused = published("approved"), published("limit_exceeded")
    await recorder.say("Authorize", "merchant", charge("in parcelas", approved, 120_000, parcelas=12))
    first = await recorder.say("Authorize", "merchant", charge("repeated", approved))
    await recorder.say("Authorize", "merchant", charge("repeated", approved))
    await recorder.say("Authorize", "merchant", charge("repeated", approved, 1291))
    await recorder.say("GetPayment", "merchant", {"idempotencyKey": "repeated"})
    await recorder.say("GetPayment", "merchant", {"paymentId": first["payment"]["paymentId"]})
    await recorder.say("GetPayment", "merchant", {"idempotencyKey": "never charged"})
    several = [charge("streamed 1", approved), charge("streamed 2", refused), charge("repeated", approved)]
    await recorder.say("AuthorizeStream", "merchant", {"requests": several})


async def cancel_keys(recorder: Recorder) -> None:
    approved = published("approved")
    await recorder.say("Authorize", "merchant", charge("given back", approved))
    for key in ("given back", "given back", "never seen", "never seen", "limit_exceeded-12"):
        await recorder.say("Cancel", "merchant", {"idempotencyKey": key})
    for key in ("given back", "never seen"):
        await recorder.say("Authorize", "merchant", charge(key, approved))
        await recorder.say("GetPayment", "merchant", {"idempotencyKey": key})


async def use_an_issued_card(recorder: Recorder) -> str:
    """Let one account have every kind of event, and give its id."""
    new = {"holderName": "Rui Dias", "limit": {"amountMinor": "50000", "currency": "BRL"}}
    issued = await recorder.say("IssueCard", "operator", {"newAccount": new, "idempotencyKey": "issue 1"})
    card = issued["card"]
    of_card = {"cardId": card["cardId"]}
    await recorder.say("IssueCard", "operator", {"newAccount": new, "idempotencyKey": "issue 1"})
    second = {"accountId": card["accountId"], "idempotencyKey": "issue 2"}
    await recorder.say("IssueCard", "operator", second)
    mine = TestCard(
        number=issued["number"],
        outcome="approved",
        expiry_month=card["expiryMonth"],
        expiry_year=card["expiryYear"],
        cvv=issued["cvv"],
    )
    by_token = {name: value for name, value in charge("by token", mine).items() if name != "cardData"}
    await recorder.say("Authorize", "merchant", charge("issued", mine))
    await recorder.say("Authorize", "merchant", by_token | {"cardToken": card["token"]})
    await recorder.say("Authorize", "merchant", charge("above the limit", mine, 60_000))
    await recorder.say("Cancel", "merchant", {"idempotencyKey": "issued"})
    await recorder.say("BlockCard", "operator", of_card | {"reason": "REASON_BLOCKED"})
    await recorder.say("Authorize", "merchant", charge("blocked", mine))
    await recorder.say("UnblockCard", "operator", of_card)
    await recorder.say("Authorize", "merchant", charge("unblocked", mine))
    await recorder.say("BlockCard", "operator", of_card | {"reason": "REASON_STOLEN"})
    await recorder.say("UnblockCard", "operator", of_card)
    await recorder.say("GetCard", "operator", of_card)
    return str(card["accountId"])


async def ask_wrongly(recorder: Recorder) -> None:
    approved = published("approved")
    wrong = charge("", approved, -1) | {"cardData": {"number": "1", "cvv": "x"}, "parcelas": 13}
    await recorder.say("Authorize", "merchant", wrong)
    await recorder.say("Authorize", "nobody", charge("k", approved))
    await recorder.say("Cancel", "merchant", {})
    await recorder.say("GetPayment", "merchant", {"paymentId": "no id"})
    await recorder.say("GetCard", "merchant", {"cardId": "01900000-0000-7000-8000-0000000000ff"})
    await recorder.say("GetCard", "operator", {"cardId": "01900000-0000-7000-8000-0000000000ff"})
    await recorder.say("IssueCard", "operator", {"idempotencyKey": "issue 3"})
    await recorder.say("BlockCard", "operator", {"cardId": "01900000-0000-7000-8000-0000000000ff"})


@dataclass
class Running:
    """The release before, at work."""

    settings: Settings
    environment: dict[str, str]
    orders: dict[str, Any] = field(default_factory=dict)

    async def buy(self, name: str, card: TestCard, **changes: Any) -> None:
        """Order something at the shop and keep the order under a name."""
        body = {"items": [{"product": "cafe-especial", "quantity": 1}], "card": card.body, **changes}
        async with httpx.AsyncClient(base_url=self.settings.checkout_home(), timeout=30) as shop:
            answer = await shop.post("/api/orders", json=body, headers={"idempotency-key": name})
        self.orders[name] = answer.raise_for_status().json()

    async def buy_on_the_page(self, name: str, number: str) -> None:
        """Order something as a person does; only the same browser sees the order's page."""
        async with httpx.AsyncClient(base_url=self.settings.checkout_home(), timeout=30) as browser:
            await fill_basket(browser)
            sent = await browser.post("/payment", data=await payment_form(browser, number))
            order = await browser.get(f"/api{sent.headers['location']}")
            self.orders[name] = order.raise_for_status().json() | {"basket": browser.cookies["basket"]}

    def freeze(self, role: str) -> None:
        """Let a role do nothing more."""
        for pid in children(self.settings.state, role):
            os.kill(pid, signal.SIGSTOP)

    async def until(self, database: str, question: str, *values: object) -> None:
        """Wait until a database answers yes."""
        connection = await asyncpg.connect(self.settings.database_url(database))
        await _until(lambda: connection.fetchval(question, *values))
        await connection.close()

    def prove(self) -> None:
        """Have the release before prove itself."""
        own = {**self.environment, "PYTHONPATH": str(code_before())}
        subprocess.run([*CODEBANK, "proof"], env=own, check=True)


async def _until(ask: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(30):
        while not await ask():
            await asyncio.sleep(0.05)


@contextlib.contextmanager
def system_before() -> Iterator[Running]:
    """Run `codebank up` of the release before on a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="codebank-state-"))
    folder.chmod(0o711)
    said = folder / "said"
    environment = understood(code_before(), own_environment(folder / "state", call_budget_seconds=2))
    system = start(code_before(), ("up",), environment, said)
    try:
        while "Ctrl-C stops it." not in said.read_text():
            assert system.poll() is None, said.read_text()
            time.sleep(0.1)
        known = {name: value for name, value in environment.items() if name.startswith("CODEBANK_")}
        yield Running(Settings.load(known), environment)
    finally:
        for role in ("bank", "relay", "projector"):
            for pid in children(folder / "state", role):
                os.kill(pid, signal.SIGCONT)
        system.send_signal(signal.SIGINT)
        system.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


async def leave_something_at_every_step(system: Running) -> None:
    """Put a record nobody can read on the log; then stop its parts, the last first, and go on buying."""
    approved, refused = published("approved"), published("limit_exceeded")
    await system.buy("paid", approved)
    await system.buy("declined", refused)
    await system.buy("in parcelas", approved, parcelas=6)
    await system.buy_on_the_page("paid on the page", approved.number)
    await system.buy_on_the_page("declined on the page", refused.number)
    dsn = system.settings.database_url("log")
    pool = await open_pool(dsn, max_size=1)
    writer = await LocalLog(pool, dsn).open_writer(PAYMENTS_TOPIC)
    await writer.append([NewRecord(b"nobody", b"nothing that a reader knows", {"ce_type": "another.program"})])
    await pool.close()
    await system.until("statement", "select exists (select from dead_letter where shipped_at is not null)")
    await system.buy("after the letter", approved)
    await system.until("bank", "select not exists (select from outbox)")
    system.prove()

    system.freeze("projector")
    await system.buy("not on the statement", approved)
    await system.until("bank", "select not exists (select from outbox)")
    system.freeze("relay")
    await system.buy("not on the log", approved)
    before = await asyncpg.connect(system.settings.database_url("bank"))
    count = await before.fetchval("select count(*) from payment")
    await before.close()
    unanswered = asyncio.create_task(system.buy("unanswered", published("timeout_after_commit")))
    await system.until("bank", "select count(*) > $1 from payment", count)
    system.freeze("bank")
    await unanswered
    await system.buy("unseen", approved)


async def events_of(settings: Settings, account_id: str) -> list[dict[str, Any]]:
    """Read an account's events as they are on the log."""
    log = await asyncpg.connect(settings.database_url("log"))
    rows = await log.fetch(
        'select key, headers, value from record where topic = $1 and key = $2 order by "offset"',
        PAYMENTS_TOPIC,
        account_id.encode(),
    )
    await log.close()
    return [
        {"key": row["key"].decode(), "headers": json.loads(row["headers"]), "value": row["value"].decode()}
        for row in rows
    ]


async def record(system: Running, messages: Messages) -> tuple[list[Call], str]:
    """Make every kind of call; give them, and the account that had every kind of event."""
    secrets = json.loads((system.settings.state / "secrets.json").read_text())
    keys = {"merchant": secrets["merchant_key"], "operator": secrets["operator_key"]}
    async with calling(system.settings.bank_target(), messages, keys) as caller:
        recorder = Recorder(caller)
        await charge_published_cards(recorder)
        await cancel_keys(recorder)
        account_id = await use_an_issued_card(recorder)
        await ask_wrongly(recorder)
    return recorder.calls, account_id


async def make(system: Running, descriptor: str) -> None:
    """Write everything down."""
    made, account_id = await record(system, Messages(base64.b64decode(descriptor)))
    await leave_something_at_every_step(system)
    KEPT.parent.mkdir(exist_ok=True)
    owners = {database: system.settings.database_url(database) for database in DATABASES}
    await keep(system.settings.state, owners, system.orders)
    events = await events_of(system.settings, account_id)
    calls = [{name: value for name, value in asdict(call).items() if value is not None} for call in made]
    _write(CALLS, {"descriptor": descriptor, "calls": calls})
    _write(EVENTS, events)
    sys.stderr.write(f"{len(calls)} calls, {len(events)} events, {KEPT.stat().st_size} bytes of state\n")


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    of_its_messages = run_code(code_before(), _DESCRIPTOR).strip()
    with system_before() as it:
        asyncio.run(make(it, of_its_messages))
