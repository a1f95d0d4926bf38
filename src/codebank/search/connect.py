"""Kafka Connect by its REST: connectors as files, applied again and again until they are so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from codebank.errors import Code, CodebankError
from codebank.events import PAYMENTS_TOPIC
from codebank.runtime.web.peer import Peer, PeerError, PeerUnavailable
from codebank.search.index import SearchIndex
from codebank.settings import Settings

#: The connector that fills the index of payments.
CONNECTOR: Final = "codebank-payments-search"
#: While workers share tasks out anew, Connect refuses changes with this.
_REBALANCING: Final = 409
_PATIENCE_SECONDS: Final = 60
_PAUSE_SECONDS: Final = 0.3
#: Looks in a row after which a state is believed.
_SEEN_RUNNING: Final = 2
_SEEN_FAILED: Final = 15


@dataclass(frozen=True, slots=True)
class ConnectorState:
    """A connector as Connect tells of it."""

    name: str
    #: `RUNNING`, `PAUSED`, `FAILED` … of the connector itself.
    state: str
    tasks: tuple[str, ...]
    #: What failed, in a line; empty where nothing did.
    trouble: str

    @property
    def runs(self) -> bool:
        """Whether it and all its tasks run."""
        return bool(self.tasks) and {self.state, *self.tasks} == {"RUNNING"}

    @property
    def has_failed(self) -> bool:
        """Whether something of it stands still until somebody starts it again."""
        return "FAILED" in (self.state, *self.tasks)


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done about one connector."""

    name: str
    #: `created`, `changed`, `as it should be` or `restarted`.
    did: str
    tasks: int


def group_of(connector: str) -> str:
    """Give the consumer group in which a sink connector reads."""
    return f"connect-{connector}"


def connector_files(deploy: Path) -> list[dict[str, Any]]:
    """Read every connector's file."""
    found = [json.loads(path.read_text()) for path in sorted((deploy / "connect" / "connectors").glob("*.json"))]
    if not found:
        raise CodebankError(
            Code.FAILED_PRECONDITION,
            f"no connector was found under {deploy}",
            hint="run it in a checkout, or set CODEBANK_DEPLOY to its folder `deploy`",
        )
    return found


async def read_connectors(settings: Settings) -> list[ConnectorState]:
    """Tell how the connectors stand. Raises PeerUnavailable where Connect does not answer."""
    listed = await Peer(settings.connect, timeout_seconds=5).ask("GET", "/connectors?expand=status")
    return [_state(name, one["status"]) for name, one in sorted(listed.items())]


def _state(name: str, status: dict[str, Any]) -> ConnectorState:
    tasks = status["tasks"]
    traces = [one.get("trace", "") for one in (status["connector"], *tasks)]
    trouble = next((_cause_of(trace) for trace in traces if trace), "")
    return ConnectorState(name, status["connector"]["state"], tuple(task["state"] for task in tasks), trouble)


def _cause_of(trace: str) -> str:
    """Find the line of a Java trace that says what really happened."""
    lines = trace.splitlines()
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return causes[-1] if causes else lines[0]


async def apply_connectors(settings: Settings, say: Callable[[str], None]) -> list[Applied]:
    """Bring index template and connectors to what the files say, and wait until they run. Safe to repeat.

    Raises CodebankError where Connect or Elasticsearch does not answer, refuses the configuration, or a task fails.
    """
    if not settings.connect or not settings.elasticsearch:
        missing = [f"CODEBANK_{name.upper()}" for name in ("connect", "elasticsearch") if not getattr(settings, name)]
        raise CodebankError(Code.INVALID, f"{' and '.join(missing)} must say where it is")
    index = SearchIndex.of(settings)
    assert index is not None
    try:
        await index.prepare(settings.deploy)
        return [await _apply(settings, document, say) for document in connector_files(settings.deploy)]
    except PeerUnavailable as error:
        raise CodebankError(Code.UNAVAILABLE, str(error)) from error
    except PeerError as error:
        raise CodebankError(Code.INVALID, f"refused: {error}") from error


async def remove_search(settings: Settings) -> None:
    """Throw connectors and index away, such as before the topics that are read.

    Raises CodebankError where Connect or Elasticsearch does not answer.
    """
    peer, index = Peer(settings.connect), SearchIndex.of(settings)
    try:
        for document in connector_files(settings.deploy):
            try:
                await _patiently(peer, "DELETE", f"/connectors/{document['name']}")
            except PeerError as error:
                if error.status != 404:
                    raise
        if index is not None:
            await index.remove()
    except PeerUnavailable as error:
        raise CodebankError(Code.UNAVAILABLE, str(error)) from error


async def rewind(settings: Settings, offsets: dict[int, int]) -> None:
    """Let the connector read partitions again from offsets; newer documents are not overwritten by that.

    Raises PeerUnavailable or PeerError.
    """
    peer, path = Peer(settings.connect), f"/connectors/{CONNECTOR}"
    await _patiently(peer, "PUT", f"{path}/stop")
    try:
        await _wait_for(peer, lambda state: state.state == "STOPPED" and not state.tasks)
        wanted = [
            {
                "partition": {"kafka_topic": PAYMENTS_TOPIC, "kafka_partition": partition},
                "offset": {"kafka_offset": offset},
            }
            for partition, offset in offsets.items()
        ]
        await _patiently(peer, "PATCH", f"{path}/offsets", {"offsets": wanted})
    finally:
        await _patiently(peer, "PUT", f"{path}/resume")
    await _wait_for(peer, lambda state: state.runs)


async def _wait_for(peer: Peer, condition: Callable[[ConnectorState], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
    while not condition(await _status(peer, CONNECTOR)):
        if asyncio.get_running_loop().time() > deadline:
            raise PeerUnavailable(f"connector {CONNECTOR} does not do as it is told")
        await asyncio.sleep(_PAUSE_SECONDS)


def configuration_of(settings: Settings, document: dict[str, Any]) -> dict[str, str]:
    """Fill in what differs from place to place: where Elasticsearch is, and how many brokers keep a record."""
    given = {
        "connection.url": settings.elasticsearch,
        "connection.username": settings.elasticsearch_username,
        "connection.password": settings.elasticsearch_password,
        "errors.deadletterqueue.topic.replication.factor": str(settings.kafka_replication),
    }
    if settings.elasticsearch_ca_file:
        given["elastic.https.ssl.truststore.location"] = settings.elasticsearch_ca_file
    # Its name belongs to its configuration: Connect adds it, and one compares.
    return {**document["config"], **given, "name": document["name"]}


async def _apply(settings: Settings, document: dict[str, Any], say: Callable[[str], None]) -> Applied:
    peer, name = Peer(settings.connect), document["name"]
    wanted = configuration_of(settings, document)
    try:
        found = await _patiently(peer, "GET", f"/connectors/{name}/config")
    except PeerError as error:
        if error.status != 404:
            raise
        found = None
    did = "created" if found is None else "as it should be" if found == wanted else "changed"
    if found != wanted:
        await _patiently(peer, "PUT", f"/connectors/{name}/config", wanted)
    elif not (await _status(peer, name)).runs:
        did = "restarted"
        await _patiently(peer, "POST", f"/connectors/{name}/restart?includeTasks=true&onlyFailed=true")
    state = await _wait_until_it_runs(peer, name, say)
    return Applied(name, did, len(state.tasks))


async def _status(peer: Peer, name: str) -> ConnectorState:
    return _state(name, await _patiently(peer, "GET", f"/connectors/{name}/status"))


async def _wait_until_it_runs(peer: Peer, name: str, say: Callable[[str], None]) -> ConnectorState:
    loop = asyncio.get_running_loop()
    deadline, told = loop.time() + _PATIENCE_SECONDS, False
    seen = failed = 0
    while True:
        try:
            state = await _status(peer, name)
        except PeerError as error:
            # It was made a moment ago, and this worker has not heard of it.
            if error.status != 404:
                raise
            state = ConnectorState(name, "UNKNOWN", (), "")
        # Right after a change, what ran before may still be told of.
        seen = seen + 1 if state.runs else 0
        failed = failed + 1 if state.has_failed else 0
        if seen > _SEEN_RUNNING:
            return state
        if failed > _SEEN_FAILED:
            raise CodebankError(Code.FAILED_PRECONDITION, f"connector {name} fails: {state.trouble}")
        if loop.time() > deadline:
            raise CodebankError(
                Code.UNAVAILABLE, f"connector {name} does not run: {state.state}, tasks {state.tasks}: {state.trouble}"
            )
        if not told and loop.time() > deadline - _PATIENCE_SECONDS + 3:
            told = True
            say(f"waiting for connector {name}")
        await asyncio.sleep(_PAUSE_SECONDS)


async def _patiently(peer: Peer, method: str, path: str, document: Any = None) -> Any:
    deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
    while True:
        try:
            return await peer.ask(method, path, document)
        except PeerError as error:
            if error.status != _REBALANCING or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(_PAUSE_SECONDS)
