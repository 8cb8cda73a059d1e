"""From orders to moves and actions, with the real commands as processes, and the same moves under any trouble."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from redis import Redis

from bench.harness.model import bench_model
from segmentation.decisions import CompiledModel, ScoringContext, search
from segmentation.events import CONTROL_KEY, ModelActivated, encode
from segmentation.rfm import NONE, headers
from segmentation.step import NEVER_DUE
from stream.clock import now_ms
from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.orders.rows import OrderRow
from stream.orders.simulate import simulate
from stream.replay.publisher import replay
from stream.settings import Settings
from stream.status.report import report
from stream.storage.keys import ShardKeys
from stream.storage.states import read_states
from tests.support.engine.real_worker import (
    activate,
    check_chains,
    launch,
    moves,
    processes,
    settled,
    states,
    store_heads,
)
from tests.support.engine.toy_engine import eventually

DAY = 86_400_000
START = 1_600_000_000_000


def simulated(customers: int = 60, days: int = 500) -> tuple[list[OrderRow], list[OrderRow], int]:
    """Return (history, the rest, the end) of simulated orders."""
    rows = list(itertools.takewhile(lambda row: row.at_ms < START + days * DAY, simulate(7, customers, START)))
    middle = START + days // 3 * DAY
    return [r for r in rows if r.at_ms < middle], [r for r in rows if r.at_ms >= middle], START + days * DAY


def check_due_index(settings: Settings) -> None:
    """Check that no due entry is later than the instant computed from state, clock and model; early ones are fine."""
    model = CompiledModel.of(bench_model(), settings.group, {})
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for p, head in enumerate(store_heads(settings, settings.orders_topic)):
            keys = ShardKeys(settings.group, settings.orders_topic, p)
            rows = list(read_states(redis, keys))
            scoring = ScoringContext.of(model, 1, settings.rules)
            moves = search([value for _, value in rows], [head.clock] * len(rows), scoring)
            found = cast("list[tuple[bytes, float]]", redis.zrange(keys.due, 0, -1, withscores=True))
            index = dict(found)
            for (customer, _), wake in zip(rows, moves.wake, strict=True):
                assert wake == NEVER_DUE or index[customer] <= wake


def passed(settings: Settings, offsets: int) -> bool:
    return bool(sum(h.offset for h in store_heads(settings, settings.orders_topic) if h) >= offsets)


async def owned_again(settings: Settings, pid: int) -> None:
    """Wait until this worker process owns a shard, so its signal handlers are installed."""

    def owns_a_shard() -> bool:
        return any(row.owner.endswith(f":{pid}") for row in report(settings, "scoring", now_ms()))

    async def off_loop() -> bool:
        return await asyncio.to_thread(owns_a_shard)

    await eventually(off_loop)


async def run_all(settings: Settings, folder: Path, *, workers: int = 1, trouble: str = "") -> None:
    """Replay history, activate the model, replay the rest, and wait until everything is settled."""
    history, rest, end = simulated()
    await topics.create(settings)
    with processes(settings, folder, *["worker"] * workers) as running:
        await replay(settings, history)
        await settled(settings)
        activation = await asyncio.to_thread(activate, settings)
        replaying = asyncio.create_task(replay(settings, rest, until_ms=end))
        for quarter in range(1, 4 if trouble else 1):
            await eventually(partial(passed, settings, len(history) + len(rest) * quarter // 4))
            running[0].send_signal(signal.SIGKILL if trouble == "kill" else signal.SIGTERM)
            assert running[0].wait(20) == (-signal.SIGKILL if trouble == "kill" else 0)
            running[0] = launch(settings, folder, "worker")
            await owned_again(settings, running[0].pid)
        await replaying
        await settled(settings, activation=activation)


@pytest.mark.parametrize(
    "kafka",
    [
        pytest.param("settings_for", marks=pytest.mark.servers),
        pytest.param("settings_for_newest", marks=[pytest.mark.servers, pytest.mark.slow]),
    ],
)
async def test_an_order_becomes_a_move_and_a_move_an_action(
    request: pytest.FixtureRequest, kafka: str, tmp_path: Path
) -> None:
    settings: Settings = request.getfixturevalue(kafka)(time="event", commit_timeout_s=5)
    history, rest, end = simulated()
    await topics.create(settings)
    with processes(settings, tmp_path, "worker", "dispatch"):
        await replay(settings, history)
        await settled(settings)
        assert (
            await moves(settings) == [[]] * settings.partitions
        )  # before the first model orders are merged without moves
        people = {c for c, v in states(settings).items() if headers([v])["last"][0] != NONE}
        activation = await asyncio.to_thread(activate, settings)
        await settled(settings, activation=activation)
        first = list(itertools.chain.from_iterable(await moves(settings)))
        assert {m["customer_id"].encode() for m in first} == people
        assert {(m["cause"], m["from"], m["sequence"]) for m in first} == {("first", None, 1)}
        # Malformed records become dead letters.
        async with AIOKafkaProducer(**settings.kafka_client()) as producer:
            for key, value in (
                (b"x", b"garbage"),
                (None, b"{}"),
                (b"c", None),
                (b"c", b'{"type":"order.placed"}'),
                (b"\xff", b"\xff"),
            ):
                await producer.send_and_wait(settings.orders_topic, value, key=key, partition=1)
            # The worker waits for an unpublished model, then makes a dead letter; the last good model stays.
            ghost = encode(ModelActivated(id="ghost", activation=10**6, version="0" * 16))
            await producer.send_and_wait(settings.orders_topic, ghost, key=CONTROL_KEY, partition=2)
        await replay(settings, rest, until_ms=end)
        await settled(settings)
        published = await moves(settings)
        check_chains(published)
        check_due_index(settings)
        causes = {m["cause"] for m in itertools.chain.from_iterable(published)}
        assert {"first", "order", "silence"} <= causes
        await settled(settings, topic=settings.changes_topic)
        actions = [msgspec.json.decode(r.value) for r in await read_topic(settings, settings.actions_topic)]
        changes = {msgspec.json.decode(r.value)["id"] for r in await read_topic(settings, settings.changes_topic)}
        assert len(actions) == len({a["id"] for a in actions}) == len(changes)
        assert {a["change_id"] for a in actions} == changes
        dead = await read_topic(settings, settings.orders_dead_letters_topic)
        assert len(dead) == 6
        latest = {r.key: r.value for r in await read_topic(settings, settings.state_topic)}
        assert {k: msgspec.json.decode(v)["sequence"] for k, v in latest.items()} == {
            c: int(s) for c, s in ((c, headers([v])["sequence"][0]) for c, v in states(settings).items()) if s
        }
        # A second replay of everything changes nothing.
        before = states(settings)
        await replay(settings, history + rest, until_ms=end)
        await settled(settings)
        assert await moves(settings) == published
        assert states(settings) == before


@pytest.mark.slow
async def test_the_moves_are_a_function_of_the_log(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    """Compare moves and states for other batch sizes, three workers, and workers stopped and killed half-way."""
    calm = settings_for(time="event")
    runs = {
        "small": (settings_for(time="event", turn_max_orders=7, due_slice=3, rescore_slice=5), {}),
        "three": (settings_for(time="event", session_timeout_ms=3_000), {"workers": 3}),
        "stopped": (settings_for(time="event", turn_max_orders=20), {"trouble": "stop"}),
        "killed": (settings_for(time="event", turn_max_orders=20, session_timeout_ms=3_000), {"trouble": "kill"}),
    }
    await run_all(calm, tmp_path / "calm")
    want_moves, want_states = await moves(calm), states(calm)
    check_chains(want_moves)
    assert sum(map(len, want_moves)) > 200
    for name, (settings, options) in runs.items():
        await run_all(settings, tmp_path / name, **options)  # type: ignore[arg-type]  # one dict of options for all runs
        assert await moves(settings) == want_moves, name
        assert states(settings) == want_states, name
        check_due_index(settings)


def test_the_simulated_orders_contain_all_kinds() -> None:
    history, rest, _ = simulated()
    assert len(history) > 50
    assert len(rest) > 50
    assert len({row.kind for row in rest}) == 3
    assert np.all(np.diff([row.at_ms for row in history + rest]) >= 0)
