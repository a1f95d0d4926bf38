"""Which missing numbers of an account have their cause on file: a dead letter that was not replayed. Pure.

An account's events are numbered 1, 2, 3 …, so a number that does not come is a loss, and nothing after it may be shown
as if it were whole. A record that nobody could read is no loss: every byte of it is kept. It excuses its own number and
no other, and only while it lies there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec

from codebank.wire import UNREADABLE

#: The number of a record that says of itself that it is another account's: it stands for no event of this one.
NO_EVENT: Final = 0
#: A number of more digits is none: no account has as many events, and none shall wait for those in between.
_DIGITS_MAX: Final = 18
NUMBER_MAX: Final = 10**_DIGITS_MAX - 1


@dataclass(frozen=True, slots=True)
class Excuse:
    """Which event of its account a dead letter stands for."""

    sequence: int
    #: None where the record tells its number. Where it does not, only its place does, right behind this event.
    after_sequence: int | None = None


class _Numbered(msgspec.Struct):
    """What the value of an event tells of its number, whatever else does not fit."""

    sequence: int | None = None
    account_id: str | None = None


_NOTHING: Final = _Numbered()
_decoder: Final = msgspec.json.Decoder(_Numbered)


def number_on_record(headers: Mapping[str, str], value: bytes, account_id: UUID) -> int | None:
    """Read which event of an account a record says that it is, by its header or else its value; None where neither."""
    try:
        numbered = _decoder.decode(value)
    except UNREADABLE:
        numbered = _NOTHING
    if {headers.get("ce_subject"), numbered.account_id} - {None, str(account_id)}:
        return NO_EVENT
    for text in (headers.get("ce_sequence", ""), str(numbered.sequence)):
        if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX:
            return int(text)
    return None


class Excuses:
    """The dead letters of accounts that lie on file and were not replayed."""

    def __init__(self, on_file: Mapping[UUID, Sequence[Excuse]]) -> None:
        self._on_file = {account_id: list(excuses) for account_id, excuses in on_file.items()}

    def add(self, account_id: UUID, told: int | None, last_applied: int) -> Excuse:
        """Put a record on file that came after an account's last applied event, and say what it stands for.

        A number that cannot be told is the one that is due where the record lies: events of an account are in order. It
        is believed only if it is missing right before the next event. Whatever comes next otherwise, the record was
        none of the account's events, and must excuse no loss to come.
        """
        if told is None:
            due = max((last_applied, *self._between(account_id, last_applied))) + 1
            excuse = Excuse(due, last_applied)
        else:
            excuse = Excuse(told)
        self._on_file.setdefault(account_id, []).append(excuse)
        return excuse

    def cover(self, account_id: UUID, last_applied: int, sequence: int) -> bool:
        """Tell whether every number between an account's last applied event and the one that came is on file."""
        there = self._between(account_id, last_applied)
        return all(number in there for number in range(last_applied + 1, sequence))

    def _between(self, account_id: UUID, last_applied: int) -> set[int]:
        excuses = self._on_file.get(account_id, ())
        return {one.sequence for one in excuses if one.after_sequence in (None, last_applied)}
