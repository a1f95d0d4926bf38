"""A lean gRPC client for loads: HTTP/2 frames written by hand on one connection.

The library's own client costs as much processor time per call as the server that is to be measured; this one says what
every call says in bytes made once, and looks at nothing but what tells success. It is for loads on this machine only:
it speaks plaintext and knows no more of the protocol (RFC 9113, RFC 7541) than a server of ours makes use of.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, cast

from codebank.errors import Code, CodebankError

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA: Final = 0
_HEADERS: Final = 1
_RESET: Final = 3
_SETTINGS: Final = 4
_PING: Final = 6
_GO_AWAY: Final = 7
_WINDOW_UPDATE: Final = 8
#: Of SETTINGS and PING.
_ACK: Final = 1
_END_STREAM: Final = 1
_END_HEADERS: Final = 4
_INITIAL_WINDOW_SIZE: Final = 4
_WINDOW_MAX: Final = 2**31 - 1
_WINDOW_DEFAULT: Final = 65_535
_FRAME_BYTES_MAX: Final = 16_384
_FRAME_HEAD_BYTES: Final = 9
#: Length and flag in front of every gRPC message.
_PREFIX_BYTES: Final = 5
#: How the trailers of a call that went well end: without a table to refer to, the server spells them out.
_STATUS_OK: Final = b"grpc-status\x010"
#: The first place of the table that both sides fill as they go; the newest entry has it.
_NEWEST: Final = 62

#: What is done with an answer, or with the end of a stream (None); and with what ends everything.
Take = Callable[[int, bytes | None], None]
Fail = Callable[[CodebankError], None]


class Connection(asyncio.Protocol):
    """One connection that makes calls of one method. Whatever goes wrong ends it, and is told once."""

    def __init__(self, authority: str, path: str, metadata: Sequence[tuple[str, str]], take: Take, fail: Fail) -> None:
        self._teach, self._repeat = _header_blocks(authority, path, metadata)
        self._take_answer = take
        self._tell_failure = fail
        self._stream_ids = itertools.count(1, 2)
        self._received = bytearray()
        #: Stream → what came of its next message.
        self._parts: dict[int, bytearray] = {}
        #: How much the server takes now: in all, and of each stream that is kept open.
        self._window = _WINDOW_DEFAULT
        self._stream_window = _WINDOW_DEFAULT
        self._stream_windows: dict[int, int] = {}
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._transport: asyncio.Transport
        self._has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asked for its class: uvloop's is of no common one.
        self._transport = cast("asyncio.Transport", transport)
        # No table for the server to fill, no pushes, and windows that a load never fills.
        settings = b"".join(
            key.to_bytes(2) + value.to_bytes(4) for key, value in ((1, 0), (2, 0), (_INITIAL_WINDOW_SIZE, _WINDOW_MAX))
        )
        window = (_WINDOW_MAX - _WINDOW_DEFAULT).to_bytes(4)
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, window))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was lost: {exc}")

    def call(self, message: bytes) -> int:
        """Begin a call of one message and give its stream."""
        stream = self._open()
        self._write(stream, _frame(_DATA, _END_STREAM, stream, _prefixed(message)))
        return stream

    def open_stream(self) -> int:
        """Begin a call of many messages and give its stream."""
        stream = self._open()
        self._stream_windows[stream] = self._stream_window
        return stream

    def send(self, stream: int, message: bytes) -> None:
        """Send the next message of a stream."""
        data = _prefixed(message)
        for start in range(0, len(data), _FRAME_BYTES_MAX):
            self._write(stream, _frame(_DATA, 0, stream, data[start : start + _FRAME_BYTES_MAX]))

    def end_stream(self, stream: int) -> None:
        """Say that no more messages come."""
        self._write(stream, _frame(_DATA, _END_STREAM, stream, b""))

    def close(self) -> None:
        """End the connection; nothing of it is told any more."""
        self._has_ended = True
        self._transport.close()

    def _open(self) -> int:
        stream = next(self._stream_ids)
        self._parts[stream] = bytearray()
        self._transport.write(_frame(_HEADERS, _END_HEADERS, stream, self._teach))
        self._teach = self._repeat
        return stream

    def _write(self, stream: int, frame: bytes) -> None:
        """Write a frame of data now, or as soon as the server takes it."""
        size = len(frame) - _FRAME_HEAD_BYTES
        room = min(self._window, self._stream_windows.get(stream, self._window))
        if self._waiting or room < size:
            self._waiting.append((stream, frame))
            return
        self._spend(stream, size)
        self._transport.write(frame)

    def _spend(self, stream: int, size: int) -> None:
        self._window -= size
        if stream in self._stream_windows:
            self._stream_windows[stream] -= size

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        while waiting:
            self._write(*waiting.popleft())

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at, end = 0, len(received)
        while end - at >= _FRAME_HEAD_BYTES:
            size = int.from_bytes(received[at : at + 3])
            if end - at < _FRAME_HEAD_BYTES + size:
                break
            kind, flags = received[at + 3], received[at + 4]
            stream = int.from_bytes(received[at + 5 : at + 9]) & _WINDOW_MAX
            at += _FRAME_HEAD_BYTES
            self._take(kind, flags, stream, received[at : at + size])
            at += size
        del received[:at]

    def _take(self, kind: int, flags: int, stream: int, body: bytearray) -> None:
        if kind == _DATA:
            self._take_data(stream, body)
        elif kind == _HEADERS:
            if flags & _END_STREAM:
                self._take_trailers(stream, body)
        elif kind == _WINDOW_UPDATE:
            grown = int.from_bytes(body)
            if stream == 0:
                self._window += grown
            elif stream in self._stream_windows:
                self._stream_windows[stream] += grown
            self._write_waiting()
        elif kind == _SETTINGS and not flags & _ACK:
            self._take_settings(body)
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, bytes(body)))
        elif kind in (_RESET, _GO_AWAY):
            self._fail(f"the server ended {'a call' if kind == _RESET else 'the connection'}: {bytes(body)!r}")

    def _take_data(self, stream: int, body: bytearray) -> None:
        parts = self._parts[stream]
        parts += body
        while len(parts) >= _PREFIX_BYTES and len(parts) >= (end := _PREFIX_BYTES + int.from_bytes(parts[1:5])):
            message = bytes(parts[_PREFIX_BYTES:end])
            del parts[:end]
            self._take_answer(stream, message)

    def _take_trailers(self, stream: int, body: bytearray) -> None:
        del self._parts[stream]
        was_open = self._stream_windows.pop(stream, None) is not None
        if _STATUS_OK not in body:
            self._fail(f"a call failed: {bytes(body)!r}")
        elif was_open:
            self._take_answer(stream, None)

    def _take_settings(self, body: bytearray) -> None:
        for at in range(0, len(body), 6):
            if int.from_bytes(body[at : at + 2]) == _INITIAL_WINDOW_SIZE:
                size = int.from_bytes(body[at + 2 : at + 6])
                grown, self._stream_window = size - self._stream_window, size
                self._stream_windows = {stream: one + grown for stream, one in self._stream_windows.items()}
        self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        self._write_waiting()

    def _fail(self, why: str) -> None:
        if not self._has_ended:
            self.close()
            self._tell_failure(CodebankError(Code.UNAVAILABLE, why))


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + body


def _prefixed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4) + message


def _header_blocks(authority: str, path: str, metadata: Sequence[tuple[str, str]]) -> tuple[bytes, bytes]:
    """Write the headers of a call: once so that the server keeps them, then as what it kept (RFC 7541, section 6)."""
    headers = (
        (":path", path),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *metadata,
    )
    method_and_scheme = b"\x83\x86"  # POST, http: everybody knows these
    taught = b"".join(b"\x40" + _string(name) + _string(value) for name, value in headers)
    kept = bytes(0x80 | _NEWEST + place for place in reversed(range(len(headers))))
    return method_and_scheme + taught, method_and_scheme + kept


def _string(text: str) -> bytes:
    data = text.encode()
    size = len(data)
    if size < 0x7F:
        return bytes((size,)) + data
    assert size < 0xFF
    return bytes((0x7F, size - 0x7F)) + data
