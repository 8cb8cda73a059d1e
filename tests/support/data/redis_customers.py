"""Customers in a real Redis, written as the engine would, for trainings to read; and `segtrainer` run on them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from redis import Redis

from segmentation.rfm import EMPTY, Entry, Kind, absorb_bytes, entry
from stream.storage.heads import NO_CLOCK, StoreHead, encode_head
from stream.storage.keys import ShardKeys
from trainer import cli

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stream.settings import Settings

UNITS = 10_000  # of one currency unit

Entries = dict[bytes, list[Entry]]


class Ended(NamedTuple):
    """How the command ended."""

    code: int
    err: str
    out: str

    @property
    def line(self) -> str:
        """The last one on stderr."""
        return (self.err.splitlines() or [""])[-1]


def order(name: str, at_ms: int, amount: float) -> Entry:
    return entry(Kind.PLACED, name, at_ms, order=name, amount=round(amount * UNITS))


def head(clock_ms: int, partitions: int) -> bytes:
    return encode_head(
        StoreHead("token", 1, 1, 0, 0, clock_ms, clock_ms, 0, "", None, None, "cluster", (partitions, partitions))
    )


def fill(worker: Settings, entries: Mapping[bytes, list[Entry]], *, url: str | None = None) -> int:
    """Write the shards, each at the clock of its own last order. Return the highest clock. `url`: of another Redis."""
    clocks = []
    with Redis.from_url(url or worker.redis_url.get_secret_value()) as redis:
        for partition in range(worker.partitions):
            keys = ShardKeys(worker.group, worker.orders_topic, partition)
            own = dict(list(entries.items())[partition :: worker.partitions])
            states = {name: _state(events, worker) for name, events in own.items()}
            if not states:
                redis.set(keys.head, head(NO_CLOCK, worker.partitions))
                continue
            redis.hset(keys.states, mapping=cast("dict[Any, Any]", states))
            redis.zadd(keys.customers, dict.fromkeys(cast("dict[Any, Any]", states), 0))
            clocks.append(max(e.time for events in own.values() for e in events))
            redis.set(keys.head, head(clocks[-1], worker.partitions))
    return max(clocks, default=0)


def _state(events: list[Entry], worker: Settings) -> bytes:
    value = EMPTY
    for e in events:
        value, _ = absorb_bytes(value, e, e.time, worker.rules)
    return value


def segtrainer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, **variables: str
) -> Ended:
    """Run the command as a shell would, in this process."""
    capsys.readouterr()
    with monkeypatch.context() as there:
        for name, value in variables.items():
            there.setenv(name, value)
        there.setattr(sys, "argv", ["segtrainer", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    output = capsys.readouterr()
    code = ended.value.code
    return Ended(code if isinstance(code, int) else 0, output.err, output.out)


async def end_of_models(worker: Settings) -> int:
    """Return the end of the models topic, which moves with every record, aborted ones too."""
    partition = TopicPartition(worker.models_topic, 0)
    async with AIOKafkaConsumer(bootstrap_servers=worker.kafka_bootstrap_servers) as consumer:
        return int((await consumer.end_offsets([partition]))[partition])
