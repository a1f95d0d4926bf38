"""The load of `bench order`, in a process of its own: buyers that keep their connections, and buy again when answered.

It must cost little beside what it loads: requests are encoded before, all but their keys, and of an answer nothing is
read but whether it is whole, whether it says that the order is paid, and which order it is.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

_PATIENCE_SECONDS: Final = 30
_READ_BYTES: Final = 65_536
_ID_LETTERS: Final = 36
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length: "
_PLACE: Final = b"location: /api/orders/"
_PAID: Final = b'"status":"paid"'


@dataclass
class Bought:
    """What the buyers of one turn had."""

    #: The orders that were answered as paid.
    paid: list[str] = field(default_factory=list)
    #: Answers that were anything else.
    failed: int = 0
    #: Of each answer, sorted.
    microseconds: list[int] = field(default_factory=list)
    elapsed_microseconds: int = 0
    #: Processor time of the load itself.
    own_microseconds: int = 0


def buy_for_a_while(port: int, bodies: Sequence[bytes], prefix: str, connections: int, seconds: int) -> Bought:
    """Buy over some connections for a while, and wait for the last answers. Called in the load's own process."""
    requests = _requests(bodies, prefix)
    buyers = {buyer.socket.fileno(): buyer for buyer in (_Buyer(port) for _ in range(connections))}
    ready = select.epoll()
    for number in buyers:
        ready.register(number, select.EPOLLIN)
    bought, spent = Bought(), time.process_time_ns()
    began = time.perf_counter_ns()
    end = began + seconds * 10**9
    try:
        for buyer in buyers.values():
            buyer.send(next(requests))
        waiting = connections
        while waiting:
            found = ready.poll(_PATIENCE_SECONDS)
            if not found:
                raise TimeoutError("the shop does not answer")
            for number, _ in found:
                buyer = buyers[number]
                if buyer.is_answered(bought):
                    if time.perf_counter_ns() < end:
                        buyer.send(next(requests))
                    else:
                        waiting -= 1
        bought.elapsed_microseconds = (time.perf_counter_ns() - began) // 1000
    finally:
        ready.close()
        for buyer in buyers.values():
            buyer.socket.close()
    bought.own_microseconds = (time.process_time_ns() - spent) // 1000
    bought.microseconds.sort()
    return bought


def _requests(bodies: Sequence[bytes], prefix: str) -> Iterator[bytes]:
    heads = [
        b"POST /api/orders HTTP/1.1\r\nhost: shop\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\nidempotency-key: %s-" % (len(body), prefix.encode())
        for body in bodies
    ]
    number = 0
    while True:
        for head, body in zip(heads, bodies, strict=True):
            number += 1
            yield b"%s%d%s%s" % (head, number, _HEAD_END, body)


class _Buyer:
    """One connection, with one order under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answer = b""
        self._sent_at = 0

    def send(self, request: bytes) -> None:
        self._answer = b""
        self._sent_at = time.perf_counter_ns()
        self.socket.sendall(request)

    def is_answered(self, bought: Bought) -> bool:
        """Take what came; tell whether the answer is whole, and count it then."""
        came = self.socket.recv(_READ_BYTES)
        if not came:
            raise ConnectionError("the shop closed a connection")
        self._answer += came
        head = self._answer.find(_HEAD_END)
        if head < 0:
            return False
        length = self._answer.index(_LENGTH, 0, head + 2) + len(_LENGTH)
        if len(self._answer) < head + len(_HEAD_END) + int(self._answer[length : self._answer.index(b"\r", length)]):
            return False
        bought.microseconds.append((time.perf_counter_ns() - self._sent_at) // 1000)
        if self._answer.find(_PAID, head) < 0:
            bought.failed += 1
        else:
            place = self._answer.index(_PLACE, 0, head) + len(_PLACE)
            bought.paid.append(self._answer[place : place + _ID_LETTERS].decode())
        return True
