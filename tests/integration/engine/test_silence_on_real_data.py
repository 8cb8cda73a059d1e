"""Online Retail and CDNOW in event time through Kafka and workers: every move agrees with a brute force, to the ms."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from segmentation.model import SegmentModel
from stream.clock import now_ms
from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.orders.files import cdnow_path, read_orders
from stream.orders.rows import OrderRow, parse_at
from stream.orders.sorting import in_time_order
from stream.replay.publisher import replay
from stream.settings import Settings
from stream.status.report import report
from tests.support.data.training import train
from tests.support.engine.real_worker import activate, check_chains, launch, moves, processes, settled, store_heads
from tests.support.engine.toy_engine import eventually
from tests.support.oracles.silence import (
    DAY_MS,
    ExpectedMove,
    LoggedEvent,
    figures_of,
    moves_of_log,
    plainly_wrong,
    read_log,
    read_move,
)
from trainer.snapshot.redis import CustomerSnapshot

SettingsFor = Callable[..., Settings]
Deploy = Callable[..., Settings]

LATE = 0.03  # share of Online Retail's rows that arrive late
LATEST_MS = 3 * DAY_MS
KINDS = {"placed": "order", "refunded": "refund"}


@dataclass(frozen=True)
class RealOrders:
    """A file's rows as they arrive, the instants of the training and of the end, and the settings for them."""

    rows: list[OrderRow]
    train_ms: int
    end_ms: int
    currency: str
    window_days: int

    def some(self, share: int) -> RealOrders:
        """Return the orders of one customer in `share`."""
        names = set(sorted({row.customer_id for row in self.rows})[::share])
        return replace(self, rows=[row for row in self.rows if row.customer_id in names])

    def in_order(self) -> RealOrders:
        """Return the same orders without late rows."""
        return replace(self, rows=sorted(self.rows, key=lambda row: row.at_ms))

    def halves(self) -> tuple[list[OrderRow], list[OrderRow]]:
        """Return the rows that arrive before the training, and the rest, where late rows may be older."""
        cut = next(n for n, row in enumerate(self.rows) if row.at_ms >= self.train_ms)
        return self.rows[:cut], self.rows[cut:]

    def model(self) -> SegmentModel:
        """Train on the first half, with figures of the brute force."""
        events: dict[str, list[LoggedEvent]] = {}
        history, _ = self.halves()
        for row in history:
            event = LoggedEvent(0, row.event_id, KINDS[row.kind], row.at_ms, row.amount_units)
            events.setdefault(row.customer_id, []).append(event)
        at = max(row.at_ms for row in history)
        figures = {name: figures_of(own, at, self.window_days * DAY_MS) for name, own in sorted(events.items())}
        known = {name: f for name, f in figures.items() if f is not None}
        columns = [((at - f.last) / DAY_MS, float(f.frequency), f.units / 10_000) for f in known.values()]
        recency, frequency, monetary = np.array(columns).T
        names = tuple(name.encode() for name in known)
        snapshot = CustomerSnapshot(names, recency, frequency, monetary, at, len(figures) - len(known))
        return train(snapshot).model


def rows_of(path: Path, currency: str) -> list[OrderRow]:
    with in_time_order(read_orders(path, currency=currency)) as ordered:
        return list(ordered)


@pytest.fixture(scope="module")
def retail(test_data: Path) -> RealOrders:
    """Return Online Retail with a window that thousands of orders leave, and some rows up to three days late."""
    rng = random.Random(1)
    rows = rows_of(test_data / "online_retail" / "orders.csv.gz", "GBP")
    arrival = [row.at_ms + (rng.randrange(LATEST_MS) if rng.random() < LATE else 0) for row in rows]
    rows = [row for _, row in sorted(zip(arrival, rows, strict=True), key=lambda pair: pair[0])]
    return RealOrders(rows, parse_at("2011-06-01"), parse_at("2012-06-01"), "GBP", 120)


@pytest.fixture(scope="module")
def cdnow() -> RealOrders:
    """Return CDNOW: its dates are days, so all orders of a day have one instant."""
    return RealOrders(rows_of(cdnow_path(), "USD"), parse_at("1997-10-01"), parse_at("1999-01-01"), "USD", 365)


@pytest.fixture
def deploy(settings_for: SettingsFor) -> Deploy:
    def make(dataset: RealOrders, **overrides: object) -> Settings:
        return settings_for(time="event", currency=dataset.currency, window_days=dataset.window_days, **overrides)

    return make


async def kill_and_restart(
    settings: Settings, running: list[subprocess.Popen[bytes]], folder: Path, offsets: int
) -> None:
    """Kill the first worker (SIGKILL) once the shards have come this far; wait until its successor owns one."""
    await eventually(lambda: sum(h.offset for h in store_heads(settings, settings.orders_topic) if h) >= offsets, 90)
    running[0].kill()
    assert running[0].wait(20) == -signal.SIGKILL
    running[0] = launch(settings, folder, "worker")
    suffix = f":{running[0].pid}"

    async def owns() -> bool:
        rows = await asyncio.to_thread(report, settings, "scoring", now_ms())
        return any(row.owner.endswith(suffix) for row in rows)

    await eventually(owns, 60)


async def published_moves(
    settings: Settings, dataset: RealOrders, model: SegmentModel, folder: Path, *, count: int = 1, kills: int = 0
) -> list[list[ExpectedMove]]:
    """Replay history, activate the model, replay the rest; return the published moves by partition."""
    await topics.create(settings)
    history, rest = dataset.halves()
    with processes(settings, folder, *["worker"] * count) as running:
        await replay(settings, history)
        await settled(settings)
        activation = await asyncio.to_thread(activate, settings, model)
        replaying = asyncio.create_task(replay(settings, rest, until_ms=dataset.end_ms))
        for number in range(1, kills + 1):
            offsets = len(history) + len(rest) * number // (kills + 1)
            await kill_and_restart(settings, running, folder, offsets)
        await replaying
        await settled(settings, activation=activation)
    assert await read_topic(settings, settings.orders_dead_letters_topic) == []
    found = await moves(settings)
    check_chains(found)
    assert {move["model_version"] for move in itertools.chain(*found)} == {model.version}
    return [[read_move(move) for move in partition] for partition in found]


async def expected_moves(settings: Settings, dataset: RealOrders, model: SegmentModel) -> list[list[ExpectedMove]]:
    """Return the brute force's moves for the records on the topic."""
    records = await read_topic(settings, settings.orders_topic)
    logs = [read_log(r for r in records if r.partition == p) for p in range(settings.partitions)]
    ids = Counter(event.id for log in logs for own in log.events.values() for event in own)
    assert ids == Counter(row.event_id for row in dataset.rows)
    dwell_ms = int(settings.dwell_hours * 3_600_000)
    find = partial(moves_of_log, model=model, window_ms=dataset.window_days * DAY_MS, dwell_ms=dwell_ms)
    return [await asyncio.to_thread(find, log) for log in logs]


def causes(found: list[list[ExpectedMove]]) -> Counter[str]:
    return Counter(move.cause for partition in found for move in partition)


def check_equal(found: list[list[ExpectedMove]], wanted: list[list[ExpectedMove]], model: SegmentModel) -> None:
    """Check that the published moves are the expected ones, in their order within each partition."""
    print(f"{sum(map(len, wanted)):,} moves: {dict(sorted(causes(wanted).items()))}")
    for published, expected in zip(found, wanted, strict=True):
        known = {(move.customer, move.sequence): move for move in expected}
        shown = [
            move._replace(upcoming="?") if known.get(move[:2], move).upcoming == "?" else move for move in published
        ]
        pairs = itertools.zip_longest(shown, expected)
        differing = [pair for pair in pairs if pair[0] != pair[1]]
        assert not differing, f"{len(differing)} of {len(expected)} differ; published, expected: {differing[:3]}"
    assert plainly_wrong(itertools.chain(*wanted), model) == []


async def test_one_customer_in_twelve_of_online_retail(deploy: Deploy, retail: RealOrders, tmp_path: Path) -> None:
    """Run the part of the data that is quick enough for `make test`."""
    few, model = retail.some(12), retail.model()
    settings = deploy(few)
    found = await published_moves(settings, few, model, tmp_path)
    wanted = await expected_moves(settings, few, model)
    check_equal(found, wanted, model)
    assert min(causes(wanted)[cause] for cause in ("first", "order", "silence", "window")) > 50


@pytest.mark.slow
async def test_a_dwell_delays_moves(deploy: Deploy, retail: RealOrders, tmp_path: Path) -> None:
    """Send rows in order: a state doesn't show whether a late row arrived before the last move."""
    few, model = retail.some(4).in_order(), retail.model()
    settings = deploy(few, dwell_hours=60)
    found = await published_moves(settings, few, model, tmp_path)
    check_equal(found, await expected_moves(settings, few, model), model)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_online_retail_gives_the_same_moves_under_any_trouble(
    deploy: Deploy, retail: RealOrders, tmp_path: Path
) -> None:
    """Compare one worker, three workers, killed workers and small turns with the brute force."""
    model = retail.model()
    calm = deploy(retail)
    found = await published_moves(calm, retail, model, tmp_path / "calm")
    wanted = await expected_moves(calm, retail, model)
    check_equal(found, wanted, model)
    many = causes(wanted)
    assert many["silence"] > 4_000
    assert many["window"] > 1_000
    assert many["refund"] > 5
    small = deploy(retail, turn_max_orders=40, due_slice=16, rescore_slice=100)
    three = deploy(retail, session_timeout_ms=3_000)
    killed = deploy(retail, turn_max_orders=100, session_timeout_ms=3_000)
    assert await published_moves(small, retail, model, tmp_path / "small") == found
    assert await published_moves(three, retail, model, tmp_path / "three", count=3) == found
    assert await published_moves(killed, retail, model, tmp_path / "killed", count=2, kills=3) == found


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_cdnow(deploy: Deploy, cdnow: RealOrders, tmp_path: Path) -> None:
    model = cdnow.model()
    settings = deploy(cdnow)
    found = await published_moves(settings, cdnow, model, tmp_path)
    wanted = await expected_moves(settings, cdnow, model)
    check_equal(found, wanted, model)
    many = causes(wanted)
    assert many["silence"] > 10_000
    assert many["window"] > 1_000
