"""Both releases at work on one database, as while a new one is rolled out: nothing is charged twice, nothing forgotten.

Spoken to over gRPC and looked at by SQL only, so that it says what must hold and not how either keeps it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import httpx
import pytest

from codebank.audit.proof.prove import prove_once
from codebank.audit.proof.reconcile import Proof
from codebank.bank.card.attempts import WRONG_ATTEMPTS_MAX
from codebank.events import PAYMENTS_TOPIC, PaymentEvent
from codebank.machine.postgres import EmbeddedPostgres
from codebank.machine.unprivileged import make_folder
from codebank.operate.demo import seed_all
from codebank.roles import migrate_all
from codebank.runtime.postgres.provision import prepare_databases
from codebank.settings import DATABASES, READER_ROLE, Settings
from codebank.v1 import bank_pb2 as pb
from codebank.wire import decode_event
from tests.bank import MERCHANT, OPERATOR, calling, charge, charge_issued, published
from tests.conftest import TEST_MERCHANT_KEY, TEST_OPERATOR_KEY, TEST_VAULT_KEY
from tests.release import THIS, code_before, running, understood
from tests.system import CODEBANK, own_environment

pytestmark = pytest.mark.anyio
#: What may be asked again with the same key, as every client must.
MAY_HEAL = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
GIVEN_BACK = (pb.PAYMENT_STATUS_REFUNDED, pb.DECLINE_CODE_UNSPECIFIED)
CLOSED = (pb.PAYMENT_STATUS_DECLINED, pb.DECLINE_CODE_CANCELLED_KEY)
DECLINED = (pb.PAYMENT_STATUS_DECLINED, pb.DECLINE_CODE_LIMIT_EXCEEDED)


@dataclass(frozen=True)
class Both:
    """Two banks of two releases on one database."""

    settings: Settings
    #: Environments for roles of each release, with ports of their own.
    before: Mapping[str, str]
    now: Mapping[str, str]
    #: Stubs of the banks: the release before's, and this one's.
    banks: tuple[Any, Any]

    async def rows(self, question: str, *values: object) -> list[asyncpg.Record]:
        """Ask the bank's database."""
        bank = await asyncpg.connect(self.settings.database_url("bank"))
        try:
            return await bank.fetch(question, *values)
        finally:
            await bank.close()

    async def prove(self) -> Proof:
        """Prove as this release does."""
        return await prove_once(self.settings)


@pytest.fixture(scope="module")
async def both() -> AsyncIterator[Both]:
    released = code_before()
    folder = Path(tempfile.mkdtemp(prefix="codebank-test-"))
    folder.chmod(0o711)  # noqa: ASYNC240
    make_folder(folder / "state")
    own = {
        "vault_key": TEST_VAULT_KEY,
        "operator_key": TEST_OPERATOR_KEY,
        "merchant_key": TEST_MERCHANT_KEY,
        "web_secret": "web-secret-of-the-tests",
        "test_cards": "on",
        "member_timeout_seconds": 1,
    }
    before, now = (own_environment(folder / "state", **own) for _ in range(2))
    before = understood(released, before)
    settings = Settings.load({name: value for name, value in now.items() if name.startswith("CODEBANK_")})
    server = EmbeddedPostgres(folder / "state" / "postgres", durable=False)
    server.start()
    try:
        await prepare_databases(server.dsn("postgres", "postgres"), list(DATABASES), READER_ROLE)
        await migrate_all(settings)
        await seed_all(settings)
        async with contextlib.AsyncExitStack() as stack:
            started = (running(released, "bank", before), running(THIS, "bank", now))
            await asyncio.gather(*map(stack.enter_async_context, started))
            addresses = [f"127.0.0.1:{environment['CODEBANK_BANK_PORT']}" for environment in (before, now)]
            stubs = [await stack.enter_async_context(calling(address)) for address in addresses]
            yield Both(settings, before, now, (stubs[0], stubs[1]))
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def insist(call: Callable[[], Awaitable[Any]]) -> Any:
    """Make a call, and make it again while it may heal."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() not in MAY_HEAL:
                    raise
                await asyncio.sleep(0.01)


async def authorize(bank: Any, request: pb.AuthorizeRequest) -> pb.AuthorizeResponse:
    answer: pb.AuthorizeResponse = await insist(lambda: bank.Authorize(request, metadata=MERCHANT, timeout=5))
    return answer


async def cancel(bank: Any, key: str) -> pb.CancelResponse:
    request = pb.CancelRequest(idempotency_key=key)
    answer: pb.CancelResponse = await insist(lambda: bank.Cancel(request, metadata=MERCHANT, timeout=5))
    return answer


async def issue(bank: Any, key: str, limit_minor: int) -> pb.IssueCardResponse:
    limit = pb.Money(amount_minor=limit_minor, currency="BRL")
    request = pb.IssueCardRequest(new_account=pb.NewAccount(holder_name="Rui Dias", limit=limit), idempotency_key=key)
    answer: pb.IssueCardResponse = await insist(lambda: bank.IssueCard(request, metadata=OPERATOR, timeout=5))
    return answer


def state_of(answer: pb.AuthorizeResponse) -> tuple[int, int]:
    return answer.payment.status, answer.payment.decline_code


async def test_the_release_before_finds_nothing_to_migrate_and_refuses_nothing(both: Both) -> None:
    migrating = await asyncio.create_subprocess_exec(
        *CODEBANK, "migrate", env={**both.before, "PYTHONPATH": str(code_before())}, stdout=asyncio.subprocess.PIPE
    )
    told = json.loads((await migrating.communicate())[0])

    assert (migrating.returncode, told) == (0, {database: [] for database in DATABASES})


async def test_a_key_sent_to_both_at_once_is_charged_once_and_both_say_the_same(both: Both) -> None:
    issued = await issue(both.banks[1], "card for one key at both", 2_000)
    requests = [charge_issued(f"at both {number}", issued, 100) for number in range(30)]
    # No account has an unknown card: what is refused then belongs to an account of the merchant's.
    refused = ("limit_exceeded", "invalid_number")
    requests += [charge(f"{name} {number}", card=published(name)) for name in refused for number in range(8)]

    # Each the other way round than the one before, so that either release is the first.
    pairs = await asyncio.gather(
        *(
            asyncio.gather(*(authorize(bank, request) for bank in both.banks[:: 1 - 2 * (number % 2)]))
            for number, request in enumerate(requests)
        )
    )

    assert [(one.payment.payment_id, *state_of(one)) for one, _ in pairs] == [
        (other.payment.payment_id, *state_of(other)) for _, other in pairs
    ]
    assert [sorted((one.replayed, other.replayed)) for one, other in pairs] == [[False, True]] * len(pairs)
    assert Counter(state_of(one) for one, _ in pairs[:30]) == {(pb.PAYMENT_STATUS_APPROVED, 0): 20, DECLINED: 10}
    (used,) = await both.rows("select used_minor from account where account_id = $1", issued.card.account_id)
    assert used["used_minor"] == 2_000


async def test_a_key_used_at_one_is_refused_for_something_else_at_the_other(both: Both) -> None:
    for first, second in (both.banks, both.banks[::-1]):
        key = f"reused {first is both.banks[0]}"
        await authorize(first, charge(key, 100))

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await second.Authorize(charge(key, 101), metadata=MERCHANT)

        assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_wrong_attempts_at_either_wear_the_same_card_out(both: Both) -> None:
    issued = await issue(both.banks[0], "worn out at both", 1_000)

    codes = []
    for number in range(WRONG_ATTEMPTS_MAX + 1):
        request = charge_issued(f"wrong {number}", issued)
        request.card_data.cvv = "000" if issued.cvv != "000" else "001"
        codes.append((await authorize(both.banks[number % 2], request)).payment.decline_code)
    last = [(await authorize(bank, charge_issued(f"right {place}", issued))) for place, bank in enumerate(both.banks)]

    worn_out = pb.DECLINE_CODE_TOO_MANY_ATTEMPTS
    assert codes == [*[pb.DECLINE_CODE_WRONG_CVV] * WRONG_ATTEMPTS_MAX, worn_out]
    assert [answer.payment.decline_code for answer in last] == [worn_out, worn_out]


async def test_what_one_cancels_stays_cancelled_at_both(both: Both) -> None:
    for first, second in (both.banks, both.banks[::-1]):
        charged, unseen = (f"{name} {first is both.banks[0]}" for name in ("charged", "unseen"))
        await authorize(second, charge(charged))

        outcomes = [(await cancel(bank, key)).outcome for key in (charged, unseen) for bank in (first, second)]
        answers = [await authorize(bank, charge(key)) for key in (charged, unseen) for bank in (second, first)]

        given_back, closed = pb.CancelResponse.OUTCOME_REFUNDED, pb.CancelResponse.OUTCOME_KEY_CLOSED
        assert outcomes == [given_back, given_back, closed, closed]
        assert [state_of(answer) for answer in answers] == [GIVEN_BACK, GIVEN_BACK, CLOSED, CLOSED]


async def test_keys_charged_and_cancelled_at_both_at_once_end_cancelled_and_cost_nothing(both: Both) -> None:
    issued = await issue(both.banks[0], "card for a race", 100_000)
    keys = [f"race {number}" for number in range(30)]

    await asyncio.gather(
        *(
            step
            for key in keys
            for bank in both.banks
            for step in (authorize(bank, charge_issued(key, issued)), cancel(bank, key))
        )
    )
    ended = [[state_of(await authorize(bank, charge_issued(key, issued))) for bank in both.banks] for key in keys]

    assert all(one == other and one in (GIVEN_BACK, CLOSED) for one, other in ended)
    (account,) = await both.rows("select used_minor from account where account_id = $1", issued.card.account_id)
    assert account["used_minor"] == 0
    refunds = await both.rows(
        "select payment_id from entry where credit_kind = 'receivable' group by 1 having count(*) > 1"
    )
    assert refunds == []


async def test_a_card_asked_for_at_both_at_once_is_issued_once(both: Both) -> None:
    keys = [f"one card {number}" for number in range(20)]

    pairs = await asyncio.gather(*(asyncio.gather(*(issue(bank, key, 1_000) for bank in both.banks)) for key in keys))

    assert [one.card.card_id for one, _ in pairs] == [other.card.card_id for _, other in pairs]
    # Whoever made it shows the number, this once.
    assert [bool(one.number) + bool(other.number) for one, other in pairs] == [1] * len(keys)
    cards = await both.rows("select account_id from card where issue_key like 'one card %'")
    assert len({card["account_id"] for card in cards}) == len(cards) == len(keys)


async def test_a_mixed_load_on_the_same_accounts_leaves_every_account_at_what_it_owes(both: Both) -> None:
    cards = [await issue(bank, f"loaded by {place}", 3_000) for place, bank in enumerate(both.banks)]

    async def work(number: int) -> Sequence[Any]:
        bank, other = both.banks[:: 1 - 2 * (number % 2)]
        card = cards[number // 2 % 2]
        answers: list[Any] = [await authorize(bank, charge_issued(f"load {number}", card, 50))]
        if number % 5 == 0:
            answers.append(await cancel(other, f"load {number}"))
        if number % 11 == 0:
            reason = pb.BlockCardRequest.REASON_BLOCKED
            block = pb.BlockCardRequest(card_id=card.card.card_id, reason=reason)
            unblock = pb.UnblockCardRequest(card_id=card.card.card_id)
            await insist(lambda: bank.BlockCard(block, metadata=OPERATOR))
            await insist(lambda: other.UnblockCard(unblock, metadata=OPERATOR))
        return answers

    await asyncio.gather(*map(work, range(160)))

    approved = await both.rows(
        "select account_id, used_minor, sum(amount_minor) filter (where p.status = 'approved') as owed"
        " from account join payment p using (account_id) where p.idempotency_key like 'load %' group by 1, 2"
    )
    assert len(approved) == len(cards)
    assert [row["used_minor"] for row in approved] == [row["owed"] for row in approved]
    assert all(0 < row["used_minor"] <= 3_000 for row in approved)


async def test_relays_and_projectors_of_both_bring_every_event_and_the_proof_agrees(both: Both) -> None:
    projectors = running(code_before(), "projector", both.before), running(THIS, "projector", both.now)
    async with contextlib.AsyncExitStack() as stack:
        async with running(code_before(), "relay", both.before):
            started = (*projectors, running(THIS, "relay", both.now))
            await asyncio.gather(*map(stack.enter_async_context, started))
            await authorize(both.banks[1], charge("shipped by the relay of the release before"))
            await until(both, "select not exists (select from outbox)")
            buying = [
                asyncio.create_task(authorize(both.banks[number % 2], charge(f"while relays change {number}")))
                for number in range(60)
            ]
        await asyncio.gather(*buying)
        await until(both, "select not exists (select from outbox)")
        async with asyncio.timeout(20):
            while (proof := await both.prove()).lag_events:
                await asyncio.sleep(0.1)

    assert [(check.name, check.differences) for check in proof.checks if not check.holds] == []
    statement = await asyncpg.connect(both.settings.database_url("statement"))
    assert await statement.fetchval("select count(*) from dead_letter") == 0
    await statement.close()
    await require_versions(both)


async def until(both: Both, question: str) -> None:
    async with asyncio.timeout(20):
        while not (await both.rows(question))[0][0]:
            await asyncio.sleep(0.05)


async def require_versions(both: Both) -> None:
    """Check that each payment's versions are told as 1, 2 …, and end where its row does or is derived to."""
    log = await asyncpg.connect(both.settings.database_url("log"))
    await log.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    records = await log.fetch(
        'select key, headers, value from record where topic = $1 order by partition, "offset"', PAYMENTS_TOPIC
    )
    await log.close()
    told: dict[Any, list[int]] = {}
    for record in records:
        event = decode_event(record["headers"], record["value"], record["key"])
        if isinstance(event, PaymentEvent):
            told.setdefault(event.payment.payment_id, []).append(event.payment.version)
    payments = await both.rows("select payment_id, status, version, captured_minor, amount_minor from payment")
    for row in payments:
        derived = 2 if row["status"] == "refunded" else 1
        assert told[row["payment_id"]] == list(range(1, derived + 1))
        assert row["version"] in (None, derived)
        assert row["captured_minor"] in (None, 0 if row["status"] == "declined" else row["amount_minor"])
    stale = await both.rows(
        "select k.key from idempotency_key k join payment p using (account_id, payment_id)"
        " where (p.status = 'refunded') <> (k.cancelled_at is not null)"
    )
    assert stale == []


async def test_the_audit_of_the_release_before_cannot_prove_on_this_schema_and_harms_nothing(both: Both) -> None:
    """Its chain reads whole rows into a fixed shape: known, and accepted for as long as a roll-out takes."""
    await authorize(both.banks[1], charge("an entry with a kind"))
    before = await both.rows("select sum(used_minor), sum(sequence), sum(entry_number) from account")
    async with running(code_before(), "audit", both.before) as audit:
        home = f"http://127.0.0.1:{both.before['CODEBANK_AUDIT_PORT']}"
        async with httpx.AsyncClient(base_url=home, timeout=15) as room:
            page, flow, proof = [await room.get(path) for path in ("/", "/api/flow", "/api/proof")]
        is_alive = audit.poll() is None

    assert (proof.status_code, page.status_code, flow.status_code, is_alive) == (500, 200, 200, True)
    assert await both.rows("select sum(used_minor), sum(sequence), sum(entry_number) from account") == before
