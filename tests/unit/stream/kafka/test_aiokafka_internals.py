"""The private parts of aiokafka that are used, the version in which they were read, and that no others are used."""

from __future__ import annotations

import ast
import asyncio
import gc
from collections.abc import Callable, Iterator
from importlib.metadata import version
from inspect import getmembers, isfunction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import aiokafka.consumer.fetcher
import aiokafka.producer.sender
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import (
    ConcurrentTransactions,
    KafkaConnectionError,
    NodeNotReadyError,
    NotCoordinatorError,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
)
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

from stream.kafka import aiokafka_internals as internals

ROOT = Path(__file__).parents[4]
PUBLIC = {"aiokafka", "aiokafka.abc", "aiokafka.admin", "aiokafka.errors"}


class Parts(NamedTuple):
    """One of each of aiokafka's objects, connected to nothing."""

    producer: Any
    consumer: Any
    fetcher: Any
    coordinator: Any


class PrivateUse(NamedTuple):
    read_in: str
    names: Callable[[Parts], dict[str, object]]  # path -> what it is in the installed version


# Read a function's counterpart in the new version before you change its line here.
USES: dict[str, PrivateUse] = {
    "accept_any_header_name": PrivateUse(
        "0.14.0",
        lambda _: {
            "fetcher.MemoryRecords": aiokafka.consumer.fetcher.MemoryRecords,
            "_MemoryRecordsPy.next_batch": _MemoryRecordsPy.next_batch,
            "_MemoryRecordsPy._next_slice": _MemoryRecordsPy(b"")._next_slice,
            "_MemoryRecordsPy.MAGIC_OFFSET": _MemoryRecordsPy.MAGIC_OFFSET,
            "_DefaultRecordBatchPy._maybe_uncompress": _DefaultRecordBatchPy._maybe_uncompress,
            "_DefaultRecordBatchPy._buffer": _DefaultRecordBatchPy(bytearray(61))._buffer,
        },
    ),
    "_network": PrivateUse(
        "0.14.0", lambda parts: {"producer.client": parts.producer.client, "consumer._client": parts.consumer._client}
    ),
    "all_partitions": PrivateUse(
        "0.14.0", lambda parts: {"fetch_all_metadata": parts.consumer._client.fetch_all_metadata}
    ),
    "describe_topics": PrivateUse(
        "0.14.0",
        lambda parts: {
            "send": parts.consumer._client.send,
            "get_random_node": parts.consumer._client.get_random_node,
            "request": MetadataRequest(["t"], allow_auto_topic_creation=False),
        },
    ),
    "end_transactions_once": PrivateUse(
        "0.14.0",
        lambda parts: {
            "_sender._do_txn_commit": parts.producer._sender._do_txn_commit,
            "_txn_manager.needs_transaction_commit": parts.producer._txn_manager.needs_transaction_commit,
            "_txn_manager.fatal_error": parts.producer._txn_manager.fatal_error,
        },
    ),
    "group_identity": PrivateUse(
        "0.14.0",
        lambda parts: {
            "_coordinator": parts.consumer._coordinator,
            "generation": parts.coordinator.generation,
            "member_id": parts.coordinator.member_id,
        },
    ),
    "join_transaction": PrivateUse(
        "0.14.0",
        lambda parts: {"maybe_add_partition_to_txn": parts.producer._txn_manager.maybe_add_partition_to_txn},
    ),
    "transaction_error": PrivateUse(
        "0.14.0",
        lambda parts: {"wait_for_transaction_end": parts.producer._txn_manager.wait_for_transaction_end},
    ),
    "pause_between_connection_attempts": PrivateUse(
        "0.14.0",
        lambda parts: {
            "producer.client": parts.producer.client._get_conn,
            "consumer._client": parts.consumer._client._get_conn,
        },
    ),
    "read_committed_only": PrivateUse("0.14.0", lambda parts: {"_isolation_level": parts.consumer._isolation_level}),
    "set_fetch_wait": PrivateUse(
        "0.14.0",
        lambda parts: {
            "_fetcher": parts.consumer._fetcher,
            "_fetch_max_wait_ms": parts.fetcher._fetch_max_wait_ms,
        },
    ),
    "shorten_transaction_retries": PrivateUse(
        "0.14.0", lambda _: {"BACKOFF_OVERRIDE": aiokafka.producer.sender.BACKOFF_OVERRIDE}
    ),
    "try_connection": PrivateUse(
        "0.14.0",
        lambda _: {"create_conn": create_conn, "send": AIOKafkaConnection.send, "close": AIOKafkaConnection.close},
    ),
}


@pytest.fixture
async def parts() -> Any:
    producer = AIOKafkaProducer(transactional_id="t")
    consumer = AIOKafkaConsumer(group_id="g")
    subscription = SubscriptionState()
    fetcher = Fetcher(consumer._client, subscription)
    coordinator = GroupCoordinator(consumer._client, subscription, group_id="g")
    yield Parts(producer, consumer, fetcher, coordinator)
    await coordinator.close()
    await fetcher.close()
    for client in (consumer, producer):
        client._closed = True  # neither was started


def test_every_function_is_listed() -> None:
    here = {name for name, value in getmembers(internals, isfunction) if value.__module__ == internals.__name__}
    assert here == set(USES)


def test_the_installed_version_is_the_one_that_was_read() -> None:
    installed = version("aiokafka").split(".")[:2]
    assert {name for name, use in USES.items() if use.read_in.split(".")[:2] != installed} == set()


@pytest.mark.parametrize("function", USES)
async def test_what_a_function_uses_exists(function: str, parts: Parts) -> None:
    assert USES[function].names(parts)


def _calls(source: str) -> set[str]:
    """Return the names that a module calls."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return {call.id for call in calls if isinstance(call, ast.Name)}


def test_every_producer_with_transactions_ends_each_once() -> None:
    made = {path: source for path, source in _modules() if "AIOKafkaProducer" in _calls(source)}
    assert {"stream/engine/ledger.py", "stream/kafka/clients.py", "trainer/registry/publish.py"} <= set(made)
    without = {path for path, source in made.items() if "end_transactions_once" not in _calls(source)}
    assert not {path for path in without if "transactional_id" in made[path]}
    named = {path for path, source in _modules() if "transactional_id=" in source}
    # The others get their producer from `kafka_producer` in stream/kafka/clients.py.
    assert all("kafka_producer" in _calls(source) for path, source in _modules() if path in named - set(made))


def _modules() -> Iterator[tuple[str, str]]:
    for package in ("segmentation", "stream", "trainer", "examples"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")


def _imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module.startswith("aiokafka"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name.startswith("_"))


def test_no_other_module_imports_a_private_part() -> None:
    found = {
        (path, name)
        for path, source in _modules()
        for name in _imported(source)
        if name.split(".")[0] == "aiokafka" and name not in PUBLIC
    }
    assert {path for path, _ in found} == {"stream/kafka/aiokafka_internals.py"}, found


def test_no_other_module_reaches_into_an_object() -> None:
    # Ruff's SLF001 finds each such place; here is where it may be silenced.
    silenced = {path for path, source in _modules() if "SLF001" in source}
    assert {path for path in silenced if not path.endswith("_internals.py")} == set()


def test_importing_changes_nothing() -> None:
    source = (ROOT / "stream/kafka/aiokafka_internals.py").read_text("utf-8")
    kinds = {type(node) for node in ast.parse(source).body}
    assert kinds <= {
        ast.Expr, ast.ImportFrom, ast.Import, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.AsyncFunctionDef,
        ast.ClassDef,
    }  # fmt: skip
    assert all(
        isinstance(target, ast.Name)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    )


@pytest.mark.parametrize("name", ["client", "_client"])
async def test_only_a_connection_that_cannot_be_made_is_waited_behind(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[object | None] = [None, "made", None]
    waited: list[float] = []

    async def connect(node: int, *, group: str) -> object | None:
        assert (node, group) == (1, "a")
        return connections.pop()

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    inner = SimpleNamespace(_get_conn=connect)
    client: Any = SimpleNamespace(**{name: inner})
    internals.pause_between_connection_attempts(client)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert [await inner._get_conn(1, group="a") for _ in range(3)] == [None, "made", None]
    assert waited == [internals.RECONNECT_PAUSE_S, internals.RECONNECT_PAUSE_S]


def test_a_producer_of_this_process_begins_its_next_transaction_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiokafka.producer.sender, "BACKOFF_OVERRIDE", 0.02)
    internals.shorten_transaction_retries()
    assert aiokafka.producer.sender.BACKOFF_OVERRIDE == 0.002


async def _ended(parts: Parts, answers: list[Any]) -> list[Any]:
    """Commit a transaction of the producer; `answers` are Kafka's, or errors. Return the requests sent."""
    producer, manager, sent = parts.producer, parts.producer._txn_manager, list[Any]()

    async def send(_: int, request: Any, **__: Any) -> Any:
        sent.append(request)
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return SimpleNamespace(error_code=answer)

    async def coordinator(*_: Any) -> int:
        return 1

    producer._sender.client = SimpleNamespace(send=send)
    producer._sender._find_coordinator = coordinator
    if not manager.has_pid():
        manager.set_pid_and_epoch(1, 1)
    manager.begin_transaction()
    manager.maybe_add_partition_to_txn(TopicPartition("t", 0))
    manager.partition_added(TopicPartition("t", 0))
    manager.committing_transaction()
    # As aiokafka's sender does, until the transaction has ended.
    while (result := manager.needs_transaction_commit()) is not None:
        await producer._sender._do_txn_commit(result)
    return sent


IN_DOUBT: dict[str, Any] = {
    "a broken connection": KafkaConnectionError(),
    "a time-out": RequestTimedOutError(),
    "no connection": NodeNotReadyError(),
    "a refusal that may pass": ConcurrentTransactions.errno,
    "another coordinator": NotCoordinatorError.errno,
}


@pytest.mark.parametrize("doubt", IN_DOUBT)
async def test_the_end_of_a_transaction_is_sent_once(doubt: str, parts: Parts) -> None:
    assert len(await _ended(parts, [IN_DOUBT[doubt], 0])) == 2, "aiokafka sends it again"
    internals.end_transactions_once(parts.producer)
    assert len(await _ended(parts, [IN_DOUBT[doubt], 0])) == 1
    with pytest.raises(internals.TransactionInDoubt, match="hasn't confirmed"):
        await parts.producer._txn_manager.wait_for_transaction_end()
    with pytest.raises(AssertionError):
        parts.producer._txn_manager.begin_transaction()


async def test_a_confirmed_end_lets_the_next_transaction_begin(parts: Parts) -> None:
    internals.end_transactions_once(parts.producer)
    for _ in range(2):
        assert len(await _ended(parts, [0])) == 1
        await parts.producer._txn_manager.wait_for_transaction_end()


async def test_the_error_of_a_transaction_is_known_before_it_is_committed(parts: Parts) -> None:
    printed: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: printed.append(context))
    manager, denied = parts.producer._txn_manager, TopicAuthorizationFailedError("t")
    assert internals.transaction_error(parts.producer) is None  # there was no transaction yet
    manager.set_pid_and_epoch(1, 1)
    manager.begin_transaction()
    assert internals.transaction_error(parts.producer) is None
    manager.error_transaction(denied)
    assert internals.transaction_error(parts.producer) is denied
    manager._transaction_waiter = None
    gc.collect()
    assert not printed


async def test_a_fetch_waits_as_long_as_it_is_set_to(parts: Parts) -> None:
    parts.consumer._fetcher = parts.fetcher
    internals.set_fetch_wait(parts.consumer, 123)
    parts.consumer._fetcher = None
    assert parts.fetcher._fetch_max_wait_ms == 123


async def test_a_partition_joins_the_open_transaction(parts: Parts) -> None:
    manager = parts.producer._txn_manager
    manager.set_pid_and_epoch(1, 1)
    manager.begin_transaction()
    internals.join_transaction(parts.producer, TopicPartition("t", 3))
    assert manager._pending_txn_partitions == {TopicPartition("t", 3)}
