"""What a page calls a code: its words; where this release has none, neutral ones with the code beside them."""

from __future__ import annotations

from dataclasses import dataclass

from codebank.runtime.web.language import Words


@dataclass(frozen=True, slots=True)
class Name:
    """What a code is called."""

    words: str
    #: The code itself, where the words do not say it.
    code: str = ""

    @property
    def text(self) -> str:
        """Both in one sentence."""
        return f"{self.words} ({self.code})" if self.code else self.words


@dataclass(frozen=True, slots=True)
class Naming:
    """Names codes in the reader's language."""

    words: Words
    language: str

    def spoken(self, code: str) -> Name:
        """Name a state of a payment or an order."""
        return self._name("spoken", code)

    def decline(self, code: str) -> Name:
        """Name why a payment was refused."""
        return self._name("decline", code)

    def _name(self, table: str, code: str) -> Name:
        if f"{table}.{code}" in self.words.sentences[self.language]:
            return Name(self.words.say(self.language, f"{table}.{code}"))
        return Name(self.words.say(self.language, f"unknown.{table}"), code)
