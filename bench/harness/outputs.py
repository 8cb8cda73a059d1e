"""Checks of the outputs: chains of moves, figures against a recomputation from the orders, and segments."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
import numpy as np
from redis import Redis

from bench.harness.model import bench_model
from segmentation.rfm import headers
from segmentation.scorer import Scorer
from segmentation.state_bytes import HEAD
from stream.kafka.clients import at_end, kafka_consumer, partitions_of
from stream.settings import Settings
from stream.storage.keys import ShardKeys
from stream.storage.reads import read_clock
from stream.storage.states import read_states

SAMPLE: Final = 1_000  # customers whose segment is computed again
_SHOWN: Final = 5
_UNITS: Final = 10_000  # ten-thousandths, as states keep money


@dataclass(slots=True)
class CustomerTotals:
    """A customer's totals: number of orders, sum in ten-thousandths, time of the latest order (ms)."""

    frequency: int = 0
    monetary: int = 0
    last: int = 0


@dataclass(slots=True)
class Checked:
    """The numbers of things compared, and the first few differences."""

    moves: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    customers: int = 0
    segments_asked: int = 0
    problems: list[str] = field(default_factory=list)

    def complain(self, problem: str) -> None:
        """Add a problem, unless there are some already: the first few show the cause."""
        if len(self.problems) < _SHOWN:
            self.problems.append(problem)


class _CheckedMove(msgspec.Struct, gc=False):
    """The fields of a `segment.changed` that the check reads."""

    customer_id: str
    sequence: int
    cause: str
    source: str | None = msgspec.field(name="from")
    target: str | None = msgspec.field(name="to")


def recompute(orders: Iterable[tuple[bytes, bytes]]) -> dict[bytes, CustomerTotals]:
    """Return every customer's totals from the orders' JSON, by the standard library alone. No order leaves the window.

    >>> body = b'{"occurred_at": "1970-01-01T00:00:00.007Z", "amount": {"value": "1.25", "currency": "USD"}}'
    >>> recompute([(b"c1", body), (b"c1", body)])
    {b'c1': CustomerTotals(frequency=2, monetary=25000, last=7)}
    """
    found: dict[bytes, CustomerTotals] = {}
    for customer, body in orders:
        order = json.loads(body)
        figures = found.setdefault(customer, CustomerTotals())
        figures.frequency += 1
        figures.monetary += int(Decimal(order["amount"]["value"]) * _UNITS)
        figures.last = max(figures.last, round(datetime.fromisoformat(order["occurred_at"]).timestamp() * 1000))
    return found


async def check_worker(settings: Settings, redis: Redis, expected: dict[bytes, CustomerTotals]) -> Checked:
    """Compare a worker's moves and states with the orders' totals. The worker is idle or has ended."""
    checked = Checked(customers=len(expected))
    last = await _chains(settings, checked)
    names = {segment.id: segment.name for segment in bench_model().segments}
    seen = 0
    candidates: list[tuple[bytes, Any, int]] = []
    for partition in range(settings.partitions):
        keys = ShardKeys(settings.group, settings.orders_topic, partition)
        clock = read_clock(redis, keys)
        for customer, value in read_states(redis, keys):
            seen += 1
            head = headers([value])[0]
            _compare(customer, head, expected.get(customer), checked)
            move = last.get(customer)
            if move != (names.get(int(head["segment"])), int(head["sequence"])):
                checked.complain(f"{customer!r}: the last published move is {move}, the state has {head}")
            elif clock is not None and customer in expected:
                candidates.append((customer, head, clock))
    if seen != len(expected):
        checked.complain(f"{seen} customers in Redis, {len(expected)} in the orders")
    sampled = random.Random(1).sample(candidates, min(SAMPLE, len(candidates)))
    _check_segments(sampled, expected, checked)
    return checked


async def _chains(settings: Settings, checked: Checked) -> dict[bytes, tuple[str | None, int]]:
    """Check that sequences count 1, 2, 3… and `from` is the `to` before; return each last (segment, sequence)."""
    decoder, causes = msgspec.json.Decoder(_CheckedMove), Counter[str]()
    last: dict[bytes, tuple[str | None, int]] = {}
    async with kafka_consumer(settings) as consumer:
        partitions = await partitions_of(consumer, [settings.changes_topic])
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        while not await at_end(consumer, ends):
            for records in (await consumer.getmany(timeout_ms=200, max_records=10_000)).values():
                for record in records:
                    move = decoder.decode(record.value)
                    causes[move.cause] += 1
                    before = last.get(record.key, (None, 0))
                    if (move.source, move.sequence) != (before[0], before[1] + 1):
                        checked.complain(f"{record.key!r}: {move} follows {before}")
                    last[record.key] = (move.target, move.sequence)
    checked.moves, checked.causes = causes.total(), dict(causes.most_common())
    return last


def _compare(customer: bytes, head: Any, figures: CustomerTotals | None, checked: Checked) -> None:
    found = CustomerTotals(int(head["frequency"]), int(head["monetary"]), int(head["last"]))
    if found != figures:
        checked.complain(f"{customer!r}: Redis has {found}, the orders give {figures}")


def _check_segments(
    sampled: list[tuple[bytes, Any, int]], expected: dict[bytes, CustomerTotals], checked: Checked
) -> None:
    """Check that at the shard's clock the model leaves each customer in the segment of their last move."""
    scorer = Scorer(bench_model())
    head = np.array([row[1] for row in sampled], dtype=HEAD)
    figures = [expected[customer] for customer, _, _ in sampled]
    announced = scorer.index_from_ids(head["segment"])
    rest = scorer.rest(
        np.array([f.frequency for f in figures], dtype=np.float64),
        np.array([f.monetary / _UNITS for f in figures], dtype=np.float64),
    )
    at = np.array([clock for _, _, clock in sampled], dtype=np.int64)
    right = scorer.decide(announced, at, np.array([f.last for f in figures], dtype=np.int64), rest)
    names = [segment.name for segment in bench_model().segments]
    for row in np.flatnonzero(right != announced).tolist():
        checked.complain(
            f"{sampled[row][0]!r}: the last move is to {names[announced[row]]}, the model gives {names[right[row]]}"
        )
    checked.segments_asked = len(sampled)


async def check_agent(settings: Settings, redis: Redis, expected: dict[bytes, CustomerTotals]) -> Checked:
    """Compare the Faust agent's hashes with the orders' totals, and count its changes."""
    checked = Checked(customers=len(expected))
    for customer, figures in expected.items():
        row: Any = redis.hgetall(f"{settings.group}:{customer.decode()}")
        found = int(row.get(b"frequency", 0)), round(float(row.get(b"monetary", 0)) * _UNITS)
        if found != (figures.frequency, figures.monetary):
            checked.complain(f"{customer!r}: Redis has {found}, the orders give {figures}")
    async with kafka_consumer(settings) as consumer:
        ends = await consumer.end_offsets(await partitions_of(consumer, [settings.changes_topic]))
    checked.moves = sum(ends.values())
    return checked
