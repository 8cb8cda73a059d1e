"""The order in which records are acknowledged, and what Faust's consumer commits. The test answers as broker."""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaError
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from faust.types import TP

from segmentation.events import decode
from segmentation.partitioners import murmur2
from stream.adapters.app import AdapterHost, build_app, credentials, reader_of
from stream.adapters.delivery import DeliveryQueue, Outlet, to_record
from stream.adapters.faust_internals import InOrderConsumer
from stream.adapters.mapping import Route, SourceRecord, rekeyed
from stream.errors import WorkerFailed
from stream.metrics import Metrics
from stream.settings import Settings

SETTINGS = Settings(partitions=4)
GOOD = (
    b'{"type":"order.placed","id":"%d","order_id":"o","customer_id":"c","occurred_at":"2026-03-03T00:00:00Z",'
    b'"amount":{"value":"1","currency":"USD"}}'
)


class Broker:
    """A producer whose answers the test gives."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[asyncio.Future[Any]] = []

    async def send(self, topic: str, value: bytes, **rest: Any) -> asyncio.Future[Any]:
        self.sent.append((topic, {"value": value, **rest}))
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


class ConsumedEvent:
    def __init__(self, offset: int, value: bytes | None, acked: list[int]) -> None:
        self.message = SimpleNamespace(
            topic="t", partition=5, offset=offset, timestamp=1.5, key=b"k", value=value, headers=[("h", b"1")]
        )
        self.acked = acked

    def ack(self) -> bool:
        self.acked.append(self.message.offset)
        return True


async def events(values: list[bytes | None], acked: list[int]) -> AsyncIterator[ConsumedEvent]:
    for offset, value in enumerate(values):
        yield ConsumedEvent(offset, value, acked)


def outlet(broker: Broker, metrics: Metrics) -> Outlet:
    return Outlet(SETTINGS, reader_of(SETTINGS), broker, metrics, lambda: 1_800_000_000_000)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_records_are_acknowledged_in_the_order_of_the_sends_not_of_kafka_s_answers() -> None:
    broker, acked, metrics = Broker(), list[int](), Metrics()
    values = [GOOD % 0, b"{", None, GOOD % 3]
    running = asyncio.create_task(DeliveryQueue(Route(rekeyed), outlet(broker, metrics)).run(events(values, acked)))
    await turns()
    assert [topic for topic, _ in broker.sent] == ["orders", *["orders-dead-letters"] * 2, "orders"]
    for answered, expected in ((2, []), (1, []), (0, [0, 1, 2]), (3, [0, 1, 2, 3])):
        broker.answers[answered].set_result(None)
        await turns()
        assert acked == expected
    await running
    assert broker.sent[0][1]["partition"] == murmur2(b"c", 4)
    assert decode(broker.sent[3][1]["value"]).id == "3"
    dead = broker.sent[1][1]
    assert (dead["value"], dead["key"], dead["partition"]) == (b"{", b"k", 1)
    headers = dict(dead["headers"])
    assert (headers["h"], headers["__connect.errors.topic"], headers["__connect.errors.offset"]) == (b"1", b"t", b"1")
    assert headers["segstream_reason"] == b"not_json"
    rendered = metrics.render().decode()
    assert 'segstream_dead_letters_total{reason="null_value",step="adapters"} 1.0' in rendered
    assert 'segstream_events_total{outcome="mapped",step="adapters"} 2.0' in rendered


async def test_after_a_failed_send_nothing_is_acknowledged() -> None:
    broker, acked = Broker(), list[int]()
    host = AdapterHost(SETTINGS, {"t": Route(rekeyed)})
    host._outlet = outlet(broker, Metrics())

    async def endless() -> AsyncIterator[ConsumedEvent]:
        for offset in range(10**9):
            yield ConsumedEvent(offset, GOOD % offset, acked)
        raise AssertionError

    running = asyncio.create_task(host.work("t", endless()))
    await turns()
    while len(broker.sent) < 257:  # what may be under way, and the one that waits for room
        await turns()
    broker.answers[0].set_result(None)
    broker.answers[1].set_exception(KafkaError("refused"))
    for answer in broker.answers[2:]:
        answer.set_result(None)
    with pytest.raises(WorkerFailed, match=r"Kafka refuses what becomes of t: KafkaError.*start the adapters again"):
        await running
    assert acked == [0]


def test_a_faust_message_becomes_a_record() -> None:
    message = ConsumedEvent(7, None, []).message
    assert to_record(message) == SourceRecord("t", 5, 7, 1_500, b"k", None, (("h", b"1"),))
    message.headers = message.timestamp = None
    assert to_record(message) == SourceRecord("t", 5, 7, 0, b"k", None)


async def test_the_committed_offset_is_behind_the_last_acknowledged_record() -> None:
    consumer = InOrderConsumer.__new__(InOrderConsumer)
    consumer._acked, consumer._acked_index = defaultdict(list), defaultdict(set)
    tp = TP("t", 0)
    assert consumer._new_offset(tp) is None
    # Over markers of transactions (3, 4) and back, as after a rebalance: all of them were sent.
    consumer._acked[tp] += [2, 5, 6, 5]
    consumer._acked_index[tp] |= {2, 5, 6}
    await consumer._add_gap(tp, 3, 5)
    assert (consumer._new_offset(tp), consumer._new_offset(tp)) == (7, None)
    assert not consumer._acked_index[tp]


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
def test_faust_gets_the_security_of_the_settings(protocol: str) -> None:
    names = {"kafka_sasl_username": "u", "kafka_sasl_password": "p", "kafka_sasl_mechanism": "SCRAM-SHA-512"}
    settings = Settings(kafka_security_protocol=protocol, **names)  # type: ignore[arg-type]  # pydantic checks it
    ours, faust_s = settings.kafka_client(), dict(credentials_to_aiokafka_auth(credentials(settings)))
    del ours["bootstrap_servers"]
    for arguments in (ours, faust_s):
        assert isinstance(arguments.pop("ssl_context", None), ssl.SSLContext) is protocol.endswith("SSL")
    assert {k: v for k, v in faust_s.items() if v is not None} == ours


def test_the_app_is_of_a_group_of_its_own_with_a_consumer_of_our_own(tmp_path: Path) -> None:
    settings = Settings(group="g", kafka_bootstrap_servers="a:1,b:2", session_timeout_ms=6_000)
    app = build_app(settings, {"t": Route(rekeyed)}, tmp_path)
    assert app.conf.id == "g-adapters"
    assert not app.conf.web_enabled
    transport: Any = app.transport  # its consumer would start a thread
    assert transport.Consumer is InOrderConsumer
    assert [str(url) for url in app.conf.broker] == ["aiokafka://a:1", "aiokafka://b:2"]
    assert list(app.agents) == ["adapter-t"]


@pytest.mark.parametrize("failing", [False, True])
async def test_an_agent_that_ends_before_its_app_ends_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: bool
) -> None:
    app = build_app(SETTINGS, {"t": Route(rekeyed)}, tmp_path)
    app.host._outlet = outlet(Broker(), Metrics())
    crashes: list[Any] = []

    async def crash(reason: BaseException) -> None:
        crashes.append(reason)

    async def taken() -> AsyncIterator[ConsumedEvent]:
        if failing:
            raise RuntimeError("of Faust's own")
        for event in list[ConsumedEvent]():
            yield event

    monkeypatch.setattr(app, "crash", crash)
    agent: Any = app.agents["adapter-t"]
    await agent.fun(SimpleNamespace(noack=lambda: SimpleNamespace(events=taken)))
    assert crashes == [app.failure]
    assert str(crashes[0]).startswith("of Faust's own" if failing else "Faust ended the agent of t.")
