"""How every panel of every dashboard looks: a title, a unit, what it means, and which run-book belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

#: A query and what its lines are called.
Query = tuple[str, str]
#: Where a value becomes worth a look, and where it becomes bad. The second may be the smaller one.
Limits = tuple[float, float]

SOURCE: Final = shapes.DataSourceRef(type_val="prometheus", uid="codebank-prometheus")
TAG: Final = "codebank"
GOOD, LOOK, BAD, PLAIN = "green", "orange", "red", "text"
#: A third, a quarter, half and all of the twenty-four columns.
THIRD, QUARTER, SIXTH, HALF, WHOLE = 8, 6, 4, 12, 24
LOW, HIGH = 4, 8


def board(name: str, title: str, description: str) -> build.Dashboard:
    """Begin a dashboard that is linked with all the others."""
    others = build.DashboardLink("Codebank").type(model.DashboardLinkType.DASHBOARDS).tags([TAG])
    return (
        build.Dashboard(title)
        .uid(f"codebank-{name}")
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(others.as_dropdown(False).include_vars(True).keep_time(True))
    )


def row(title: str) -> build.Row:
    """Begin a row of panels."""
    return build.Row(title)


def lines(
    title: str,
    about: str,
    unit: str,
    *queries: Query,
    width: int = THIRD,
    limits: Limits | None = None,
    stacked: bool = False,
    runbook: str = "",
) -> timeseries.Panel:
    """Draw how values went over time; limits are drawn as dashed lines."""
    panel = (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(40 if stacked else 8)
        .show_points(shapes.VisibilityMode.NEVER)
        .axis_soft_min(0)
        .legend(common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.LIST).placement("bottom").calcs([]))
        .tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING))
        .thresholds(_steps(limits))
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL))
    if limits:
        style = common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds_style(style)
    return _finished(panel, title, about, unit, queries, width, HIGH, runbook)


def number(
    title: str, about: str, unit: str, expr: str, *, limits: Limits | None = None, runbook: str = ""
) -> stat.Panel:
    """Show one value as it is now, coloured where limits say what is good."""
    panel = (
        stat.Panel()
        .graph_mode(shapes.BigValueGraphMode.AREA)
        .color_mode(shapes.BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_steps(limits))
    )
    return _finished(panel, title, about, unit, [(expr, "")], SIXTH, LOW, runbook)


def bars(
    title: str, about: str, unit: str, query: Query, *, limits: Limits | None = None, width: int = THIRD,
    runbook: str = "",
) -> bargauge.Panel:  # fmt: skip
    """Show several values as they are now, each as a bar."""
    panel = (
        bargauge.Panel()
        .orientation(shapes.VizOrientation.HORIZONTAL)
        .display_mode(shapes.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_steps(limits))
    )
    return _finished(panel, title, about, unit, [query], width, HIGH, runbook)


def states(title: str, about: str, query: Query, words: dict[str, str], *, runbook: str = "") -> statetimeline.Panel:
    """Show since when something has been good (1) or bad (0)."""
    shown = {
        "1": model.ValueMappingResult(text=words["1"], color=GOOD, index=0),
        "0": model.ValueMappingResult(text=words["0"], color=BAD, index=1),
    }
    panel = (
        statetimeline.Panel()
        .show_value(shapes.VisibilityMode.NEVER)
        .mappings([model.ValueMap(options=shown)])
        .thresholds(_ladder([(None, BAD), (1, GOOD)]))
    )
    return _finished(panel, title, about, "none", [query], HALF, HIGH, runbook)


def listing(title: str, about: str, expr: str, hidden: Sequence[str], *, runbook: str = "") -> table.Panel:
    """List what there is now, one row for each series, with its labels as columns."""
    dropped = {name: True for name in ("Time", "Value", "__name__", *hidden)}
    step = model.DataTransformerConfig(id_val="organize", options={"excludeByName": dropped})
    panel = table.Panel().with_transformation(step)
    found = _described(panel, title, about, "none", HALF, HIGH, runbook)
    return found.with_target(_target(expr, "", 0).instant().format(PromQueryFormat.TABLE))


def _finished(
    panel: Any, title: str, about: str, unit: str, queries: Sequence[Query], width: int, height: int, runbook: str
) -> Any:
    panel = _described(panel, title, about, unit, width, height, runbook)
    for place, (expr, legend) in enumerate(queries):
        panel = panel.with_target(_target(expr, legend, place))
    return panel


def _described(panel: Any, title: str, about: str, unit: str, width: int, height: int, runbook: str) -> Any:
    words = f"{about}\n\nRun-book: docs/runbooks.md#{runbook}" if runbook else about
    return panel.title(title).description(words).unit(unit).datasource(SOURCE).span(width).height(height)


def _target(expr: str, legend: str, place: int) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(chr(ord("A") + place)).datasource(SOURCE).expr(expr).legend_format(legend)


def _steps(limits: Limits | None) -> build.ThresholdsConfig:
    if limits is None:
        return _ladder([(None, PLAIN)])
    look, bad = limits
    if look < bad:
        return _ladder([(None, GOOD), (look, LOOK), (bad, BAD)])
    if look == bad:
        return _ladder([(None, GOOD), (bad, BAD)])
    return _ladder([(None, BAD), (bad, LOOK), (look, GOOD)])


def _ladder(steps: Sequence[tuple[float | None, str]]) -> build.ThresholdsConfig:
    made = [model.Threshold(value=value, color=colour) for value, colour in steps]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)
