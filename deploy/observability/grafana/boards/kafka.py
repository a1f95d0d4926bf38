"""Kafka and lag: an event's way from the commit to the line."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from boards.drawing import QUARTER, THIRD, board, lines, number, row


def dashboard() -> Dashboard:
    """Draw it."""
    made = board(
        "kafka",
        "Kafka and lag",
        "What waits for the log and for the statement. Brokers, replicas and groups are shown by the control room.",
    )
    for panel in (_now, _relay, _projector, _letters):
        made = panel(made)
    return made


def _now(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Now"))
        .with_panel(
            number(
                "Outbox",
                "Events that are committed and not yet on the log.",
                "short",
                "max(codebank_outbox_events)",
                limits=(500, 10000),
                runbook="the-outbox-ages",
            )
        )
        .with_panel(
            number(
                "Oldest in the outbox",
                "How long the oldest event has waited for the log.",
                "s",
                "max(codebank_outbox_age_seconds)",
                limits=(10, 60),
                runbook="the-outbox-ages",
            )
        )
        .with_panel(
            number(
                "Relays that lead",
                "One ships, the others stand by. Anything but 1 is wrong.",
                "short",
                "sum(codebank_relay_leading)",
                runbook="no-relay-leads",
            )
        )
        .with_panel(
            number(
                "Behind, in events",
                "Events on the log that the statement has not stored.",
                "short",
                "codebank:projector_lag_events:sum",
                limits=(1000, 10000),
                runbook="the-statement-is-behind",
            )
        )
        .with_panel(
            number(
                "Behind, in time",
                "Age of the oldest event that the statement has not stored.",
                "s",
                "codebank:projector_lag_seconds:max",
                limits=(10, 120),
                runbook="the-statement-is-behind",
            )
        )
        .with_panel(
            number(
                "Dead letters",
                "Records put aside, by the statement or the search, about which nobody has decided.",
                "short",
                "max(codebank_dead_letters_waiting) + max(codebank_search_dead_letters_waiting)",
                limits=(1, 1),
                runbook="dead-letters-wait",
            )
        )
    )


def _relay(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Outbox → log"))
        .with_panel(
            lines(
                "Events in the outbox",
                "Grows while the brokers are away, and drains in order afterwards.",
                "short",
                ("max(codebank_outbox_events)", "events"),
                width=QUARTER,
                runbook="the-outbox-ages",
            )
        )
        .with_panel(
            lines(
                "Age of the oldest",
                "The alert comes at a minute.",
                "s",
                ("max(codebank_outbox_age_seconds)", "age"),
                width=QUARTER,
                limits=(10, 60),
                runbook="the-outbox-ages",
            )
        )
        .with_panel(
            lines(
                "Shipped",
                "Events per second that the relay put on the log.",
                "eps",
                ("codebank:relay_events:rate5m", "events"),
                width=QUARTER,
            )
        )
        .with_panel(
            lines(
                "Time to ship a batch",
                "From reading the outbox until the log has it and it is removed.",
                "s",
                ("codebank:relay_ship_seconds:quantile5m", "{{quantile}}"),
                width=QUARTER,
                runbook="the-outbox-ages",
            )
        )
    )


def _projector(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Log → statement"))
        .with_panel(
            lines(
                "Events behind, by partition",
                "One partition that climbs alone: a gap stopped it.",
                "short",
                ("sum by (partition) (codebank_projector_lag_events)", "{{partition}}"),
                stacked=True,
                runbook="the-statement-is-behind",
            )
        )
        .with_panel(
            lines(
                "Time behind, by partition",
                "Age of the oldest event not stored; 0 where none is.",
                "s",
                ("max by (partition) (codebank_projector_lag_seconds)", "{{partition}}"),
                limits=(10, 120),
                runbook="the-statement-is-behind",
            )
        )
        .with_panel(
            lines(
                "Stored",
                "Events per second, by type.",
                "eps",
                ("codebank:projector_events:rate5m", "{{type}}"),
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "From decision to line",
                "What a cardholder waits: half of the lines, and ninety-nine of a hundred.",
                "s",
                ("codebank:projector_delay_seconds:quantile5m", "{{quantile}}"),
                limits=(1, 2.5),
                runbook="the-statement-is-behind",
            )
        )
        .with_panel(
            lines(
                "Time to store a batch",
                "One transaction: events, lines and position.",
                "s",
                ("codebank:projector_batch_seconds:quantile5m", "{{quantile}}"),
                runbook="the-statement-is-behind",
            )
        )
        .with_panel(
            lines(
                "In and out",
                "Events per second: shipped by the relay, stored by the projectors.",
                "eps",
                ("codebank:relay_events:rate5m", "shipped"),
                ("sum(codebank:projector_events:rate5m)", "stored"),
                width=THIRD,
            )
        )
    )


def _letters(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("What could not be read"))
        .with_panel(
            lines(
                "Put aside",
                "Records in an hour that nobody could read.",
                "short",
                ("sum(increase(codebank_dead_letters_total[1h]))", "in an hour"),
                width=12,
                runbook="dead-letters-wait",
            )
        )
        .with_panel(
            lines(
                "Waiting",
                "Put aside and neither replayed nor dismissed; beside it, what was dismissed.",
                "short",
                ("max(codebank_dead_letters_waiting)", "statement"),
                ("max(codebank_search_dead_letters_waiting)", "search"),
                ("max(codebank_dead_letters_dismissed)", "dismissed"),
                width=12,
                limits=(1, 1),
                runbook="dead-letters-wait",
            )
        )
    )
