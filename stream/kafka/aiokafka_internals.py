"""Every use of a private part of aiokafka, one function each. No other module may touch one.

All were read in aiokafka 0.14.0, and pyproject.toml pins aiokafka to 0.14. Before you raise the pin, read each of them
in the new version: tests/unit/stream/kafka/test_aiokafka_internals.py lists them. Importing this module changes
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import aiokafka.consumer.fetcher
import aiokafka.producer.sender
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import create_conn
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError, SaslAuthenticationFailed
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

__all__ = ["ConfigResource", "ConfigResourceType", "StickyPartitionAssignor"]

TRANSACTION_RETRY_MS: Final = 2  # for `retry_backoff_ms`; with aiokafka's default of 100 a turn takes 107 ms
RECONNECT_PAUSE_S: Final = 1.0
_HEADERS_MAGIC: Final = 2  # record batches of this format version and later have headers


def shorten_transaction_retries() -> None:
    """Let all producers of this process begin a transaction 2 ms after the previous one, not 20 ms.

    The broker refuses a new transaction until the markers of the previous one are written. For this case aiokafka
    ignores `retry_backoff_ms` and waits `aiokafka.producer.sender.BACKOFF_OVERRIDE`.
    """
    aiokafka.producer.sender.BACKOFF_OVERRIDE = TRANSACTION_RETRY_MS / 1000


class TransactionInDoubt(KafkaError):  # type: ignore[misc]  # aiokafka ships no types
    """The end of a transaction was sent once and isn't confirmed: it may have happened, or may still happen."""


def end_transactions_once(producer: AIOKafkaProducer) -> None:
    """Let a producer send the end of a transaction (EndTxn) once, and fail where that isn't confirmed.

    aiokafka repeats the request, under the same producer id and epoch, after a broken connection, a time-out or a
    refusal that may pass. The first one may still be on its way, and then ends the producer's next transaction, in the
    middle (KIP-890). Here the producer is at its end instead: `commit_transaction` and `abort_transaction` raise
    TransactionInDoubt. Its successor's start settles the transaction, and its higher epoch makes any late request void.
    """
    sender, manager = producer._sender, producer._txn_manager  # noqa: SLF001
    end = sender._do_txn_commit  # noqa: SLF001

    async def end_once(result: Any) -> None:
        await end(result)
        if manager.needs_transaction_commit() is not None:  # not ended: aiokafka would send the request again
            manager.fatal_error(TransactionInDoubt("Kafka hasn't confirmed the end of a transaction"))

    sender._do_txn_commit = end_once  # noqa: SLF001


def join_transaction(producer: AIOKafkaProducer, partition: TopicPartition) -> None:
    """Add a partition to the open transaction before anything is sent to it.

    aiokafka adds partitions in the order of the sends, in one request for all that are known by then. Announcing the
    partition of a later send early saves a request in each turn. There is no public call.
    """
    producer._txn_manager.maybe_add_partition_to_txn(partition)  # noqa: SLF001


def transaction_error(producer: AIOKafkaProducer) -> BaseException | None:
    """Return the error that a producer's open transaction has had; None: it had none.

    aiokafka raises it where the transaction is to be committed. Sends before that raise what follows from it: a topic
    that is denied isn't added to the transaction, which shows as InvalidTxnState or IllegalOperation. Ask for it also
    when the producer is thrown away: asyncio prints an error that nobody has asked for.
    """
    end = producer._txn_manager.wait_for_transaction_end()  # noqa: SLF001
    error: BaseException | None = end.exception() if end is not None and end.done() and not end.cancelled() else None
    return error


def pause_between_connection_attempts(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """Let a client wait a second after each connection that it can't make. Call it before `start`.

    aiokafka waits `retry_backoff_ms` between two attempts, whatever has failed. In a turn that must be milliseconds;
    while the broker is down it makes hundreds of attempts a second, each of them a line in the log.
    """
    network = _network(client)
    connect = network._get_conn  # noqa: SLF001

    async def connect_or_pause(*arguments: Any, **named: Any) -> Any:
        connection = await connect(*arguments, **named)
        if connection is None:
            await asyncio.sleep(RECONNECT_PAUSE_S)
        return connection

    network._get_conn = connect_or_pause  # noqa: SLF001


def _network(client: AIOKafkaProducer | AIOKafkaConsumer) -> Any:
    """Return the AIOKafkaClient of a producer, where it is public, or of a consumer, where it isn't."""
    return client.client if hasattr(client, "client") else client._client  # noqa: SLF001


async def try_connection(client: Mapping[str, Any], host: str, port: int) -> None:
    """Connect to a broker as a client would, ask for metadata, and disconnect. Raises what went wrong.

    A client that can't connect logs the reason and raises another error, which doesn't name it.
    """
    security = {name: value for name, value in client.items() if name != "bootstrap_servers"}
    connection = await create_conn(host, port, **security)
    try:
        # A listener with SASL answers the question for its versions to anybody, and hangs up at the next one.
        answer = await connection.send(MetadataRequest([]))
        # aiokafka takes any answer to an OAuth token for a yes; to the next request the broker then answers nothing.
        if not answer.brokers and client.get("sasl_mechanism") == "OAUTHBEARER":
            raise SaslAuthenticationFailed
    finally:
        await connection.close()


async def all_partitions(client: AIOKafkaProducer | AIOKafkaConsumer) -> dict[str, list[int]]:
    """Return the partitions of every topic of the cluster, sorted.

    `consumer.topics()` makes the same request and drops the partitions; `partitions_for_topic` knows assigned topics
    only. All topics are requested, because naming a topic could create it.
    """
    cluster = await _network(client).fetch_all_metadata()
    return {topic: sorted(cluster.partitions_for_topic(topic) or ()) for topic in cluster.topics()}


async def describe_topics(consumer: AIOKafkaConsumer | AIOKafkaProducer, topics: Sequence[str]) -> dict[str, Any]:
    """Return the broker's answer to a metadata request for these topics, which creates none of them.

    It has `cluster_id`, and in `topics` each topic's name, error code and partitions. An admin client could ask the
    same, but would open one more connection in every takeover.
    """
    client = _network(consumer)
    request = MetadataRequest(list(topics), allow_auto_topic_creation=False)
    answer = await client.send(client.get_random_node(), request)
    metadata: dict[str, Any] = answer.to_object()
    return metadata


def set_fetch_wait(consumer: AIOKafkaConsumer, wait_ms: int) -> None:
    """Change how long a broker may wait for records before it answers a fetch. The consumer must have been started.

    aiokafka takes `fetch_max_wait_ms` only when the consumer is made.
    """
    consumer._fetcher._fetch_max_wait_ms = wait_ms  # noqa: SLF001


def read_committed_only(consumer: AIOKafkaConsumer) -> None:
    """Set a consumer that somebody else has made (Faust) to `read_committed`. Call it before `start`."""
    consumer._isolation_level = "read_committed"  # noqa: SLF001


def group_identity(consumer: AIOKafkaConsumer) -> tuple[int, str]:
    """Return the consumer's generation and member id in its group, as of now. There is no public name for them."""
    coordinator = consumer._coordinator  # noqa: SLF001
    return int(coordinator.generation), str(coordinator.member_id)


def accept_any_header_name() -> None:
    """Let all consumers of this process read records whose header names aren't UTF-8. A second call changes nothing.

    Kafka's protocol asks for UTF-8, but neither brokers nor all clients check it. aiokafka raises on such a name each
    time that it meets it, so no later record of the partition would ever be read. Here the name is decoded with
    escapes.
    """
    aiokafka.consumer.fetcher.MemoryRecords = _TolerantRecords


class _TolerantRecords(_MemoryRecordsPy):  # type: ignore[misc]  # aiokafka ships no types
    """The record batches of a fetch. A batch that aiokafka can't decode is decoded here."""

    def next_batch(self) -> Any:
        """Return the next batch, None behind the last one."""
        part = self._next_slice
        batch = super().next_batch()
        return batch if batch is None or part[self.MAGIC_OFFSET] < _HEADERS_MAGIC else _TolerantBatch(batch, part)


class _TolerantBatch:
    """A batch as the fetcher uses it. aiokafka's own decoder, in C, reads it as long as it can."""

    def __init__(self, fast: Any, part: memoryview) -> None:
        self._fast = fast
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fast, name)

    def __next__(self) -> Any:
        return next(self._fast)

    def __iter__(self) -> Iterator[Any]:
        read = 0
        try:
            for record in self._fast:
                yield record
                read += 1
        except UnicodeDecodeError:
            yield from list(_EscapingDecoder(self._part))[read:]


class _EscapingDecoder(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka ships no types
    """A batch decoded in Python, which is slow and rarely needed."""

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer: bytearray = _EscapingBytes(self._buffer)


class _EscapingBytes(bytearray):
    """Bytes of which any slice decodes. The decoder calls `decode` for header names and nothing else."""

    def __getitem__(self, at: Any) -> Any:
        part = super().__getitem__(at)
        return _EscapingBytes(part) if isinstance(at, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        del errors
        return bytes(self).decode(encoding, "backslashreplace")
