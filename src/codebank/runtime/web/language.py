"""Words and dates in the reader's language: Brazilian Portuguese first, English beside it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from importlib import resources
from typing import Any, Final

from codebank.civil import local_day, local_time
from codebank.money import Money, format_money

#: A language with its region, and how much it is wanted.
_WANTED: Final = re.compile(r"([a-z]{1,8}|\*)(-[a-z0-9-]+)?(?:[ \t]*;[ \t]*q=([01](?:\.[0-9]{0,3})?))?")
LANGUAGES: Final = ("pt", "en")
#: The language's name for a page's `lang` attribute.
LANGUAGE_TAGS: Final = {"pt": "pt-BR", "en": "en"}

_MONTHS: Final = {
    "pt": ("jan", "fev", "mar", "abr", "mai", "jun", "jul", "ago", "set", "out", "nov", "dez"),
    "en": ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
}


@dataclass(frozen=True, slots=True)
class Words:
    """The sentences of a room in every language, by key."""

    sentences: Mapping[str, Mapping[str, str]]

    def has(self, key: str) -> bool:
        """Tell whether a key has a sentence: what a newer bank says may have none here yet."""
        return key in self.sentences[LANGUAGES[0]]

    def say(self, language: str, key: str, **values: object) -> str:
        """Give the sentence of a key, with the values put in; amounts are written as the language writes them."""
        sentence = self.sentences[language][key]
        if not values:
            return sentence
        shown = {name: format_money(v, language) if isinstance(v, Money) else v for name, v in values.items()}
        return sentence.format(**shown)


def load_words(*packages: str) -> Words:
    """Read `words/pt.toml` and `words/en.toml` of the packages; later packages win."""
    sentences: dict[str, dict[str, str]] = {}
    for language in LANGUAGES:
        sentences[language] = {}
        for package in packages:
            file = resources.files(package) / "words" / f"{language}.toml"
            sentences[language].update(_flatten(tomllib.loads(file.read_text(encoding="utf-8"))))
    return Words(sentences)


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def choose_language(cookie: str | None, accept_language: str) -> str:
    """Choose the reader's language: what they set, else what their browser asks for, else Portuguese."""
    if cookie in LANGUAGES:
        return str(cookie)
    weights = _weights(accept_language)
    rest = weights.get("*", 0)
    # The first of equals, as the browser lists them; where nothing is asked for that we speak, what is not refused.
    order = [name for name in weights if name in LANGUAGES] + [name for name in LANGUAGES if name not in weights]
    wanted = max(order, key=lambda name: weights.get(name, rest))
    if weights.get(wanted, rest) > 0:
        return wanted
    return next((name for name in LANGUAGES if weights.get(name) != 0), LANGUAGES[0])


def _weights(accept_language: str) -> dict[str, int]:
    """Read how much each language is wanted, in thousandths (RFC 9110, 12.5.4); of `pt-PT` and `pt` the most."""
    weights: dict[str, int] = {}
    for part in accept_language.lower().split(","):
        match = _WANTED.fullmatch(part.strip(" \t"))
        if match is not None:
            quality = min(1000, int((match[3] or "1").replace(".", "").ljust(4, "0")))
            weights[match[1]] = max(weights.get(match[1], 0), quality)
    return weights


def day_text(moment: datetime | date, language: str, today: date) -> str:
    """Write a day as `23 nov` on the calendar of São Paulo, with its year where that is not today's."""
    day = local_day(moment) if isinstance(moment, datetime) else moment
    written = f"{day.day} {_MONTHS[language][day.month - 1]}"
    return written if day.year == today.year else f"{written} {day.year}"


def time_text(moment: datetime, *, seconds: bool = False) -> str:
    """Write a time of day as `14:05`, on the clock of São Paulo."""
    return local_time(moment).strftime("%H:%M:%S" if seconds else "%H:%M")


def moment_text(moment: datetime, language: str, today: date) -> str:
    """Write a moment as `14:05:09`, with its day in front where that is not today."""
    time = time_text(moment, seconds=True)
    return time if local_day(moment) == today else f"{day_text(moment, language, today)}, {time}"
