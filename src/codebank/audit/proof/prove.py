"""The proof: reads orders, ledger, log, statement and search index, and says whether they agree to the cent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from codebank.audit.proof.orders import Orders
from codebank.audit.proof.partition import Comparison, read_partition
from codebank.audit.proof.reconcile import Check, Difference, Proof, check_of
from codebank.audit.proof.search import read_indexed
from codebank.audit.store import ledger
from codebank.audit.store import payments as store
from codebank.audit.store.sides import SIDE_ERRORS, Sides, open_sides, snapshot
from codebank.errors import Code, CodebankError
from codebank.eventlog.log import PARTITIONS, partition_of_account
from codebank.runtime.postgres.pool import Connection
from codebank.settings import Settings


async def prove_once(settings: Settings) -> Proof:
    """Open every side, prove, and close. Raises CodebankError where a side does not answer."""
    try:
        async with open_sides(settings) as sides:
            return await prove(sides)
    except SIDE_ERRORS as error:
        raise CodebankError(
            Code.UNAVAILABLE, f"a side does not answer: {error}", hint="start the system with `codebank up`"
        ) from None


async def prove(sides: Sides) -> Proof:
    """Compare all sides. Safe under load: what is on its way is lag, not a difference.

    The ledger is proven as a whole, where it lies. What is compared payment by payment is read partition by partition,
    so memory follows the largest one, and of the others only what an order needs. Orders are read before the bank: an
    ended order's payment must be there. How far the connector came is read before the index that it fills, and that
    before the bank.
    """
    orders = await Orders.read(sides)
    indexed = await read_indexed(sides)
    accounts = await _accounts(sides)
    async with snapshot(sides.bank) as bank:
        checks = [await _check_balance(bank), await _check_used(bank), await _check_moved(bank)]
        checks.append(await _check_keys(bank))
        chain = await _check_chain(bank)
    comparison, lag = Comparison(), 0
    for partition in range(PARTITIONS):
        committed = indexed.committed.get(partition, 0) if indexed else 0
        found = await read_partition(sides, partition, accounts.get(partition, ()), committed)
        lag += found.lag
        comparison.add(found)
        orders.compare(found.payments.values())
        if indexed:
            indexed.compare(partition, found.payments, found.events)
        # Only one at a time.
        del found
    checks += [*comparison.checks(), await orders.check(sides), chain]
    parties: tuple[str, ...] = ("orders", "ledger", "log", "statement")
    if indexed:
        parties = (*parties, "search index")
        checks.append(indexed.findings.check())
        lag = max(lag, indexed.ahead) if indexed.days else lag
    return Proof(tuple(checks), lag, parties)


async def _accounts(sides: Sides) -> Mapping[int, Sequence[UUID]]:
    """Give every account that any side knows, per partition of its events."""
    found: dict[int, list[UUID]] = {}
    for account_id in await store.accounts(sides):
        found.setdefault(partition_of_account(account_id), []).append(account_id)
    return found


async def _check_balance(bank: Connection) -> Check:
    rows = await ledger.trial_balance(bank)
    differences = []
    for currency in {row["currency"] for row in rows}:
        debit = sum(row["debit"] for row in rows if row["currency"] == currency)
        credit = sum(row["credit"] for row in rows if row["currency"] == currency)
        if debit != credit:
            differences.append(Difference("unbalanced", currency, debit_minor=debit, credit_minor=credit))
    differences += [
        Difference("orphan_entry", number=row["entry_number"], account=row["account_id"])
        for row in await ledger.orphan_entries(bank)
    ]
    count = await ledger.count_of(bank, "entry")
    return check_of("balance", "debits equal credits, and every entry has its payment", count, differences)


async def _check_used(bank: Connection) -> Check:
    differences = [
        Difference(
            "used",
            row["currency"],
            account=row["account_id"],
            used_minor=row["used_minor"],
            limit_minor=row["limit_minor"],
            moved_minor=row["moved"],
        )
        for row in await ledger.broken_balances(bank)
    ]
    count = await ledger.count_of(bank, "account")
    return check_of("used", "each account's used amount is what its entries say, within its limit", count, differences)


async def _check_moved(bank: Connection) -> Check:
    differences = [
        Difference(
            "moved",
            row["currency"],
            payment=row["payment_id"],
            status=row["status"],
            amount_minor=row["captured_minor"],
            count=row["count"],
            charged_minor=row["charged"],
            returned_minor=row["returned"],
        )
        for row in await ledger.payments_moved_wrongly(bank)
    ]
    promise = "what was captured of a payment was charged once, what was given back returned once, and nothing else"
    return check_of("moved", promise, await ledger.count_of(bank, "payment"), differences)


async def _check_keys(bank: Connection) -> Check:
    differences = [
        Difference("key" if row["has_no_payment"] else "no_key", payment=row["payment_id"])
        for row in await ledger.broken_keys(bank)
    ]
    promise = "each payment has taken its key, so a repeat finds it, and no key tells of another"
    return check_of("keys", promise, await ledger.count_of(bank, "payment"), differences)


async def _check_chain(bank: Connection) -> Check:
    differences = [
        Difference("chain", account=account_id, number=number)
        async for account_id, number in ledger.broken_chains(bank)
    ]
    count = await ledger.count_of(bank, "account")
    return check_of("chain", "the hash chain of every account's entries verifies", count, differences)
