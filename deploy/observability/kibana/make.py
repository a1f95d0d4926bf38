"""Write payments.ndjson: the data view, the panels and the dashboard of payments, as Kibana imports them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

Json = dict[str, Any]
Panel = tuple[str, str, str, Json]  # name, title, description, drawing

INDEX: Final = "codebank.payments"
TIME: Final = "created_at"
DELAY: Final = "index_delay_milliseconds"
DATA_VIEW: Final = "codebank-payments"
#: The bank's days begin and end here; without it a daily bar would be cut at nine in the evening.
ZONE: Final = "America/Sao_Paulo"

#: A refunded payment was approved first, so it counts as approved.
APPROVED: Final = {"terms": {"status": ["approved", "refunded"]}}
#: Minor units of another currency are no centavos: they must not be added to these.
IN_REAIS: Final = {"term": {"currency": "BRL"}}
APPROVED_IN_REAIS: Final = {"bool": {"filter": [APPROVED, IN_REAIS]}}
SUMS: Final = {"gross": {"sum": {"field": "amount_minor"}}, "returned": {"sum": {"field": "refunded_minor"}}}
NET: Final = "(datum{path}.gross.value - datum{path}.returned.value) / 100"
#: Where the ranges of amounts begin, in centavos; the last has no end.
AMOUNT_STEPS: Final = (0, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000)

GREEN, RED, AMBER, BLUE = "#4aa583", "#d36086", "#d6a02b", "#6092c0"
COUNT, REAIS, SHARE = ",d", "$,.2f", ".1%"
BARS: Final[Json] = {"type": "bar"}
BOXES: Final[Json] = {"type": "rect"}
LINES: Final[Json] = {"type": "line", "point": True}
#: What a dashboard or a panel looks at before anyone filters: everything.
EVERYTHING: Final = {"query": {"query": "", "language": "kuery"}, "filter": []}
NUMBERS: Final = {"decimal": ",", "thousands": ".", "grouping": [3], "currency": ["R$ ", ""]}
#: Where nothing was paid, Kibana would write a warning of infinite extents over the panel.
CONFIG: Final = {"kibana": {"hideWarnings": True}, "locale": {"number": NUMBERS}}
REASONS: Final = {
    "invalid_number": "Número inválido", "wrong_cvv": "CVV não confere", "expired_card": "Cartão vencido",
    "wrong_expiry": "Validade não confere", "card_blocked": "Cartão bloqueado", "card_lost": "Cartão perdido",
    "card_stolen": "Cartão roubado", "account_closed": "Conta encerrada", "limit_exceeded": "Sem limite",
    "too_many_attempts": "Muitas tentativas", "suspected_fraud": "Suspeita de fraude",
    "currency_not_held": "Moeda não aceita", "invalid_merchant": "Loja inválida",
    "cancelled_key": "Cancelado antes de chegar",
}  # fmt: skip


def text(value: object, indent: int | None = None) -> str:
    """Write JSON the same way every time, with the letters as people read them."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def spec(aggs: Json, rows: str, steps: list[Json], mark: Json, **encoding: object) -> Json:
    """Give a Vega-Lite drawing of the rows that an Elasticsearch query finds."""
    url = {"index": INDEX, "%context%": True, "%timefield%": TIME, "body": {"size": 0, "aggs": aggs}}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "config": CONFIG,
        "data": {"url": url, "format": {"property": f"aggregations.{rows}" if rows else "aggregations"}},
        "transform": steps,
        "mark": mark,
        "encoding": encoding,
    }


def over_time(aggs: Json) -> Json:
    """Cut the time that the dashboard shows into buckets, the empty ones too."""
    bounds = {"min": {"%timefilter%": "min"}, "max": {"%timefilter%": "max"}}
    histogram = {"field": TIME, "interval": {"%autointerval%": True}, "time_zone": ZONE}
    return {"time": {"date_histogram": {**histogram, "extended_bounds": bounds, "min_doc_count": 0}, "aggs": aggs}}


def calculate(name: str, expression: str) -> Json:
    """Give the step that adds one value to every row."""
    return {"calculate": expression, "as": name}


def bucket_end() -> list[Json]:
    """Give the steps that tell where a bucket ends, so that its bar is as wide as its time."""
    found = [{"op": op, "field": "key", "as": name} for op, name in (("min", "first"), ("max", "last"))]
    step = "datum.buckets > 1 ? (datum.last - datum.first) / (datum.buckets - 1) : 60000"
    return [{"joinaggregate": [*found, {"op": "count", "as": "buckets"}]}, calculate("end", f"datum.key + ({step})")]


def note(name: str, title: str, form: str | None = None) -> Json:
    """Tell a value beside the mouse: a number of this form, or a word."""
    kind: Json = {"type": "quantitative", "format": form} if form else {"type": "nominal"}
    return {"field": name, "title": title, **kind}


def number(name: str, form: str, **more: object) -> Json:
    """Put a number along an axis, which needs no title: the panel has one."""
    # Half a payment is no mark of an axis.
    whole = {"tickMinStep": 1} if form == COUNT else {}
    return {"field": name, "type": "quantitative", "title": None, "axis": {"format": form, **whole}, **more}


def words(name: str, sort: object, **look: object) -> Json:
    """Put words along an axis, in the order given."""
    return {"field": name, "type": "nominal", "title": None, "sort": sort, "axis": {"labelLimit": 200, **look}}


def colours(name: str, by_value: dict[str, str]) -> Json:
    """Give a few known values colours that keep their meaning from panel to panel."""
    scale = {"domain": list(by_value), "range": list(by_value.values())}
    return {"field": name, "type": "nominal", "title": None, "scale": scale, "legend": {"orient": "bottom"}}


MOMENT: Final = {"field": "key", "type": "temporal", "title": None, "axis": {"format": "%d/%m %H:%M"}}
WHEN: Final = {"field": "key", "type": "temporal", "title": "Início", "format": "%d/%m/%Y %H:%M"}
PAYMENTS: Final = note("doc_count", "Pagamentos", COUNT)
NET_REAIS: Final = note("reais", "Aprovado menos estornos", REAIS)


def over_time_panels() -> Iterator[Panel]:
    """Draw what happens from moment to moment."""
    rows = "time.buckets"
    names = {"approved": "Aprovado", "refunded": "Estornado", "declined": "Recusado"}
    aggs = over_time({status: {"filter": {"term": {"status": status}}} for status in names})
    steps = [calculate(label, f"datum.{status}.doc_count") for status, label in names.items()]
    steps += [*bucket_end(), {"fold": list(names.values()), "as": ["situation", "payments"]}]
    steps.append({"stack": "payments", "groupby": ["key"], "as": ["bottom", "top"]})
    color = colours("situation", dict(zip(names.values(), (GREEN, AMBER, RED), strict=True)))
    notes = [WHEN, note("situation", "Situação"), note("payments", "Pagamentos", COUNT)]
    x2, y, y2 = {"field": "end"}, number("top", COUNT), {"field": "bottom"}
    drawing = spec(aggs, rows, steps, BOXES, x=MOMENT, x2=x2, y=y, y2=y2, color=color, tooltip=notes)
    yield "volume", "Pagamentos por situação", "Payments over time by status.", drawing

    aggs = over_time({"approved": {"filter": APPROVED_IN_REAIS, "aggs": SUMS}})
    steps = [*bucket_end(), calculate("reais", NET.format(path=".approved"))]
    y, mark = number("reais", "$,.0f"), {**BOXES, "color": GREEN}
    drawing = spec(aggs, rows, steps, mark, x=MOMENT, x2=x2, y=y, y2={"datum": 0}, tooltip=[WHEN, NET_REAIS])
    yield "amount", "Valor aprovado ao longo do tempo (R$)", "Approved over time, less what was refunded.", drawing

    aggs = over_time({"approved": {"filter": APPROVED}})
    # A time without payments has no rate: null breaks the line where zero would be a false alarm.
    steps = [calculate("rate", "datum.doc_count > 0 ? datum.approved.doc_count / datum.doc_count : null")]
    y, mark = number("rate", ".0%", scale={"zero": False, "domainMax": 1}), {**LINES, "color": BLUE}
    drawing = spec(aggs, rows, steps, mark, x=MOMENT, y=y, tooltip=[WHEN, note("rate", "Taxa", SHARE), PAYMENTS])
    yield "rate", "Taxa de aprovação ao longo do tempo", "Approved (refunded later or not) of all payments.", drawing

    aggs = over_time({"delay": {"percentiles": {"field": DELAY, "percents": [50, 95, 99], "keyed": False}}})
    steps = [
        {"flatten": ["delay.values"], "as": ["percentile"]},
        calculate("line", "'p' + datum.percentile.key"),
        calculate("milliseconds", "datum.percentile.value"),
    ]
    y, color = number("milliseconds", COUNT), colours("line", {"p50": GREEN, "p95": AMBER, "p99": RED})
    notes = [WHEN, note("line", "Percentil"), note("milliseconds", "Milissegundos", COUNT)]
    drawing = spec(aggs, rows, steps, LINES, x=MOMENT, y=y, color=color, tooltip=notes)
    yield "delay", "Do commit ao índice (ms)", "Time from commit to index: p50, p95 and p99.", drawing


def breakdown_panels() -> Iterator[Panel]:
    """Draw what the payments are made of."""
    aggs: Json = {"reasons": {"terms": {"field": "decline_code", "size": 20}}}
    steps = [calculate("reason", f"{text(REASONS)}[datum.key] || datum.key")]
    x, y, mark = number("doc_count", COUNT), words("reason", "-x"), {**BARS, "color": RED}
    notes = [note("reason", "Motivo"), note("key", "Código"), PAYMENTS]
    drawing = spec(aggs, "reasons.buckets", steps, mark, x=x, y=y, tooltip=notes)
    yield "reasons", "Motivos de recusa", "Declined payments by decline code.", drawing

    # Elasticsearch sorts by what was approved; what is left after refunds is sorted here, among the first fifty.
    terms = {"field": "merchant_id", "size": 50, "order": {"gross": "desc"}}
    found = {"terms": terms, "aggs": {**SUMS, "name": {"terms": {"field": "merchant_name", "size": 1}}}}
    aggs = {"approved": {"filter": APPROVED_IN_REAIS, "aggs": {"merchants": found}}}
    by_net = [{"field": "reais", "order": "descending"}]
    steps = [
        calculate("reais", NET.format(path="")),
        {"window": [{"op": "row_number", "as": "place"}], "sort": by_net},
        {"filter": "datum.place <= 10"},
        # Two merchants may have one name: the place keeps their bars apart.
        calculate("merchant", "datum.place + '. ' + datum.name.buckets[0].key"),
    ]
    x, y, mark = number("reais", "$,.0f"), words("merchant", {"field": "place"}), {**BARS, "color": GREEN}
    notes = [note("merchant", "Loja"), note("key", "Código"), NET_REAIS, PAYMENTS]
    drawing = spec(aggs, "approved.merchants.buckets", steps, mark, x=x, y=y, tooltip=notes)
    yield "merchants", "Lojas com maior valor aprovado (R$)", "The ten merchants with most approved, net.", drawing

    aggs = {"parcelas": {"terms": {"field": "parcelas", "size": 24, "order": {"_key": "asc"}}}}
    aggs = {"approved": {"filter": APPROVED, "aggs": aggs}}
    steps = [
        {"joinaggregate": [{"op": "sum", "field": "doc_count", "as": "all"}]},
        calculate("share", "datum.doc_count / datum.all"),
        calculate("parcelas", "datum.key == 1 ? 'à vista' : datum.key + 'x'"),
    ]
    x, y, mark = words("parcelas", {"field": "key"}, labelAngle=0), number("share", ".0%"), {**BARS, "color": BLUE}
    notes = [note("parcelas", "Parcelas"), PAYMENTS, note("share", "Parte", SHARE)]
    drawing = spec(aggs, "approved.parcelas.buckets", steps, mark, x=x, y=y, tooltip=notes)
    yield "parcelas", "Parcelas dos aprovados", "Share of approved payments by number of parcelas.", drawing
    yield "amounts", "Pagamentos por faixa de valor (R$)", "Payments in reais by size and outcome.", amounts()


def amounts() -> Json:
    """Count the payments by their size, the approved and the declined ones."""
    ranges = [{"from": low, "to": high} for low, high in pairwise(AMOUNT_STEPS)] + [{"from": AMOUNT_STEPS[-1]}]
    found = {"range": {"field": "amount_minor", "ranges": ranges}, "aggs": {"approved": {"filter": APPROVED}}}
    aggs = {"in_reais": {"filter": IN_REAIS, "aggs": {"amounts": found}}}
    end = "(datum.to ? ' a ' + format(datum.to / 100, ',d') : ' ou mais')"
    steps = [
        calculate("size", f"format(datum.from / 100, ',d') + {end}"),
        calculate("Aprovado", "datum.approved.doc_count"),
        calculate("Recusado", "datum.doc_count - datum.approved.doc_count"),
        {"fold": ["Aprovado", "Recusado"], "as": ["outcome", "payments"]},
    ]
    x, y = number("payments", COUNT, stack="zero"), words("size", {"field": "from", "op": "min"})
    color = colours("outcome", {"Aprovado": GREEN, "Recusado": RED})
    notes = [note("size", "Valor (R$)"), note("outcome", "Resultado"), note("payments", "Pagamentos", COUNT)]
    return spec(aggs, "in_reais.amounts.buckets", steps, BARS, x=x, y=y, color=color, tooltip=notes)


def figure(aggs: Json, expression: str) -> Json:
    """Give one number, as large as its panel allows."""
    size = {"expr": "min(height * 0.6, width / 7)"}
    mark = {"type": "text", "fontSize": size, "fontWeight": "bold", "color": BLUE}
    return spec(aggs, "", [calculate("figure", expression)], mark, text={"field": "figure", "type": "nominal"})


def figures() -> Iterator[Panel]:
    """Give the numbers that are read first."""
    payments = {"payments": {"value_count": {"field": "payment_id"}}}
    approved = {"approved": {"filter": APPROVED_IN_REAIS, "aggs": SUMS}}
    p99 = {"delay": {"percentiles": {"field": DELAY, "percents": [99], "keyed": False}}}
    part = "format(datum.approved.doc_count / datum.payments.value, '.1%')"
    value = "datum.delay.values[0].value"
    drawing = figure(payments, "format(datum.payments.value, ',d')")
    yield "figure-payments", "Pagamentos", "Payments, whatever became of them.", drawing
    drawing = figure({**payments, "approved": {"filter": APPROVED}}, f"datum.payments.value > 0 ? {part} : '–'")
    yield "figure-rate", "Taxa de aprovação", "Approved (refunded later or not) of all payments.", drawing
    drawing = figure(approved, f"format({NET.format(path='.approved')}, '{REAIS}')")
    yield "figure-amount", "Valor aprovado", "Approved in reais, less what was refunded.", drawing
    drawing = figure(p99, f"isValid({value}) ? format({value}, ',.0f') + ' ms' : '–'")
    yield "figure-delay", "Do commit ao índice (p99)", "99 of 100 payments are found within this time.", drawing


def saved(kind: str, identifier: str, version: str, attributes: Json, references: list[Json]) -> Json:
    """Give one saved object; a newer Kibana brings it to its own version when it imports it."""
    head = {"type": kind, "id": identifier, "managed": False}
    versions = {"coreMigrationVersion": "8.8.0", "typeMigrationVersion": version}
    return {**head, **versions, "attributes": attributes, "references": references}


def data_view() -> Json:
    """Name the index, its time and the fields whose unit is not in their name."""
    labels = {"amount_minor": "amount_minor (centavos)", "refunded_minor": "refunded_minor (centavos)"}
    attributes = {"title": INDEX, "name": "Codebank: pagamentos", "timeFieldName": TIME, "fields": "[]"}
    attributes["fieldAttrs"] = text({name: {"customLabel": label} for name, label in labels.items()})
    return saved("index-pattern", DATA_VIEW, "8.0.0", attributes, [])


def visualization(panel: Panel) -> Json:
    """Keep a panel; its reference makes Kibana export the data view with it."""
    name, title, description, drawing = panel
    index = "kibanaSavedObjectMeta.searchSourceJSON.index"
    state = {"title": title, "type": "vega", "aggs": [], "params": {"spec": text(drawing, indent=2)}}
    attributes = {"title": title, "description": description, "version": 1, "uiStateJSON": "{}"}
    attributes["visState"] = text(state)
    attributes["kibanaSavedObjectMeta"] = {"searchSourceJSON": text({**EVERYTHING, "indexRefName": index})}
    reference = {"type": "index-pattern", "id": DATA_VIEW, "name": index}
    return saved("visualization", f"{DATA_VIEW}-{name}", "8.5.0", attributes, [reference])


def dashboard(panels: list[Json], figures_first: int) -> Json:
    """Lay the panels out: a row of figures, then two drawings a row."""
    laid, references = [], []
    for place, found in enumerate(panels):
        name, after = f"panel_{place}", place - figures_first
        grid = {"x": 12 * place, "y": 0, "w": 12, "h": 6}
        if after >= 0:
            grid = {"x": 24 * (after % 2), "y": 6 + 12 * (after // 2), "w": 24, "h": 12}
        position = {"panelIndex": str(place), "gridData": {**grid, "i": str(place)}}
        laid.append({"type": "visualization", **position, "panelRefName": name, "embeddableConfig": {}})
        references.append({"type": "visualization", "id": found["id"], "name": f"{place}:{name}"})
    attributes = {
        "title": "Codebank: pagamentos",
        "description": "Payments as Elasticsearch has them: volume, amounts, approval, declines, time to the index.",
        "version": 1,
        "panelsJSON": text(laid),
        "optionsJSON": text({"useMargins": True, "syncColors": False, "syncTooltips": False, "hidePanelTitles": False}),
        "kibanaSavedObjectMeta": {"searchSourceJSON": text(EVERYTHING)},
        "timeRestore": True,
        "timeFrom": "now-24h",
        "timeTo": "now",
        "refreshInterval": {"pause": False, "value": 30000},
    }
    return saved("dashboard", f"{DATA_VIEW}-dashboard", "8.9.0", attributes, references)


def content() -> str:
    """Give the whole file: what is referred to comes before what refers to it."""
    numbers = [visualization(panel) for panel in figures()]
    panels = [*numbers, *(visualization(panel) for panel in (*over_time_panels(), *breakdown_panels()))]
    return "".join(f"{text(item)}\n" for item in (data_view(), *panels, dashboard(panels, len(numbers))))


if __name__ == "__main__":
    Path(__file__).with_name("payments.ndjson").write_text(content(), encoding="utf-8")
