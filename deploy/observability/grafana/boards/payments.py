"""Payments: what the business sees."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from boards.drawing import QUARTER, THIRD, board, lines, number, row

_AMOUNTS = "sum by (le) (rate(codebank_payment_amount_minor_bucket[$__rate_interval]))"


def dashboard() -> Dashboard:
    """Draw it."""
    made = board("payments", "Payments", "What is bought, approved and refused, and what is not known yet.")
    for panel in (_now, _decisions, _orders):
        made = panel(made)
    return made


def _now(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Now"))
        .with_panel(
            number("Payments", "Payments decided, approved or refused.", "cpm", "sum(codebank:payments:rate5m) * 60")
        )
        .with_panel(
            number(
                "Approval rate",
                "Share of decided payments that were approved, in five minutes.",
                "percentunit",
                "codebank:approval:ratio5m",
                runbook="the-approval-rate-fell",
            )
        )
        .with_panel(
            number(
                "Approved in an hour",
                "Amount that would be approved in an hour at the pace of the last five minutes.",
                "currencyBRL",
                'codebank:payment_amount:rate5m{outcome="approved"} * 3600',
            )
        )
        .with_panel(
            number(
                "Outcome unknown",
                "Orders that were sent to the bank and have no answer yet.",
                "short",
                "sum(codebank_orders_processing)",
                limits=(1, 20),
                runbook="orders-are-stuck",
            )
        )
        .with_panel(
            number(
                "Longest unknown",
                "Age of the oldest order without an answer. The resolver ends it within seconds.",
                "s",
                "max(codebank_orders_processing_age_seconds)",
                limits=(30, 120),
                runbook="orders-are-stuck",
            )
        )
        .with_panel(
            number(
                "Budget left",
                "What is left of thirty days' error budget of the checkout: 99.9 % of tries are answered.",
                "percentunit",
                'codebank:slo_budget_left:ratio30d{slo="checkout"}',
                limits=(0.5, 0.1),
                runbook="the-checkout-burns-its-budget",
            )
        )
    )


def _decisions(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Decisions of the bank"))
        .with_panel(
            lines(
                "Payments by outcome",
                "Payments per second as the bank decided them.",
                "ops",
                ("codebank:payments:rate5m", "{{outcome}}"),
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Approval rate and its past",
                "Half an hour against the day before it. A fifth less raises an alert.",
                "percentunit",
                ("codebank:approval:ratio30m", "half an hour"),
                ("avg_over_time(codebank:approval:ratio30m[1d])", "a day"),
                runbook="the-approval-rate-fell",
            )
        )
        .with_panel(
            lines(
                "Declines by reason",
                "Refused payments per second, by the bank's reason.",
                "ops",
                ("codebank:declines:rate5m", "{{code}}"),
                stacked=True,
                runbook="the-approval-rate-fell",
            )
        )
        .with_panel(
            lines(
                "Amount of one payment",
                "Half of all payments are below the lower line, nine of ten below the upper.",
                "currencyBRL",
                (f"histogram_quantile(0.5, {_AMOUNTS}) / 100", "half"),
                (f"histogram_quantile(0.9, {_AMOUNTS}) / 100", "nine of ten"),
                width=THIRD,
            )
        )
        .with_panel(
            lines(
                "Amounts by outcome",
                "Reais per minute, by outcome.",
                "currencyBRL",
                ("codebank:payment_amount:rate5m * 60", "{{outcome}}"),
            )
        )
        .with_panel(
            lines(
                "The bank as the checkout sees it",
                "Calls per second, each try counted, by how they ended.",
                "reqps",
                ('sum by (status) (codebank:bank_calls:rate5m{method="Authorize"})', "{{status}}"),
                stacked=True,
                runbook="the-checkout-burns-its-budget",
            )
        )
    )


def _orders(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Orders of the checkout"))
        .with_panel(
            lines(
                "Orders by status",
                "Orders per second by how they ended.",
                "ops",
                ("codebank:orders:rate5m", "{{status}}"),
                width=QUARTER,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Settled by the resolver",
                "Unknown outcomes per minute that the resolver looked into; overdue and failed ones stay open.",
                "cpm",
                ("sum by (status) (rate(codebank_resolver_orders_total[$__rate_interval])) * 60", "{{status}}"),
                width=QUARTER,
                runbook="orders-are-stuck",
            )
        )
        .with_panel(
            lines(
                "Requests of the shop",
                "Pages and REST of the shop, by status.",
                "reqps",
                ('sum by (status) (codebank:http_requests:rate5m{role="checkout"})', "{{status}}"),
                width=QUARTER,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Slowest requests of the shop",
                "Ninety-nine of a hundred are quicker than this, by route.",
                "s",
                ('codebank:http_request_seconds:quantile5m{quantile="0.99",role="checkout"}', "{{route}}"),
                width=QUARTER,
            )
        )
    )
