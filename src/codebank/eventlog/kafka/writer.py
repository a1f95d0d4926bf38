"""The writer of a topic: transactional, so a batch is on the log whole or not at all, and one writer lives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from codebank.eventlog.kafka.client import PATIENCE_SECONDS, cause_of, unavailable
from codebank.eventlog.kafka.lane import Lane
from codebank.eventlog.kafka.looker import Looker
from codebank.eventlog.log import Fenced, NewRecord, Record, partition_of

#: Far more than a topic takes: what others wrote, and is put aside, may have been that much before it was compressed.
_MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
_FENCED: Final = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)


class KafkaWriter:
    """The one writer of a topic; see `codebank.eventlog.log.Writer` for what it promises."""

    def __init__(self, connection: Mapping[str, Any], topic: str, looker: Looker, lane: Lane) -> None:
        self._topic = topic
        self._looker = looker
        self._lane = lane
        self._producer = Producer(
            {
                **connection,
                "transactional.id": f"codebank.writer.{topic}",
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 0,
                "compression.type": "lz4",
                # How much is too much, compressed, is the topic's say.
                "message.max.bytes": _MESSAGE_BYTES_MAX,
                "transaction.timeout.ms": 2 * PATIENCE_SECONDS * 1000,
                "delivery.timeout.ms": PATIENCE_SECONDS * 1000,
            }
        )

    async def open(self) -> None:
        """Take the topic over: whoever wrote it before is fenced, and what that one left open is undone."""
        try:
            await self._lane.run_patiently(self._producer.init_transactions)
        except KafkaException as error:
            raise unavailable(error) from error

    async def append(self, records: Sequence[NewRecord]) -> None:
        if not records:
            return
        try:
            await self._lane.try_run(self._produce, records)
            await self._lane.run_patiently(self._producer.commit_transaction)
        except KafkaException as error:
            # An open transaction is left as it is: the next writer's opening undoes it.
            if cause_of(error).code() in _FENCED:
                raise Fenced(f"another writer of {self._topic} was opened: {cause_of(error).str()}") from error
            raise unavailable(error) from error

    def _produce(self, records: Sequence[NewRecord]) -> None:
        self._producer.begin_transaction()
        for record in records:
            self._producer.produce(
                self._topic,
                key=record.key,
                value=record.value,
                partition=partition_of(record.key),
                headers=[(name, text.encode()) for name, text in record.headers.items()],
            )

    async def tail(self, count: int) -> list[Record]:
        return await self._looker.tail(self._topic, count)

    async def close(self) -> None:
        if not self._lane.is_closed:
            # What is queued belongs to a batch whose outcome is unknown already: nobody waits for it.
            await self._lane.try_run(self._producer.purge)
            self._lane.close()
