"""Standard output and error as commands write to them: what nobody can read, or spell, changes no answer."""

from __future__ import annotations

import errno
import io
import sys
from typing import Any, Final, TextIO

#: Whoever read it has gone: a pipe that was closed, a terminal that was closed.
_UNREAD: Final = {errno.EPIPE, errno.EIO, errno.ECONNRESET}


class _Outlet(io.FileIO):
    """A file that takes everything, also where nobody reads it any more; says once where an answer is not kept."""

    def __init__(self, number: int, *, answers: bool) -> None:
        super().__init__(number, "wb", closefd=False)
        self._may_fail = answers

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if self._may_fail and error.errno not in _UNREAD:
                # Once: at the end of the process it would be written again, and change the exit code.
                self._may_fail = False
                raise
            return len(data)


def open_outlets() -> None:
    """Write to standard output and error by way of an outlet, from now on."""
    sys.stdout, sys.stderr = _steady(sys.stdout), _steady(sys.stderr)


def _steady(stream: TextIO) -> TextIO:
    if not isinstance(getattr(stream, "buffer", None), io.BufferedWriter | io.FileIO):
        return stream  # closed from the start, or somebody's own
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Outlet(stream.fileno(), answers=stream is sys.stdout)),
        encoding=stream.encoding,
        # A letter that the output does not know is spelled out: `\u2713`.
        errors="backslashreplace",
        line_buffering=stream is sys.stderr or stream.isatty(),
    )
