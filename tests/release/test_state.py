"""A state folder of the release before, opened by this one's `codebank up`: it migrates, and everything goes on."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from codebank.bank.test_cards import TEST_CARDS
from codebank.operate.demo import DEMO_EMAIL, DEMO_PASSWORD
from codebank.runtime.postgres.migrate import migrations_of
from codebank.settings import DATABASES, Settings
from tests.release import THIS, start
from tests.release.state import kept_orders, lay_out
from tests.skew import Call, recorded_calls
from tests.skew.caller import Caller, calling
from tests.system import CODEBANK, own_environment
from tests.test_migrations import RELEASED

pytestmark = pytest.mark.anyio
MESSAGES, CALLS = recorded_calls()
ORDERS = kept_orders()
#: What the release before gave back, and what it closed before it came.
GIVEN_BACK, CLOSED = {"given back", "issued"}, {"never seen"}


@dataclass(frozen=True)
class Opened:
    """The system on the state of the release before."""

    settings: Settings
    environment: dict[str, str]
    #: What `up` said until it ran.
    said: str

    async def ask(self, database: str, question: str, *values: object) -> Any:
        """Ask a database one thing."""
        connection = await asyncpg.connect(self.settings.database_url(database))
        try:
            return await connection.fetchval(question, *values)
        finally:
            await connection.close()

    async def until(self, database: str, question: str, *values: object) -> None:
        """Wait until a database says yes."""
        async with asyncio.timeout(20):
            while not await self.ask(database, question, *values):
                await asyncio.sleep(0.05)

    def caller(self) -> Any:
        """Call the bank as the release before's clients did."""
        kept = json.loads((self.settings.state / "secrets.json").read_text())
        keys = {"merchant": kept["merchant_key"], "operator": kept["operator_key"]}
        return calling(self.settings.bank_target(), MESSAGES, keys)


def browsing(home: str) -> httpx.AsyncClient:
    """Give a browser of one of its sites."""
    return httpx.AsyncClient(base_url=home.replace("localhost", "127.0.0.1"), timeout=15)


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    folder = Path(tempfile.mkdtemp(prefix="codebank-test-"))
    folder.chmod(0o711)
    state, said = folder / "state", folder / "said"
    asyncio.run(lay_out(state))
    environment = own_environment(state)
    system = start(THIS, ("up",), environment, said)
    try:
        deadline = time.monotonic() + 40
        while "Ctrl-C stops it." not in said.read_text():
            assert system.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.05)
        known = {name: value for name, value in environment.items() if name.startswith("CODEBANK_")}
        yield Opened(Settings.load(known), environment, said.read_text())
    finally:
        system.send_signal(signal.SIGINT)
        system.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


async def test_it_is_migrated_by_what_came_since_and_nothing_else(opened: Opened) -> None:
    since = {
        database: [item.name for item in migrations_of(database) if (database, item.name) not in RELEASED]
        for database in DATABASES
    }

    migrated = dict(re.findall(r"migrated (\w+): (.+)", opened.said))

    assert migrated == {database: ", ".join(names) for database, names in since.items() if names}


async def test_orders_whose_answer_was_lost_end_as_the_bank_says(opened: Opened) -> None:
    await opened.until("checkout", "select not exists (select from orders where settled_at is null)")

    ended = {
        name: await opened.ask("checkout", "select status from orders where order_id = $1", order["id"])
        for name, order in ORDERS.items()
    }

    assert ended == {
        "paid": "paid",
        "declined": "declined",
        "in parcelas": "paid",
        "paid on the page": "paid",
        "declined on the page": "declined",
        "after the letter": "paid",
        "not on the statement": "paid",
        "not on the log": "paid",
        "unanswered": "paid",
        "unseen": "cancelled",
    }


async def test_events_that_were_left_behind_arrive_and_the_proof_agrees(opened: Opened) -> None:
    await opened.until("checkout", "select not exists (select from orders where settled_at is null)")
    await opened.until("bank", "select not exists (select from outbox)")
    last = await opened.ask("bank", "select sum(sequence) from account")
    await opened.until("statement", "select sum(sequence) = $1 from account", last)

    async with browsing(opened.settings.audit_home()) as room:
        journeys = {name: (await room.get(f"/api/payments/{order['id']}")).json() for name, order in ORDERS.items()}
    proof = await asyncio.create_subprocess_exec(
        *CODEBANK, "proof", "--json", env=opened.environment, stdout=asyncio.subprocess.PIPE
    )
    told = json.loads((await proof.communicate())[0])

    assert [name for name, journey in journeys.items() if not journey["is_complete"]] == []
    assert (proof.returncode, told["agrees"], told["lag_events"]) == (0, True, 0)
    assert {check["name"]: check["compared"] for check in told["checks"]}["moved"] >= 36


async def test_every_page_shows_what_was_there(opened: Opened) -> None:
    settings = opened.settings
    on_the_page = [order for order in ORDERS.values() if "basket" in order]
    async with browsing(settings.statement_home()) as statement:
        person = {"email": DEMO_EMAIL, "password": DEMO_PASSWORD}
        assert (await statement.post("/api/sessions", json=person)).status_code == 201
        lines = [await statement.get(path) for path in ("/", "/statement.csv", "/?status=declined", "/api/accounts")]
    async with browsing(settings.audit_home()) as room:
        journeys = [await room.get(f"/payments/{order['id']}") for order in ORDERS.values()]
        flow = [await room.get(path) for path in ("/", "/now", "/api/flow", "/api/proof")]
    async with browsing(settings.checkout_home()) as shop:
        rest = [await shop.get(f"/api/orders/{order['id']}") for order in ORDERS.values()]
        shop.cookies.set("basket", on_the_page[0]["basket"])
        paid = await shop.get(f"/orders/{on_the_page[0]['id']}")
        shop.cookies.set("basket", on_the_page[1]["basket"])
        refused = await shop.get(f"/orders/{on_the_page[1]['id']}/status")

    pages = [*lines, *journeys, *flow, *rest, paid, refused]
    assert [(str(page.url), page.status_code) for page in pages if page.status_code != 200] == []
    assert "Banco aprovou" in paid.text
    assert "Banco recusou" in refused.text
    assert ORDERS["paid"]["card"]["masked"] in lines[0].text


def first_answers() -> dict[str, Call]:
    """Give the first answer to each key, of those that were charged or refused."""
    first: dict[str, Call] = {}
    for call in CALLS:
        if call.rpc == "Authorize" and call.answer:
            first.setdefault(call.request["idempotencyKey"], call)
    return first


async def test_a_key_that_was_used_gives_its_first_answer(opened: Opened) -> None:
    async with opened.caller() as bank:
        for key, call in first_answers().items():
            again = await repeated(bank, call)
            if key in CLOSED:
                assert again["payment"]["declineCode"] == "DECLINE_CODE_CANCELLED_KEY"
                assert "paymentId" not in again["payment"]
            elif key in GIVEN_BACK:
                assert (again["replayed"], again["payment"]["status"]) == (True, "PAYMENT_STATUS_REFUNDED")
                assert again["payment"]["paymentId"] == (call.answer or {})["payment"]["paymentId"]
            else:
                assert again == {**(call.answer or {}), "replayed": True}


async def test_a_key_that_was_used_for_something_else_is_still_taken(opened: Opened) -> None:
    reused = next(call for call in CALLS if (call.refusal or {}).get("reason") == "KEY_REUSED")

    async with opened.caller() as bank:
        again = await bank.call(reused.rpc, reused.caller, reused.request)

    assert again.refusal == reused.refusal


async def test_a_card_that_was_issued_is_the_same_without_its_number(opened: Opened) -> None:
    issued, shown = (
        next(call for call in CALLS if call.rpc == rpc and call.answer) for rpc in ("IssueCard", "GetCard")
    )

    async with opened.caller() as bank:
        again = await repeated(bank, issued)
        now = await repeated(bank, shown)

    assert again["card"]["cardId"] == (issued.answer or {})["card"]["cardId"]
    assert "number" not in again
    assert now["card"] == (shown.answer or {})["card"]
    assert now["card"]["status"] == "CARD_STATUS_STOLEN"


async def repeated(bank: Caller, call: Call) -> dict[str, Any]:
    again = await bank.call(call.rpc, call.caller, call.request)
    assert again.refusal is None, (call.request, again.refusal)
    return dict(again.answer or {})


async def test_one_buys_as_before(opened: Opened) -> None:
    body = {"items": [{"product": "cafe-especial", "quantity": 2}], "card": TEST_CARDS[0].body}
    async with httpx.AsyncClient(base_url=opened.settings.checkout_home(), timeout=20) as shop:
        bought = await shop.post("/api/orders", json=body, headers={"idempotency-key": "after the migration"})
        again = await shop.post("/api/orders", json=body, headers={"idempotency-key": "paid"})

    assert (bought.status_code, bought.json()["status"]) == (201, "paid")
    await opened.until(
        "statement", "select exists (select from line where payment_id = $1)", bought.json()["payment_id"]
    )
    # The shop's own key of before: the basket differs, so it is refused and nothing is bought.
    assert again.status_code == 409
