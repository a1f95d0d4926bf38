"""Pages: Jinja2 templates of a room over the shared ones, in the reader's language and theme."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from codebank.money import format_money, money_parts
from codebank.runtime.web.language import (
    LANGUAGE_TAGS,
    Words,
    choose_language,
    day_text,
    load_words,
    time_text,
)

STATIC_FOLDER: Final = Path(str(resources.files("codebank.runtime") / "static"))
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
def static_url(path: str) -> str:
    """Give the address of a static file; it changes when the file's bytes change, so it may be cached for ever."""
    digest = hashlib.sha256((STATIC_FOLDER / path).read_bytes()).hexdigest()[:12]
    return f"/static/{path}?v={digest}"


@dataclass
class Pages:
    """Draws the pages of one room."""

    #: Such as `codebank.checkout`.
    package: str
    site: Site
    words: Words = field(init=False)
    environment: Environment = field(init=False)

    def __post_init__(self) -> None:
        self.words = load_words("codebank.runtime", self.package)
        self.environment = Environment(
            loader=ChoiceLoader([PackageLoader(self.package), PackageLoader("codebank.runtime")]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.globals["static"] = static_url
        self.environment.globals["site"] = self.site

    def language(self, request: Request) -> str:
        """Give the reader's language."""
        return choose_language(request.cookies.get("language"), request.headers.get("accept-language", ""))

    def say(self, request: Request, key: str, **values: object) -> str:
        """Give a sentence in the reader's language."""
        return self.words.say(self.language(request), key, **values)

    def context(self, request: Request) -> dict[str, Any]:
        """Give what every template may use."""
        language = self.language(request)
        theme = request.cookies.get("theme", "system")
        return {
            "t": partial(self.words.say, language),
            "language": language,
            "language_tag": LANGUAGE_TAGS[language],
            "theme": theme if theme in THEMES else "system",
            "request_path": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            "money_parts": partial(_with_language, money_parts, language),
            "money_text": partial(_with_language, format_money, language),
            "day_text": partial(_with_language, day_text, language),
            "time_text": time_text,
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
