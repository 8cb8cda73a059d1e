"""aiokafka's clients on the simulated broker.

The producer is aiokafka's own, with its batches, retries and transactions: only the client below it, which sends
requests, is simulated. The consumer is simulated whole, as far as `LogReader` uses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple
from zlib import crc32

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, NodeNotReadyError, OffsetOutOfRangeError
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest

from tests.simulation.servers.broker import CLUSTER, SimulatedBroker
from tests.simulation.servers.logs import Fetched, SimulatedRecord
from tests.simulation.virtual_loop import HOST
from tests.simulation.wire import Disconnected, SimulatedLink, SimulatedWire

KAFKA = "kafka"
FETCHED = 40  # most records of a fetch
RETRY_S = 0.05
NODES = 5
IDLE_FETCHES = 5  # as many of the engine's idle fetches as one here: an idle fleet shouldn't cost a run's time


class SimulatedKafka(NamedTuple):
    """The broker, and the network to it: all that a client needs."""

    broker: SimulatedBroker
    wire: SimulatedWire


class ProducerOfRun(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka ships no types
    """aiokafka's producer. Nothing complains where a dead process left it open."""

    def __del__(self) -> None: ...


class SimulatedCluster:
    """The cluster's metadata: each topic has a node of its own, so that what is sent to two may arrive in any order."""

    def __init__(self, broker: SimulatedBroker) -> None:
        self._broker = broker

    def leader_for_partition(self, tp: TopicPartition) -> int:
        return crc32(tp.topic.encode()) % NODES

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range(self._broker.partitions[topic]))

    available_partitions_for_topic = partitions_for_topic


class SimulatedClient:
    """AIOKafkaClient, as far as the producer uses it."""

    def __init__(self, kafka: SimulatedKafka, **_: Any) -> None:
        self._kafka = kafka
        self._links: dict[Any, SimulatedLink] = {}
        self._client_id = "simulated"
        self._timeout_s = 4.0
        self.cluster = SimulatedCluster(kafka.broker)

    async def bootstrap(self) -> None:
        try:
            await self._call(0, ConnectionGroup.DEFAULT, lambda: None)
        except Disconnected:
            raise KafkaConnectionError from None

    async def close(self) -> None:
        """Close the connections."""
        for link in self._links.values():
            link.cut()

    async def _call(self, node: int, group: Any, work: Any, *, ends: bool = False) -> Any:
        link = self._links.get((node, group))
        if link is None or link.broken:
            link = self._links[node, group] = self._kafka.wire.link(HOST.get(), KAFKA)
        return await self._kafka.wire.call(link, work, ends=ends)

    async def _get_conn(self, *_: Any, **__: Any) -> object:
        return self

    def get_random_node(self) -> int:
        return 0

    async def _wait_on_metadata(self, topic: str) -> set[int]:
        return self.cluster.partitions_for_topic(topic)

    async def _maybe_wait_metadata(self) -> None: ...

    def force_metadata_update(self) -> asyncio.Future[Any]:
        return asyncio.ensure_future(asyncio.sleep(RETRY_S))

    async def coordinator_lookup(self, *_: Any) -> int:
        try:
            await self._call(0, ConnectionGroup.DEFAULT, lambda: None)
        except Disconnected:
            raise NodeNotReadyError from None
        return 0

    async def ready(self, *_: Any, **__: Any) -> bool:
        return True

    async def send(self, node: int, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        try:
            if not isinstance(request, EndTxnRequest):
                return await self._call(node, group, lambda: self._answer(request))
            begun = self._kafka.broker.begun(request._transactional_id)
            return await self._call(node, group, lambda: self._end(request, begun), ends=True)
        except Disconnected:
            raise KafkaConnectionError("the connection was closed") from None

    def _answer(self, request: Any) -> Any:
        broker = self._kafka.broker
        if isinstance(request, ProduceRequest):
            topics = [
                (topic, [(p, *_numbered(broker.produce(request._transactional_id, TopicPartition(topic, p), data)))
                         for p, data in parts])
                for topic, parts in request._topics
            ]  # fmt: skip
            return SimpleNamespace(API_VERSION=2, topics=[(t, [(*part, -1) for part in rows]) for t, rows in topics])
        name = request._transactional_id
        if isinstance(request, InitProducerIdRequest):
            self._timeout_s = request._transaction_timeout_ms / 1000
            error, pid, epoch = broker.init_producer(name)
            return SimpleNamespace(error_code=error.errno, producer_id=pid, producer_epoch=epoch)
        pid, epoch = request._producer_id, request._producer_epoch
        if isinstance(request, AddPartitionsToTxnRequest):
            tps = sorted(TopicPartition(topic, p) for topic, parts in request._topics for p in parts)
            code = broker.add_partitions(name, pid, epoch, tps, self._timeout_s).errno
            return SimpleNamespace(errors=[(tp.topic, [(tp.partition, code)]) for tp in tps])
        raise AssertionError(request)

    def _end(self, request: Any, begun: int) -> Any:
        about = (request._transactional_id, request._producer_id, request._producer_epoch, begun)
        error = self._kafka.broker.end(*about, committed=bool(request._transaction_result))
        return SimpleNamespace(error_code=error.errno)


def _numbered(result: tuple[Any, int]) -> tuple[int, int]:
    error, offset = result
    return error.errno, offset


class SimulatedConsumer:
    """The consumer of one assigned partition, read_committed. A fetch goes on when nobody waits for it any more."""

    def __init__(self, kafka: SimulatedKafka, **_: Any) -> None:
        self._kafka = kafka
        self._client = self  # describe_topics asks the client
        self._fetcher = SimpleNamespace(_fetch_max_wait_ms=10)
        self._link: SimulatedLink | None = None
        self._at: dict[TopicPartition, int] = {}
        self._fetched: Fetched | None = None  # of the one partition, not all delivered
        self._fetching: asyncio.Task[None] | None = None
        self._bounds: tuple[int, int] | None = None
        self._answers = 0

    async def start(self) -> None:
        await self._call(lambda: None)

    async def stop(self) -> None:
        self._drop()
        if self._link:
            self._link.cut()

    async def _get_conn(self, *_: Any, **__: Any) -> object:
        return self

    async def _call(self, work: Any) -> Any:
        if self._link is None or self._link.broken:
            self._link = self._kafka.wire.link(HOST.get(), KAFKA)
        try:
            return await self._kafka.wire.call(self._link, work)
        except Disconnected:
            raise KafkaConnectionError from None

    async def _until_answered(self, work: Any) -> Any:
        deadline = asyncio.get_running_loop().time() + 40
        while True:
            try:
                return await self._call(work)
            except KafkaConnectionError:
                if asyncio.get_running_loop().time() > deadline:
                    raise KafkaTimeoutError from None
                await asyncio.sleep(RETRY_S)

    async def send(self, node: int, request: Any) -> Any:
        """Answer a request for metadata."""
        counts = self._kafka.broker.partitions
        topics = [
            {"topic": t, "error_code": 0 if t in counts else 3, "partitions": [{}] * counts.get(t, 0)}
            for t in request._topics
        ]
        await self._call(lambda: None)
        return SimpleNamespace(to_object=lambda: {"cluster_id": CLUSTER, "topics": topics})

    def get_random_node(self) -> int:
        return 0

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._drop()
        self._at = dict.fromkeys(partitions, 0)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._drop()
        self._at[tp] = offset

    def _drop(self) -> None:
        self._fetched = self._bounds = None
        if self._fetching:
            self._fetching.cancel()
            self._fetching = None

    async def position(self, tp: TopicPartition) -> int:
        return self._at[tp]

    async def beginning_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        found = await self._until_answered(lambda: self._kafka.broker.bounds(tps))
        return {tp: begin for tp, (begin, _) in found.items()}

    async def end_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        found = await self._until_answered(lambda: self._kafka.broker.bounds(tps))
        return {tp: end for tp, (_, end) in found.items()}

    def highwater(self, tp: TopicPartition) -> int | None:
        return self._bounds and self._bounds[1]

    def last_stable_offset(self, tp: TopicPartition) -> int | None:
        return self._bounds and self._bounds[0]

    def last_poll_timestamp(self, tp: TopicPartition) -> int:
        return self._answers

    async def getmany(
        self, tp: TopicPartition, *, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[SimulatedRecord]]:
        if self._fetched is None:
            if self._fetching is None:
                self._fetching = asyncio.ensure_future(self._fetch(tp, self._at[tp]))
            if timeout_ms <= 0 and not self._fetching.done():
                return {}
            await asyncio.wait([self._fetching], timeout=timeout_ms / 1000)
        if self._fetching and self._fetching.done():
            done, self._fetching = self._fetching, None
            done.result()
        if self._fetched is None:
            return {}
        records, rest = self._fetched.records[:max_records], self._fetched.records[max_records:]
        self._at[tp] = rest[0].offset if rest else self._fetched.position
        self._fetched = self._fetched._replace(records=rest) if rest else None
        return {tp: records} if records else {}

    async def _fetch(self, tp: TopicPartition, offset: int) -> None:
        """Fetch until there is something new. Raises OffsetOutOfRangeError."""
        wait_s = self._fetcher._fetch_max_wait_ms / 1000 * IDLE_FETCHES
        broker = self._kafka.broker
        while True:
            try:
                found = await self._call(lambda: broker.fetch(tp, offset, FETCHED, wait_s))
            except OffsetOutOfRangeError:
                raise
            except KafkaConnectionError:
                await asyncio.sleep(RETRY_S)
                continue
            self._bounds = found.end, found.high
            self._answers += 1
            if found.position > offset:
                self._fetched = found
                return
