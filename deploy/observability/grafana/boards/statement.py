"""Statement: what cardholders see, and how soon."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from boards.drawing import QUARTER, THIRD, board, lines, number, row


def dashboard() -> Dashboard:
    """Draw it."""
    made = board("statement", "Statement", "Who looks, how soon lines are there, and how quickly pages answer.")
    for panel in (_now, _lines, _pages):
        made = panel(made)
    return made


def _now(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Now"))
        .with_panel(
            number("Open pages", "Streams to open pages, one for a browser.", "short", "sum(codebank_open_pages)")
        )
        .with_panel(
            number(
                "Line after",
                "Half of the lines are there so soon after the bank's decision.",
                "s",
                'codebank:projector_delay_seconds:quantile5m{quantile="0.5"}',
                limits=(0.5, 2.5),
                runbook="the-statement-is-behind",
            )
        )
        .with_panel(
            number(
                "Late lines",
                "Share of lines that took more than two and a half seconds; 1 % is allowed.",
                "percentunit",
                'codebank:slo_errors:ratio5m{slo="statement"}',
                limits=(0.005, 0.01),
                runbook="the-statement-is-behind",
            )
        )
        .with_panel(
            number(
                "Behind",
                "Age of the oldest event that the statement has not stored.",
                "s",
                "codebank:projector_lag_seconds:max",
                limits=(10, 120),
                runbook="the-statement-is-behind",
            )
        )
        .with_panel(
            number(
                "Requests",
                "Requests per second, pages and REST.",
                "reqps",
                'sum(codebank:http_requests:rate5m{role="statement"})',
            )
        )
        .with_panel(
            number(
                "Errors",
                "Share of requests that the statement could not answer.",
                "percentunit",
                '(sum(codebank:http_requests:rate5m{role="statement",status=~"5.."}) or vector(0))'
                ' / (sum(codebank:http_requests:rate5m{role="statement"}) > 0)',
                limits=(0.001, 0.01),
                runbook="a-pool-is-exhausted",
            )
        )
    )


def _lines(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Lines"))
        .with_panel(
            lines(
                "From decision to line",
                "Half of the lines, and ninety-nine of a hundred.",
                "s",
                ("codebank:projector_delay_seconds:quantile5m", "{{quantile}}"),
                width=THIRD,
                limits=(1, 2.5),
                runbook="the-statement-is-behind",
            )
        )
        .with_panel(
            lines(
                "New lines",
                "Events per second that became lines or changed them.",
                "eps",
                ("codebank:projector_events:rate5m", "{{type}}"),
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Pages by instance",
                "Each holds one connection.",
                "short",
                ("sum by (instance) (codebank_open_pages)", "{{instance}}"),
            )
        )
    )


def _pages(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Pages"))
        .with_panel(
            lines(
                "Sign-ins",
                "Per minute, by how they ended. Many refused ones are someone who guesses.",
                "cpm",
                ("sum by (outcome) (rate(codebank_sign_ins_total[$__rate_interval])) * 60", "{{outcome}}"),
                width=QUARTER,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Requests by route",
                "Per second.",
                "reqps",
                ('sum by (route) (codebank:http_requests:rate5m{role="statement"})', "{{route}}"),
                width=QUARTER,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Requests by status",
                "Per second.",
                "reqps",
                ('sum by (status) (codebank:http_requests:rate5m{role="statement"})', "{{status}}"),
                width=QUARTER,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Slowest requests",
                "Ninety-nine of a hundred are quicker, by route. Pages that are pushed to stay open.",
                "s",
                (
                    'codebank:http_request_seconds:quantile5m{quantile="0.99",role="statement",route!="/live"}',
                    "{{route}}",
                ),
                width=QUARTER,
                runbook="a-pool-is-exhausted",
            )
        )
    )
