"""What a PromQL expression reads: its series, the labels that it picks them by, and the labels that it keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WORDS = {
    "and",
    "or",
    "unless",
    "bool",
    "offset",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "inf",
}
_AGGREGATIONS = r"\b(?:sum|min|max|avg|count)\s*(?:by\s*\([^)]*\)\s*)?\("
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SERIES = re.compile(r"(?<![\w:.$])([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?(?!\s*\()(?![\w:])")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Selector:
    """One series that is asked for."""

    name: str
    #: Label, comparison, value.
    matchers: tuple[tuple[str, str, str], ...]


def selectors(expr: str) -> list[Selector]:
    """Find every series that an expression reads."""
    bare = _GROUPING.sub(" ", re.sub(r"\[[^\]]*\]", " ", expr))
    # A function's name is followed by a bracket, also where `by (…)` stood between them.
    bare = re.sub(r"\b[a-z_]+\s*\(", "(", bare)
    return [
        Selector(name, tuple(_MATCHER.findall(matchers or "")))
        for name, matchers in _SERIES.findall(bare)
        if name not in _WORDS
    ]


def grouped_by(expr: str) -> set[str]:
    """Find every label that an expression groups or joins by."""
    return {label.strip() for _, labels in _GROUPING.findall(expr) for label in labels.split(",") if label.strip()}


def kept_labels(expr: str, inner: set[str]) -> set[str]:
    """Tell which labels the result may have, where the series inside have `inner`."""
    by = {label for word, labels in _GROUPING.findall(expr) if word == "by" for label in re.findall(r"\w+", labels)}
    if by or re.search(_AGGREGATIONS, expr):
        return by - ({"le"} if "histogram_quantile" in expr else set())
    return inner
