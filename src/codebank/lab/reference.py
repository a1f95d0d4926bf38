"""Writes docs/reference.md from the program, so that it is never out of date."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields

from codebank.bank.door.decline import advice_of, response_code_of
from codebank.bank.test_cards import TEST_CARDS
from codebank.card import brand_of
from codebank.errors import GRPC_STATUS, HTTP_STATUS, Code
from codebank.events import DEAD_LETTERS_TOPIC, EVENT_TYPES, PAYMENTS_TOPIC, DeclineCode
from codebank.operate.demo import DEMO_EMAIL, DEMO_PASSWORD
from codebank.runtime.watch.metrics import Metric
from codebank.settings import DATABASES, PREFIX, ROLE_NAMES, Settings

_OUTCOMES = {
    "approved": "approved",
    "slow": "approved, after two seconds",
    "unavailable_once": "the first call of a key finds the bank unavailable, the next is approved",
    "timeout_after_commit": "the money moves and the first answer never comes; a repeat gives it",
}

#: Metric → the roles that show it.
Owners = Mapping[Metric, Sequence[str]]
#: Defaults that differ from machine to machine, in words.
_OWN_DEFAULTS = {
    "state": "`~/.local/state/codebank`; root: `/var/lib/codebank`",
    "deploy": "that of the checkout, else `./deploy`",
}


def reference_text(owners: Owners) -> str:
    """Write the whole reference."""
    return "\n".join([*_settings(), *_metrics(owners), *_declines(), *_errors(), *_test_cards(), *_names()]) + "\n"


def _settings() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Made by `make reference` from the program; do not edit."
    yield ""
    yield "## Settings"
    yield ""
    yield "Environment variables. `codebank up` makes the secrets once and keeps them in its state folder."
    yield ""
    yield "A secret may be given as `NAME_FILE` instead: the file that holds it."
    yield ""
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    for item in fields(Settings):
        kind = "**secret**: " if item.metadata["secret"] else ""
        yield f"| `{PREFIX}{item.name.upper()}` | {_default(item)} | {kind}{item.metadata['help']} |"


def _default(item: object) -> str:
    default = getattr(item, "default", MISSING)
    if default is MISSING:
        return _OWN_DEFAULTS[getattr(item, "name", "")]
    if isinstance(default, bool):
        return f"`{'on' if default else 'off'}`"
    return f"`{default}`" if default != "" else "empty"


def _metrics(owners: Owners) -> Iterator[str]:
    yield from (
        "",
        "## Metrics",
        "",
        "Every role serves `/metrics`, `/health/live` and `/health/ready` on its health port.",
        "",
    )
    yield "| metric | kind | labels | roles | meaning |"
    yield "|---|---|---|---|---|"
    for metric, owning in owners.items():
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
        roles = "all" if len(owning) == len(ROLE_NAMES) else ", ".join(owning)
        yield f"| `{metric.name}` | {metric.kind.__name__.lower()} | {labels} | {roles} | {metric.help} |"


def _declines() -> Iterator[str]:
    yield from ("", "## Decline codes", "", "| code | ISO 8583 | advice |", "|---|---|---|")
    for code in DeclineCode:
        yield f"| `{code}` | `{response_code_of(code)}` | `{advice_of(code)}` |"


def _errors() -> Iterator[str]:
    yield from ("", "## Error codes", "", "| code | gRPC | HTTP |", "|---|---|---|")
    for code in Code:
        yield f"| `{code}` | `{GRPC_STATUS[code]}` | {HTTP_STATUS[code]} |"


def _test_cards() -> Iterator[str]:
    yield from ("", "## Test cards", "")
    yield "They force their outcome where `CODEBANK_TEST_CARDS` is on, as it is in `codebank up`."
    yield f"The demo's cardholder signs in with `{DEMO_EMAIL}` and `{DEMO_PASSWORD}`."
    yield ""
    yield "| number | brand | expiry | CVV | outcome |"
    yield "|---|---|---|---|---|"
    for card in TEST_CARDS:
        expiry = f"{card.expiry_month:02d}/{card.expiry_year % 100:02d}"
        outcome = _OUTCOMES.get(card.outcome, f"declined: `{card.outcome}`")
        yield f"| `{card.number}` | {brand_of(card.number)} | {expiry} | {card.cvv} | {outcome} |"


def _names() -> Iterator[str]:
    yield from ("", "## Topics, events, databases", "")
    yield f"Topics: `{PAYMENTS_TOPIC}` (12 partitions, key: the account's id), `{DEAD_LETTERS_TOPIC}`."
    yield ""
    yield f"Event types: {', '.join(f'`{name}`' for name in EVENT_TYPES)}."
    yield ""
    databases = ", ".join(f"`{name}`" for name in DATABASES)
    yield f"Databases: {databases}, each with an owner of its name; `audit` reads all."
