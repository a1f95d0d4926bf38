"""The index of payments in Elasticsearch: its template, and what the proof reads of it.

Nobody here writes a document: that is the connector's, with the account's sequence as the document's version.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from codebank.civil import SAO_PAULO
from codebank.events import PAYMENTS_TOPIC
from codebank.runtime.web.peer import Peer, PeerError
from codebank.settings import Settings

#: The index has the topic's name, as every sink chooses it by itself.
INDEX: Final = PAYMENTS_TOPIC
_TEMPLATE: Final = "codebank-payments"
_PAGE: Final = 5000
_MISSING: Final = 404
_STATE_FIELDS: Final = ("payment_id", "account_id", "status", "amount_minor", "refunded_minor", "sequence")

_EVENT_FIELDS: Final = ("sequence", "occurred_at", "index_delay_milliseconds")


@dataclass(frozen=True, slots=True)
class Total:
    """Payments of one day in one state."""

    count: int
    amount_minor: int
    refunded_minor: int


Totals = dict[tuple[date, str], Total]


@dataclass(frozen=True)
class SearchIndex:
    """The payments in Elasticsearch. Every call may raise PeerUnavailable or PeerError."""

    peer: Peer

    @staticmethod
    def of(settings: Settings) -> SearchIndex | None:
        """Give the index of the settings; None where there is none."""
        if not settings.elasticsearch:
            return None
        return SearchIndex(
            Peer(
                settings.elasticsearch,
                settings.elasticsearch_username,
                settings.elasticsearch_password,
                settings.elasticsearch_ca_file,
            )
        )

    async def prepare(self, deploy: Path) -> None:
        """Put the template in place, and make the index where it is missing, so that its mapping is never guessed.

        A template counts for new indices only: one that is there is told of fields that came since.
        """
        template = json.loads((deploy / "search" / "payments.json").read_text())
        await self.peer.ask("PUT", f"/_index_template/{_TEMPLATE}", template)
        try:
            await self.peer.ask("PUT", f"/{INDEX}")
        except PeerError as error:
            if "resource_already_exists_exception" not in str(error):
                raise
            await self.peer.ask("PUT", f"/{INDEX}/_mapping", template["template"]["mappings"])

    async def remove(self) -> None:
        """Throw the index away."""
        with contextlib.suppress(PeerError):
            await self.peer.ask("DELETE", f"/{INDEX}")

    async def count(self) -> int:
        """Count the payments that a search finds now."""
        answer = await self.peer.ask("GET", f"/{INDEX}/_count")
        return int(answer["count"])

    async def totals(self) -> Totals:
        """Count and add up payments per day and status, with everything that was written until now."""
        found: Totals = {}
        try:
            await self.peer.ask("POST", f"/{INDEX}/_refresh")
        except PeerError as error:
            if error.status != _MISSING:
                raise
            return found
        after: dict[str, Any] | None = None
        while True:
            answer = await self.peer.ask("POST", f"/{INDEX}/_search", _totals_query(after))
            page = answer["aggregations"]["totals"]
            for bucket in page["buckets"]:
                key = (date.fromisoformat(bucket["key"]["day"]), bucket["key"]["status"])
                # Sums come as numbers with a fraction; below 2^53 they are exact to the cent.
                found[key] = Total(
                    bucket["doc_count"], round(bucket["amount"]["value"]), round(bucket["refunded"]["value"])
                )
            after = page.get("after_key")
            if after is None or not page["buckets"]:
                return found

    async def find(self, payment_id: UUID) -> dict[str, Any] | None:
        """Give one payment's last event as the index has it; None where it has none."""
        query = {"size": 1, "query": {"term": {"payment_id": str(payment_id)}}, "_source": list(_EVENT_FIELDS)}
        try:
            hits = (await self.peer.ask("POST", f"/{INDEX}/_search", query))["hits"]["hits"]
        except PeerError as error:
            if error.status != _MISSING:
                raise
            return None
        if not hits:
            return None
        source = {name: hits[0]["_source"].get(name) for name in _EVENT_FIELDS}
        return source | {"occurred_at": datetime.fromisoformat(source["occurred_at"])}

    async def delays(self, since: datetime) -> AsyncIterator[tuple[str, int]]:
        """Give each payment decided since then, with the milliseconds from its decision to the index."""
        await self.peer.ask("POST", f"/{INDEX}/_refresh")
        query = {"range": {"occurred_at": {"gte": since.isoformat()}}}
        async for source in self._documents(query, ("payment_id", "index_delay_milliseconds")):
            yield source["payment_id"], source["index_delay_milliseconds"]

    async def states(self, days: list[date]) -> AsyncIterator[dict[str, Any]]:
        """Give the state of every payment of these days, as the index has it at one moment."""
        ranges = [
            {"range": {"created_at": {"gte": f"{day}||/d", "lte": f"{day}||/d", "time_zone": SAO_PAULO.key}}}
            for day in days
        ]
        query = {"bool": {"should": ranges, "minimum_should_match": 1}}
        async for source in self._documents(query, _STATE_FIELDS):
            yield source

    async def _documents(self, query: dict[str, Any], fields: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
        """Give fields of every document that a query finds, page by page, as they are at one moment."""
        try:
            opened = await self.peer.ask("POST", f"/{INDEX}/_pit?keep_alive=2m")
        except PeerError as error:
            if error.status != _MISSING:
                raise
            return
        wanted: dict[str, Any] = {
            "size": _PAGE,
            "pit": {"id": opened["id"], "keep_alive": "2m"},
            "query": query,
            "sort": [{"_shard_doc": "asc"}],
            "track_total_hits": False,
            "_source": list(fields),
        }
        try:
            while True:
                hits = (await self.peer.ask("POST", "/_search", wanted))["hits"]["hits"]
                for hit in hits:
                    yield {name: hit["_source"].get(name) for name in fields}
                if len(hits) < _PAGE:
                    return
                wanted["search_after"] = hits[-1]["sort"]
        finally:
            await self.peer.ask("DELETE", "/_pit", {"id": opened["id"]})


def _totals_query(after: dict[str, Any] | None) -> dict[str, Any]:
    day = {
        "field": "created_at",
        "calendar_interval": "day",
        "time_zone": SAO_PAULO.key,
        "format": "yyyy-MM-dd",
    }
    composite: dict[str, Any] = {
        "size": 1000,
        "sources": [{"day": {"date_histogram": day}}, {"status": {"terms": {"field": "status"}}}],
    }
    if after is not None:
        composite["after"] = after
    sums = {"amount": {"sum": {"field": "amount_minor"}}, "refunded": {"sum": {"field": "refunded_minor"}}}
    return {"size": 0, "aggs": {"totals": {"composite": composite, "aggs": sums}}}
