"""The activation of a model on real servers: it resumes after a crash, and a newer one takes over before its end."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from bench.harness.model import bench_model
from segmentation.event_text import instant
from segmentation.events import Amount, OrderPlaced
from stream.kafka import topics
from tests.support.command_line import run
from tests.support.engine.real_worker import activate, check_chains, launch, moves, processes, settled, store_heads
from tests.support.engine.toy_engine import eventually
from tests.support.orders import send_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from segmentation.model import SegmentModel
    from stream.settings import Settings

NAMES = [f"c{i:03}" for i in range(40)]


def with_ids_from(first: int) -> SegmentModel:
    """Return the same segments under other ids and names, so that every customer moves."""
    segments = tuple(
        s.model_copy(update={"id": first + i, "name": f"{s.name} {first}"})
        for i, s in enumerate(bench_model().segments)
    )
    return bench_model().model_copy(update={"segments": segments})


SECOND, THIRD = with_ids_from(10), with_ids_from(20)


async def scored(settings: Settings) -> None:
    """Put every customer into a segment of the first model, by one order each."""
    await topics.create(settings)
    await asyncio.to_thread(activate, settings)
    now = instant(time.time_ns() // 1_000_000)
    orders = (
        OrderPlaced(id=name, order_id=name, customer_id=name, occurred_at=now, amount=Amount("90.00", "USD"))
        for name in NAMES
    )
    await send_events(settings, *orders)


async def in_the_middle(settings: Settings, activation: int) -> None:
    """Wait until each shard has rescored some of its customers, and some not."""
    await eventually(
        lambda: all(h.activation == activation and h.cursor for h in store_heads(settings, settings.orders_topic)),
        30,
        f"activation {activation} in the middle",
    )


def moved_by(model_moves: list[list[dict[str, Any]]], model: SegmentModel) -> Counter[str]:
    """Return how often the activation of the model moved each customer."""
    names = {s.name for s in model.segments}
    return Counter(m["customer_id"] for rows in model_moves for m in rows if m["to"] in names and m["cause"] == "model")


@contextmanager
def killed_at_the_end(settings: Settings, folder: Path) -> Iterator[None]:
    process = launch(settings, folder, "worker")
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
async def test_an_activation_resumes_after_a_crash(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(partitions=2, model_moves_per_minute=600)  # five a second of each shard
    await scored(settings)
    with killed_at_the_end(settings, tmp_path):
        await settled(settings)
        activation = await asyncio.to_thread(activate, settings, SECOND)
        await in_the_middle(settings, activation)
    before = await moves(settings)
    done = moved_by(before, SECOND)
    assert 0 < len(done) < len(NAMES)
    shown = await asyncio.to_thread(run, settings, "models", "--json")
    rescored = [row["rescored"] for row in map(json.loads, shown.stdout.splitlines()) if "rescored" in row]
    assert all(0 < part < 1 for part in rescored), rescored
    with processes(settings, tmp_path, "worker"):
        await settled(settings, activation=activation)
    after = await moves(settings)
    assert moved_by(after, SECOND) == Counter(NAMES)
    assert all(now[: len(then)] == then for then, now in zip(before, after, strict=True))
    check_chains(after)


@pytest.mark.slow
async def test_a_newer_model_takes_over_without_the_older_one_finishing(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(partitions=2, model_moves_per_minute=600)
    await scored(settings)
    with processes(settings, tmp_path, "worker"):
        await settled(settings)
        await in_the_middle(settings, await asyncio.to_thread(activate, settings, SECOND))
        activation = await asyncio.to_thread(activate, settings, THIRD)
        await settled(settings, activation=activation)
        published = await moves(settings)
    assert 0 < len(moved_by(published, SECOND)) < len(NAMES)
    assert moved_by(published, THIRD) == Counter(NAMES)
    check_chains(published)
