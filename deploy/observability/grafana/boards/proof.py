"""Proof and SLOs: whether everything agrees, and whether it is good enough."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from boards.drawing import THIRD, bars, board, lines, listing, number, row, states

_DAY = 86400
_BURN = (6, 14.4)


def dashboard() -> Dashboard:
    """Draw it."""
    made = board("proof", "Proof and SLOs", "Whether all parts agree, how the objectives stand, and which alerts fire.")
    for panel in (_now, _proof, _objectives, _system):
        made = panel(made)
    return made


def _now(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Now"))
        .with_panel(
            number(
                "Checks that fail",
                "Invariants of the proof that do not hold.",
                "short",
                "sum(min by (check) (codebank_proof_checks) < bool 1)",
                limits=(1, 1),
                runbook="the-proof-does-not-hold",
            )
        )
        .with_panel(
            number(
                "Since the last proof",
                "It runs all the time.",
                "s",
                "time() - max(codebank_proof_timestamp_seconds)",
                limits=(120, 600),
                runbook="the-proof-was-not-run",
            )
        )
        .with_panel(
            number(
                "Time of a proof",
                "How long the last one took: grows with the ledger.",
                "s",
                "max(codebank_proof_seconds)",
                limits=(60, 300),
                runbook="the-proof-was-not-run",
            )
        )
        .with_panel(
            number(
                "On their way",
                "Events that the side furthest behind had not seen at the last proof: lag, no loss.",
                "short",
                "max(codebank_proof_lag_events)",
                limits=(1000, 10000),
                runbook="the-statement-is-behind",
            )
        )
        .with_panel(
            number(
                "Alerts",
                "Alerts that fire now.",
                "short",
                'count(ALERTS{alertstate="firing"}) or vector(0)',
                limits=(1, 1),
            )
        )
        .with_panel(
            number(
                "Roles that answer",
                "Processes whose metrics can be read.",
                "short",
                'sum(up{job="codebank"})',
                limits=(6, 5),
                runbook="a-role-is-down",
            )
        )
    )


def _proof(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Proof"))
        .with_panel(
            states(
                "Invariants",
                "Each check of the proof, since when it has held.",
                ("min by (check) (codebank_proof_checks)", "{{check}}"),
                {"1": "holds", "0": "does not hold"},
                runbook="the-proof-does-not-hold",
            )
        )
        .with_panel(
            listing(
                "Alerts that fire",
                "Each has a run-book in docs/runbooks.md.",
                'ALERTS{alertstate="firing"}',
                ["alertstate", "instance", "job"],
            )
        )
    )


def _objectives(made: Dashboard) -> Dashboard:
    burns = (
        ("checkout", "Checkout: burn", "99.9 % of tries are answered.", "the-checkout-burns-its-budget"),
        ("bank_latency", "Bank: burn", "99 % of authorisations within a quarter of a second.", "the-bank-is-slow"),
        ("statement", "Statement: burn", "99 % of lines within two and a half seconds.", "the-statement-is-behind"),
    )
    made = made.with_row(row("Objectives"))
    for slo, title, promise, runbook in burns:
        queries = [(f'codebank:slo_burn:rate{window}{{slo="{slo}"}}', window) for window in ("5m", "30m", "1h", "6h")]
        about = f"{promise} At 1 the budget lasts the month; alerts need a long and a short window above 14.4 or 6."
        made = made.with_panel(lines(title, about, "short", *queries, limits=_BURN, runbook=runbook))
    return (
        made.with_panel(
            bars(
                "Budget left",
                "Of thirty days, weighed by traffic.",
                "percentunit",
                ("codebank:slo_budget_left:ratio30d", "{{slo}}"),
                limits=(0.5, 0.1),
                runbook="the-checkout-burns-its-budget",
            )
        )
        .with_panel(
            lines(
                "Share that misses",
                "In an hour, by objective.",
                "percentunit",
                ("codebank:slo_errors:ratio1h", "{{slo}}"),
                width=THIRD,
                runbook="the-checkout-burns-its-budget",
            )
        )
        .with_panel(
            lines(
                "Events on their way",
                "Seen by each proof.",
                "short",
                ("max(codebank_proof_lag_events)", "events"),
                width=THIRD,
            )
        )
    )


def _system(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("System"))
        .with_panel(
            states(
                "Roles",
                "Whether each answers.",
                ('min by (role) (up{job="codebank"})', "{{role}}"),
                {"1": "answers", "0": "does not answer"},
                runbook="a-role-is-down",
            )
        )
        .with_panel(listing("Versions", "What runs, by role.", "codebank_info", ["job", "exported_role"]))
        .with_panel(
            bars(
                "Days of certificates",
                "Until each certificate ends; only roles with TLS have one.",
                "d",
                (
                    f"min by (role, certificate) (codebank_certificate_expiry_timestamp_seconds - time()) / {_DAY}",
                    "{{role}} {{certificate}}",
                ),
                limits=(30, 7),
                runbook="a-certificate-ends",
            )
        )
        .with_panel(
            bars(
                "Free on disks",
                "Share of each disk that is free.",
                "percentunit",
                ("codebank:disk_free:ratio", "{{instance}} {{mountpoint}}"),
                limits=(0.4, 0.1),
                runbook="a-disk-fills",
            )
        )
        .with_panel(
            lines(
                "Processor",
                "Cores in use, by role.",
                "short",
                ("codebank:cpu:rate5m", "{{role}}"),
                stacked=True,
                runbook="the-event-loop-is-blocked",
            )
        )
    )
