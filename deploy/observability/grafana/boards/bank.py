"""Bank: gRPC, batches, and the pools of connections to PostgreSQL."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from boards.drawing import QUARTER, WHOLE, bars, board, lines, number, row


def dashboard() -> Dashboard:
    """Draw it."""
    made = board("bank", "Bank", "How the bank answers, how it gathers, and what its machine has left.")
    for panel in (_now, _calls, _batches, _pools, _processes):
        made = panel(made)
    return made


def _now(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Now"))
        .with_panel(number("Calls", "Calls answered per second.", "reqps", "sum(codebank:rpc:rate5m)"))
        .with_panel(
            number(
                "Slowest authorisations",
                "Ninety-nine of a hundred are answered quicker than this.",
                "s",
                'codebank:rpc_seconds:quantile5m{method="Authorize",quantile="0.99"}',
                limits=(0.1, 0.25),
                runbook="the-bank-is-slow",
            )
        )
        .with_panel(
            number(
                "Slow share",
                "Share of authorisations that took more than a quarter of a second; 1 % is allowed.",
                "percentunit",
                'codebank:slo_errors:ratio5m{slo="bank_latency"}',
                limits=(0.005, 0.01),
                runbook="the-bank-is-slow",
            )
        )
        .with_panel(
            number(
                "Waiting",
                "Authorisations that wait for the next transaction. At 8192 the bank refuses more.",
                "short",
                "sum(codebank_queue_items)",
                limits=(512, 4096),
                runbook="the-bank-is-slow",
            )
        )
        .with_panel(
            number("Batch", "Authorisations in one transaction, on average.", "short", "codebank:batch_size:mean5m")
        )
        .with_panel(
            number(
                "Commit",
                "Ninety-nine of a hundred commits are quicker than this: it is the disk that one waits for.",
                "s",
                'codebank:commit_seconds:quantile5m{quantile="0.99"}',
                limits=(0.05, 0.2),
                runbook="the-bank-is-slow",
            )
        )
    )


def _calls(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("gRPC"))
        .with_panel(
            lines(
                "Calls by method",
                "Calls per second.",
                "reqps",
                ("sum by (method) (codebank:rpc:rate5m)", "{{method}}"),
                width=QUARTER,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Calls by status",
                "Calls per second by gRPC status. A decline is an answer: OK.",
                "reqps",
                ("sum by (status) (codebank:rpc:rate5m)", "{{status}}"),
                width=QUARTER,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Time of a call",
                "As the bank measures it: half of the calls, and ninety-nine of a hundred.",
                "s",
                ("codebank:rpc_seconds:quantile5m", "{{method}} {{quantile}}"),
                width=QUARTER,
                limits=(0.25, 0.25),
                runbook="the-bank-is-slow",
            )
        )
        .with_panel(
            lines(
                "Time of a call, seen from the checkout",
                "With the network in it. Far above the bank's own time: look there.",
                "s",
                ("codebank:bank_call_seconds:quantile5m", "{{method}} {{quantile}}"),
                width=QUARTER,
                runbook="the-bank-is-slow",
            )
        )
    )


def _batches(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Batches"))
        .with_panel(
            lines(
                "Operations in one transaction",
                "Grows with load: who waits shares a commit.",
                "short",
                ("codebank:batch_size:mean5m", "on average"),
                width=QUARTER,
            )
        )
        .with_panel(
            lines(
                "Waiting for a transaction",
                "Operations in the queue, by instance.",
                "short",
                ("codebank_queue_items", "{{instance}}"),
                width=QUARTER,
                limits=(512, 4096),
                runbook="the-bank-is-slow",
            )
        )
        .with_panel(
            lines(
                "Time of a transaction",
                "From the first look to the answers.",
                "s",
                ("codebank:batch_seconds:quantile5m", "{{quantile}}"),
                width=QUARTER,
                runbook="the-bank-is-slow",
            )
        )
        .with_panel(
            lines(
                "Time of a commit",
                "The statement that writes a batch, until the disk has it. The transaction less this is our own work.",
                "s",
                ("codebank:commit_seconds:quantile5m", "{{quantile}}"),
                width=QUARTER,
                limits=(0.05, 0.2),
                runbook="the-bank-is-slow",
            )
        )
        .with_panel(
            lines(
                "Transactions begun anew",
                "Somebody else was first (moved), or held a lock or a key (contested): many banks on few accounts.",
                "ops",
                ("sum by (reason) (rate(codebank_batch_retries_total[5m]))", "{{reason}}"),
                width=WHOLE,
                runbook="the-bank-is-slow",
            )
        )
    )


def _pools(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("PostgreSQL"))
        .with_panel(
            lines(
                "Connections in use",
                "By role and database; CODEBANK_POOL_SIZE_MAX is the most that one may have.",
                "short",
                ('sum by (role, database) (codebank_pool_connections{state="used"})', "{{role}} → {{database}}"),
                runbook="a-pool-is-exhausted",
            )
        )
        .with_panel(
            lines(
                "Waiting for a connection",
                "Ninety-nine of a hundred waits are shorter. Above zero the pool is too small.",
                "s",
                ('codebank:pool_wait_seconds:quantile5m{quantile="0.99"}', "{{role}} → {{database}}"),
                limits=(0.05, 0.25),
                runbook="a-pool-is-exhausted",
            )
        )
        .with_panel(
            bars(
                "Size of the databases",
                "On disk, as PostgreSQL tells.",
                "bytes",
                ("max by (database) (codebank_database_bytes)", "{{database}}"),
            )
        )
    )


def _processes(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Processes of all roles"))
        .with_panel(
            lines(
                "Processor",
                "Cores in use. The payment loop is one thread: near 1 it is full.",
                "short",
                ("codebank:cpu:rate5m", "{{role}}"),
                width=QUARTER,
                runbook="the-event-loop-is-blocked",
            )
        )
        .with_panel(
            lines(
                "Lateness of the event loop",
                "How much later than asked a role does something; 0.01 is what one core gives.",
                "s",
                ('codebank:event_loop_delay_seconds:quantile5m{quantile="0.99"}', "{{role}}"),
                width=QUARTER,
                limits=(0.1, 0.25),
                runbook="the-event-loop-is-blocked",
            )
        )
        .with_panel(
            lines(
                "Memory",
                "What the process holds of real memory.",
                "bytes",
                ('sum by (role) (process_resident_memory_bytes{job="codebank"})', "{{role}}"),
                width=QUARTER,
            )
        )
        .with_panel(
            lines(
                "Open files",
                "Sockets too. A line that only climbs is a leak.",
                "short",
                ('sum by (role) (process_open_fds{job="codebank"})', "{{role}}"),
                width=QUARTER,
            )
        )
    )
