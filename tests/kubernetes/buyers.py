"""Buyers as a process of its own, because it runs where the cluster's services are found: on the node, or in a pod.

    python -m tests.kubernetes.buyers http://checkout:8000 3

buys until its input ends (no signal reaches a process in other namespaces), then prints what came of it as JSON. Needs
nothing that our image does not have.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from codebank.bank.test_cards import TEST_CARDS
from codebank.wire import new_id

_TIMEOUT_SECONDS = 20
_KNOCKS = 4


def ask(place: str, method: str, path: str, body: object = None, **headers: str) -> dict[str, Any]:
    """Ask the shop by a connection of its own. Raises OSError, HTTPException or ValueError."""
    shop = HTTPConnection(place, timeout=_TIMEOUT_SECONDS)
    try:
        knock(shop)
        given = None if body is None else json.dumps(body)
        shop.request(method, path, given, {"content-type": "application/json", **headers})
        answer = shop.getresponse()
        said = answer.read()
        if answer.status >= 400:
            raise ValueError(f"{method} {path}: {answer.status} {said.decode()[:200]}")
        found: dict[str, Any] = json.loads(said)
        return found
    finally:
        shop.close()


def knock(shop: HTTPConnection) -> None:
    """Connect; a shop's door may close while somebody knocks, and the next one is open."""
    for left in reversed(range(_KNOCKS)):
        try:
            return shop.connect()
        except OSError:
            if not left:
                raise
            time.sleep(0.1)
    return None


def buy(place: str) -> str:
    """Buy one thing, and ask for the order until it is decided."""
    body = {"items": [{"product": "cafe-especial", "quantity": 1}], "card": TEST_CARDS[0].body}
    order = ask(place, "POST", "/api/orders", body, **{"idempotency-key": str(new_id())})
    while order["status"] in {"pending", "processing"}:
        time.sleep(0.05)
        order = ask(place, "GET", f"/api/orders/{order['id']}")
    return str(order["status"])


def main(url: str, count: int) -> None:
    """Let so many buy until the input ends."""
    place, outcomes, stop = urlsplit(url).netloc, Counter[str](), threading.Event()
    errors: list[str] = []

    def go_on() -> None:
        while not stop.is_set():
            try:
                outcomes[buy(place)] += 1
            except (OSError, HTTPException, ValueError, KeyError) as error:
                errors.append(repr(error))

    buyers = [threading.Thread(target=go_on) for _ in range(count)]
    for buyer in buyers:
        buyer.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    stop.set()
    for buyer in buyers:
        buyer.join()
    json.dump({"outcomes": dict(outcomes), "errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
