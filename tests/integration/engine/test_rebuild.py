"""`segstream rebuild` from logs that have lost their beginning: what it recovers, and what it reports as lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from segmentation.events import Amount, OrderPlaced
from segmentation.rfm import announcement, unpack
from stream.kafka import topics
from stream.kafka.streams import streams_of
from stream.repair.rebuild import LOST, LogShortened, Rebuilder
from stream.settings import Settings
from stream.storage.keys import ShardKeys
from stream.worker.steps import step_of
from tests.support.engine.real_worker import activate, check_chains, moves, processes, settled, states
from tests.support.orders import send_events
from tests.support.topics import cut

EARLY = [f"early-{i}" for i in range(30)]  # all their orders leave the log
BOTH = [f"both-{i}" for i in range(30)]


def order(name: str, number: int) -> OrderPlaced:
    text = f"{name}-{number}"
    return OrderPlaced(
        id=text, order_id=text, customer_id=name, occurred_at=datetime.now(UTC), amount=Amount("90.00", "USD")
    )


async def send(settings: Settings, names: Iterable[str], numbers: range) -> None:
    await send_events(settings, *(order(name, number) for name in names for number in numbers))


def delete_redis(settings: Settings) -> None:
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for p in range(settings.partitions):
            redis.delete(*ShardKeys(settings.group, settings.orders_topic, p).all())


async def rebuilt(settings: Settings, **how: Any) -> list[str]:
    rebuilder = Rebuilder(settings, streams_of(settings, "scoring"), step_of(settings, "scoring"))
    return [line async for line in rebuilder.rebuild(**how)]


@pytest.mark.slow
@pytest.mark.parametrize("outputs_too", [False, True], ids=["orders", "orders-and-moves"])
async def test_allow_truncated_logs(settings_for: Callable[..., Settings], tmp_path: Path, outputs_too: bool) -> None:
    settings = settings_for()
    await topics.create(settings)
    with processes(settings, tmp_path, "worker"):
        activation = await asyncio.to_thread(activate, settings)
        await send(settings, EARLY + BOTH, range(3))
        await settled(settings, activation=activation)
        early_moves = await moves(settings)
        await cut(settings, settings.orders_topic)
        if outputs_too:
            await cut(settings, settings.changes_topic)
        await send(settings, BOTH, range(3, 5))
        await settled(settings)
    before = states(settings)
    published = await moves(settings)
    delete_redis(settings)

    with pytest.raises(LogShortened, match=r"orders.*-0 starts at offset \d+.*gone") as refused:
        await rebuilt(settings)
    assert "--allow-truncated-logs" in str(refused.value.hint)
    lines = await rebuilt(settings, allow_truncated_logs=True)
    assert len(lines) == settings.partitions + 1
    assert lines[-1] == LOST
    assert sum(int(line.split("; ")[-1].split()[0]) for line in lines[:-1]) == len(EARLY + BOTH)

    with processes(settings, tmp_path, "worker"):
        # A turn of every shard, which moves due customers; and an activation, which rescores all customers.
        await send(settings, BOTH, range(5, 6))
        await settled(settings, activation=await asyncio.to_thread(activate, settings))
        await send(settings, BOTH, range(6, 7))
        await settled(settings)
        after = states(settings)
        assert {k: announcement(v) for k, v in after.items() if k.startswith(b"early")} == {
            k: announcement(v) for k, v in before.items() if k.startswith(b"early")
        }, "customers without any order left keep their segment"
        assert {unpack(v).frequency for k, v in after.items() if k.startswith(b"both")} == {4}
        await send(settings, EARLY + BOTH, range(7, 22))
        await settled(settings)
        final = await moves(settings)
    # Published moves stay, and every chain of moves continues.
    assert [rows[: len(was)] for rows, was in zip(final, published, strict=True)] == published
    everything = [early + rows for early, rows in zip(early_moves, final, strict=True)] if outputs_too else final
    check_chains(everything)
    assert {m["customer_id"] for rows in everything for m in rows} == {*EARLY, *BOTH}
    by_name = {m["customer_id"]: m for rows in final for m in rows}
    assert by_name[EARLY[0]]["sequence"] > 1
    assert unpack(states(settings)[EARLY[0].encode()]).frequency == 15
