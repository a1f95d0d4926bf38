"""Pages: Jinja2 templates of a room over the shared ones, in the reader's language and theme."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from codebank.civil import local_day
from codebank.money import format_money, money_parts
from codebank.runtime.web.language import (
    LANGUAGE_TAGS,
    Words,
    choose_language,
    day_text,
    load_words,
    moment_text,
    time_text,
)
from codebank.wire import utc_now

#: What every site shows of its own accord; a room's own files lie in its own folder `static`.
_SHARED: Final = "codebank.runtime.web"
THEMES: Final = ("system", "light", "dark")


@dataclass(frozen=True, slots=True)
class Site:
    """Which of the three sites a page belongs to, and where the others are."""

    #: checkout, statement or audit.
    section: str
    #: Path of the site's first page.
    home: str
    #: Whether hints of the demo are shown.
    demo: bool
    checkout_url: str
    statement_url: str
    audit_url: str


@lru_cache(maxsize=256)
def _static_url(folders: Sequence[Path], path: str) -> str:
    """Give the address of a static file; it changes when the file's bytes change, so it may be cached for ever."""
    file = next(folder / path for folder in folders if (folder / path).is_file())
    return f"/static/{path}?v={hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"


@dataclass
class Pages:
    """Draws the pages of one room."""

    #: Such as `codebank.checkout`.
    package: str
    site: Site
    #: Folders of static files, the room's own first.
    static_folders: tuple[Path, ...] = field(init=False)
    words: Words = field(init=False)
    environment: Environment = field(init=False)

    def __post_init__(self) -> None:
        self.static_folders = tuple(
            Path(str(resources.files(package) / "static")) for package in (self.package, _SHARED)
        )
        self.words = load_words(_SHARED, self.package)
        self.environment = Environment(
            loader=ChoiceLoader([PackageLoader(self.package), PackageLoader(_SHARED)]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.globals["static"] = partial(_static_url, self.static_folders)
        self.environment.globals["site"] = self.site

    def language(self, request: Request) -> str:
        """Give the reader's language."""
        return choose_language(request.cookies.get("language"), request.headers.get("accept-language", ""))

    def say(self, request: Request, key: str, **values: object) -> str:
        """Give a sentence in the reader's language."""
        return self.words.say(self.language(request), key, **values)

    def context(self, request: Request) -> dict[str, Any]:
        """Give what every template may use."""
        language, today = self.language(request), local_day(utc_now())
        theme = request.cookies.get("theme", "system")
        return {
            "t": partial(self.words.say, language),
            "has_words": self.words.has,
            "language": language,
            "language_tag": LANGUAGE_TAGS[language],
            "theme": theme if theme in THEMES else "system",
            "request_path": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            "money_parts": partial(_with_language, money_parts, language),
            "money_text": partial(_with_language, format_money, language),
            "day_text": partial(day_text, language=language, today=today),
            "time_text": time_text,
            "moment_text": partial(moment_text, language=language, today=today),
        }

    def render(
        self,
        request: Request,
        template: str,
        values: Mapping[str, Any] | None = None,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> HTMLResponse:
        """Answer with a whole page."""
        text = self.environment.get_template(template).render(self.context(request) | dict(values or {}))
        return HTMLResponse(text, status_code=status, headers={"cache-control": "no-store", **(headers or {})})

    def block(self, request: Request, template: str, block: str, values: Mapping[str, Any]) -> str:
        """Draw one block of a page, for a fragment that replaces it."""
        page = self.environment.get_template(template)
        context = page.new_context(self.context(request) | dict(values))
        # The page's imports stand above its blocks: drawing its first piece carries them out, and no more.
        next(page.root_render_func(context))
        return "".join(page.blocks[block](context))


def _with_language(function: Any, language: str, value: Any) -> Any:
    return function(value, language)
