"""Drift on real servers: the worker's metrics, the command, and a scheduler that trains early because of it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from segmentation.drift import SEGMENTS, Tally, drift_of
from segmentation.entries import DAY_MS
from segmentation.event_text import instant
from segmentation.events import Amount, OrderPlaced, encode
from segmentation.model import FEATURES, SegmentModel
from segmentation.partitioners import murmur2
from segmentation.rfm import EMPTY, Kind, Rules, absorb_bytes, entry
from stream.kafka import topics
from stream.local.machine import free_port
from stream.metrics import Metrics
from stream.models.drift_monitor import DriftMonitor
from stream.models.feed import ModelFeed
from stream.storage.heads import StoreHead, encode_head
from stream.storage.keys import ShardKeys
from stream.storage.sample import sample
from tests.support.command_line import run
from tests.support.data.training import one_fit, train
from tests.support.engine.real_worker import activate, processes, settled, states
from tests.support.engine.toy_engine import eventually
from trainer.errors import SnapshotError
from trainer.schedule.drift_trigger import DriftTrigger
from trainer.schedule.policy import LastRun
from trainer.snapshot.redis import columns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stream.settings import Settings

CUSTOMERS = 600


def orders(settings: Settings, now_ms: int) -> list[tuple[int, bytes, bytes]]:
    """Return (partition, key, event) of customers who bought within the last year."""
    rng, found = np.random.default_rng(3), []
    for i in range(CUSTOMERS):
        name = f"c{i:04}"
        for j, ago in enumerate(sorted(rng.integers(DAY_MS, 360 * DAY_MS, int(rng.geometric(0.4))).tolist())):
            amount = Amount(f"{rng.lognormal(4, 1):.2f}", settings.currency)
            placed = OrderPlaced(
                id=f"{i}-{j}", order_id=f"{i}-{j}", customer_id=name, occurred_at=instant(now_ms - ago), amount=amount
            )
            found.append((murmur2(name.encode(), settings.partitions), name.encode(), encode(placed)))
    return found


def trained(settings: Settings, at_ms: int) -> SegmentModel:
    return train(columns(states(settings).items(), at_ms, settings.rules), one_fit(k=3)).model


async def scraped(port: int) -> dict[str, float]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        text = await answer.text()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"}


async def test_a_worker_shows_the_drift_of_its_customers_and_the_refused_model(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(drift_interval_s=0.2, http_port=free_port(), partitions=2)
    await topics.create(settings)
    now_ms = time.time_ns() // 1_000_000
    with processes(settings, tmp_path, "worker"):
        async with AIOKafkaProducer(**settings.kafka_client()) as producer:
            for partition, key, value in orders(settings, now_ms):
                await producer.send(settings.orders_topic, value, key=key, partition=partition)
        await settled(settings)
        before = await scraped(settings.http_port)
        assert before["segstream_drift_sampled_customers"] == 0
        assert not any(name.startswith("segstream_drift_stability_index") for name in before)

        model = await asyncio.to_thread(trained, settings, now_ms)
        activation = await asyncio.to_thread(activate, settings, model)
        await settled(settings, activation=activation)

        async def shown() -> bool:
            return (await scraped(settings.http_port))["segstream_drift_sampled_customers"] == CUSTOMERS

        await eventually(shown, 30, "a sample with the model")
        found = await scraped(settings.http_port)
        for name in (SEGMENTS, *FEATURES):
            assert 0 <= found[f'segstream_drift_stability_index{{of="{name}"}}'] < 0.05
        assert found["segstream_drift_distance_ratio"] == pytest.approx(1, abs=0.05)
        shares = {s.name: found[f'segstream_drift_segment_share{{segment="{s.name}"}}'] for s in model.segments}
        assert shares == pytest.approx(model.training.shares, abs=0.05)

        assert found["segstream_models_refused_total"] == 0
        async with AIOKafkaProducer(**settings.kafka_client()) as producer:
            for key, value in ((b"0123456789abcdef", b"{}"), (b"active", b'{"version":"0123456789abcdef"}')):
                await producer.send_and_wait(settings.models_topic, value, key=key, partition=0)

        async def refused() -> bool:
            return (await scraped(settings.http_port))["segstream_models_refused_total"] == 2

        await eventually(refused, 30, "both counted")
        # The last good values stay.
        assert (await scraped(settings.http_port))[
            'segstream_model_activation{partition="0",step="scoring"}'
        ] == activation
        listed, exact, plain = [
            await asyncio.to_thread(run, settings, "models", *more)
            for more in (["--json"], ["drift", "--json"], ["drift"])
        ]
    report = [json.loads(line) for line in listed.stdout.splitlines()][-1]
    whole = json.loads(exact.stdout)
    assert report["customers"] == report["of"] == whole["customers"] == whole["of"] == CUSTOMERS
    # The sample holds all of so few customers; a little time passes between the two measurements.
    assert whole["stability_indices"] == pytest.approx(report["stability_indices"], abs=1e-6)
    tally = Tally(model, settings.rules)
    tally.add(list(states(settings).values()), time.time_ns() // 1_000_000)
    assert whole["stability_indices"] == pytest.approx(drift_of(tally).indices, abs=1e-6)
    assert re.search(r"by 600 of 600 customers: .*: no drift\.", plain.stdout)
    assert re.search(r"share of .* \d", plain.stdout)


def fill(settings: Settings, seed: int, *, latest: int, times: float = 1.0) -> None:
    """Write customers to Redis as the engine would, in place of earlier ones."""
    rng, rules = np.random.default_rng(seed), Rules()
    with SyncRedis.from_url(settings.redis_url.get_secret_value()) as redis:
        for partition in range(settings.partitions):
            keys, found = ShardKeys(settings.group, settings.orders_topic, partition), {}
            for i in range(CUSTOMERS // settings.partitions):
                value = EMPTY
                for j, at in enumerate(np.sort(rng.integers(latest - 300 * DAY_MS, latest, 1 + i % 7)).tolist()):
                    amount = int(rng.lognormal(4, 1) * 100 * times) * 100
                    placed = entry(Kind.PLACED, f"{i}-{j}", at, order=f"{i}-{j}", amount=amount)
                    value, _ = absorb_bytes(value, placed, at, rules)
                found[f"p{partition}c{i:04}".encode()] = value
            redis.delete(keys.states)
            redis.hset(keys.states, mapping=cast("dict[Any, Any]", found))
            redis.zadd(keys.customers, dict.fromkeys(cast("dict[Any, Any]", found), 0))
            own = (settings.partitions, settings.partitions)
            head = StoreHead("token", 1, 1, 0, 0, latest, latest, 0, "", None, None, "cluster", own)
            redis.set(keys.head, encode_head(head))


async def test_a_schedule_asks_for_a_training_once_customers_have_drifted(
    settings_for: Callable[..., Settings],
) -> None:
    settings = settings_for(partitions=2)
    await topics.create(settings)
    now = [time.time_ns() // 1_000_000]
    fill(settings, 1, latest=now[0])
    last = LastRun(instant_ms=now[0])
    async with Redis.from_url(settings.redis_url.get_secret_value(), protocol=2) as redis:
        ask = DriftTrigger(settings, redis, 0.25, 3600, lambda: now[0])
        assert await ask(last) is None, "no model is active"
        model = await asyncio.to_thread(trained, settings, now[0])
        await asyncio.to_thread(activate, settings, model)
        now[0] += 3_600_000
        assert await ask(last) is None, "they are those of the training"

        fill(settings, 2, latest=now[0], times=5.0)
        assert await ask(last) is None, "it looked within the hour"
        now[0] += 3_600_000
        why = await ask(last)
        assert why is not None
        assert re.fullmatch(r"drift: the stability index of monetary is \d\.\d{3}, above 0\.25", why)
        assert await ask(last) == why, "until it is done"
        assert await ask(LastRun(instant_ms=now[0], why=why, asked=True, outcome="succeeded")) is None, "once is enough"
        now[0] += 24 * 3_600_000
        assert await ask(LastRun(instant_ms=now[0], why="scheduled: …", outcome="succeeded")), "and tomorrow again"

        now[0] += 3_600_000
        await redis.hset(ShardKeys(settings.group, settings.orders_topic, 0).states, "x", "no state")
        with pytest.raises(SnapshotError, match=f"group {settings.group}"):
            await ask(last)


async def test_a_sample_is_fair_and_no_larger_than_asked(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(partitions=2)
    fill(settings, 1, latest=1_700_000_000_000)
    keys = ShardKeys(settings.group, settings.orders_topic, 1)
    async with Redis.from_url(settings.redis_url.get_secret_value(), protocol=2) as redis:
        assert await sample(redis, ShardKeys(settings.group, "none", 0), settings) is None
        everyone = await sample(redis, keys, settings)
        assert everyone is not None
        assert everyone.clock == 1_700_000_000_000
        assert len(set(everyone.values)) == len(everyone.values) == CUSTOMERS // 2
        # Every customer is sampled as often as others, wherever it is in the hash: 300 of 300 in some rounds of 50.
        seen: set[bytes] = set()
        for _ in range(80):
            some = await sample(redis, keys, settings, 50)
            assert some is not None
            assert len(some.values) == 50
            seen.update(some.values)
    assert seen == set(everyone.values)


async def test_a_look_that_goes_wrong_is_reported_and_shows_nothing(
    settings_for: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(partitions=1)
    fill(settings, 1, latest=time.time_ns() // 1_000_000)
    model = await asyncio.to_thread(trained, settings, time.time_ns() // 1_000_000)
    feed, metrics = ModelFeed(settings, lambda *_: None), Metrics()
    feed.take(model.version.encode(), model.to_json(), 1)
    feed.take(b"active", f'{{"version":"{model.version}"}}'.encode(), 2)
    feed.caught_up.set()

    def shown() -> bool:
        return b"segstream_drift_stability_index{" in metrics.render()

    async with Redis.from_url(settings.redis_url.get_secret_value(), protocol=2) as redis:
        keys = ShardKeys(settings.group, settings.orders_topic, 0)
        watch = DriftMonitor(settings, redis, feed, metrics, lambda: [0], lambda: time.time_ns() // 1_000_000)
        await watch.look()
        assert shown()
        good = await redis.get(keys.head)
        assert good is not None
        for head in (b"no head", b'{"token":"\xff"}'):
            await redis.set(keys.head, head)
            await watch.look()
            assert not shown()
            assert "no sample of the customers" in caplog.records.pop().getMessage()
            await redis.set(keys.head, good)
            await watch.look()
            assert shown()
        # An index of a hundred customers would be chance; only their number is shown.
        others = (await redis.hkeys(keys.states))[100:]
        await redis.hdel(keys.states, *others)
        await watch.look()
        assert not shown()
        assert b"segstream_drift_sampled_customers 100.0" in metrics.render()
    async with Redis.from_url("redis://127.0.0.1:1", protocol=2) as nobody:
        await DriftMonitor(settings, nobody, feed, metrics, lambda: [0], lambda: 0).look()
    assert b"segstream_drift_sampled_customers 0.0" in metrics.render()
