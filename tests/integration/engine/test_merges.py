"""Ids that are merged, over shards of real servers, whose workers are killed and whose Redis is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis

from segmentation.events import Amount, CustomerErased, CustomerMerged, OrderPlaced
from segmentation.partitioners import murmur2
from segmentation.state_bytes import unpack
from stream.commands import shards
from stream.kafka import topics
from stream.kafka.clients import end_offsets
from stream.settings import Settings
from stream.storage.keys import ShardKeys, tombstone
from stream.storage.remains import opened_remains
from tests.support.engine.killed_reshard import run
from tests.support.engine.real_worker import activate, check_chains, launch, moves, processes, settled, states
from tests.support.orders import send_events

SALT = b"of the test"
BEGAN = datetime.now(UTC) - timedelta(days=9)
# One person by three ids, on three partitions of four; and somebody else.
ANN, ANNA, ANNE = (
    next(f"{name}-{n}" for n in range(99) if murmur2(f"{name}-{n}".encode(), 4) == partition)
    for partition, name in enumerate(("ann", "anna", "anne"))
)
BOB = "bob"


def at(hours: float) -> datetime:
    return BEGAN + timedelta(hours=hours)


def order(name: str, number: int, amount: int = 10) -> OrderPlaced:
    return OrderPlaced(
        id=f"{name}-{number}", order_id=f"{name}-{number}", customer_id=name, occurred_at=at(number),
        amount=Amount(f"{amount}.00", "USD"),
    )  # fmt: skip


def merged(giver: str, into: str, hours: float) -> CustomerMerged:
    return CustomerMerged(id=f"{giver} is {into}@{hours}", from_=giver, into=into, occurred_at=at(hours))


async def at_rest(settings: Settings, activation: int = 0) -> None:
    """Wait until every shard has read all, also what the others have sent it."""
    before = None
    while (ends := await end_offsets(settings, settings.orders_topic)) != before:
        before = ends
        await settled(settings, activation=activation)


def gone(settings: Settings) -> dict[bytes, bytes]:
    """Return the tombstones, without the salt's mark, of every shard."""
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        rows: dict[bytes, bytes] = {}
        for p in range(settings.partitions):
            rows |= redis.hgetall(ShardKeys(settings.group, settings.orders_topic, p).tombstones)
    return {name: value for name, value in rows.items() if name != b"salt"}


def as_one_id(value: bytes) -> tuple[Any, ...]:
    """Return of a state what doesn't depend on the ids that it came by."""
    s = unpack(value)
    return s.entries, s.folded, s.first, s.frequency, s.monetary


async def of(settings: Settings, name: str) -> list[dict[str, Any]]:
    everyone = await moves(settings)
    check_chains(everyone)
    return [m for partition in everyone for m in partition if m["customer_id"] == name]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_merge_hands_a_life_on_to_another_shard(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(erasure_salt=SecretStr(SALT.decode()))
    await topics.create(settings)
    with processes(settings, tmp_path, "worker"):
        activation = await asyncio.to_thread(activate, settings)
        await send_events(settings, order(ANN, 1), order(ANN, 2), order(ANNA, 3), order(BOB, 1))
        await settled(settings, activation=activation)
        await send_events(settings, merged(ANN, ANNA, 4), order(ANN, 5))
        await at_rest(settings)
        last = (await of(settings, ANN))[-1]
        assert (last["to"], last["cause"], last["merged_into"]) == (None, "merged", ANNA)
        assert unpack(states(settings)[ANNA.encode()]).frequency == 4
        assert sorted(states(settings)) == sorted([ANNA.encode(), BOB.encode()])
        remains = gone(settings)
        assert list(remains) == [tombstone(ANN.encode(), SALT)]
        assert ANNA.encode() not in remains[tombstone(ANN.encode(), SALT)]
        # An order that comes again, by either id, changes nothing.
        before = states(settings), await moves(settings)
        await send_events(settings, order(ANN, 1), order(ANNA, 3), merged(ANN, ANNA, 4))
        await at_rest(settings)
        assert (states(settings), await moves(settings)) == before
    await _rebuilt_alike(settings, tmp_path)
    with processes(settings, tmp_path, "worker"):
        await send_events(settings, CustomerErased(id="forget", customer_id=ANN, occurred_at=at(8)))
        await at_rest(settings)
        assert sorted(states(settings)) == [BOB.encode()]
        assert (await of(settings, ANNA))[-1]["cause"] == "erasure"
        await send_events(settings, order(ANN, 2), order(ANNA, 3))
        await at_rest(settings)
        assert sorted(states(settings)) == [BOB.encode()]
    await _rebuilt_alike(settings, tmp_path)


async def _rebuilt_alike(settings: Settings, folder: Path) -> None:
    """Make giver and receiver anew, each by itself and then both: equal bytes, and nothing is sent again."""
    stored = states(settings), gone(settings)
    said = await moves(settings)
    sent = await end_offsets(settings, settings.orders_topic)
    for only in (murmur2(ANN.encode(), settings.partitions), murmur2(ANNA.encode(), settings.partitions), None):
        await shards._rebuild(settings, "scoring", only)
        with processes(settings, folder, "worker"):
            await at_rest(settings)
            assert (states(settings), gone(settings)) == stored
    assert await end_offsets(settings, settings.orders_topic) == sent
    assert await moves(settings) == said


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_killed_workers_end_as_one_id_that_never_was_another(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    """A worker is killed again and again while a ring of merges flows; then Redis is lost."""
    settings = settings_for(erasure_salt=SecretStr(SALT.decode()), session_timeout_ms=6_000, turn_max_orders=3)
    alone = settings_for(erasure_salt=SecretStr(SALT.decode()))
    for one in (settings, alone):
        await topics.create(one)
        await asyncio.to_thread(activate, one)
    rng = random.Random(7)
    ids = (ANN, ANNA, ANNE)
    edges = (ANN, ANNA, 50), (ANNA, ANNE, 51), (ANNE, ANN, 52), (ANN, ANNE, 60)
    ring = [merged(*edge) for edge in edges]
    bought = [order(rng.choice(ids), number, number) for number in range(1, 49)]
    events: list[OrderPlaced | CustomerMerged] = [*bought, *ring, *rng.sample(bought, 9)]
    rng.shuffle(events)
    worker = launch(settings, tmp_path, "worker")
    try:
        for begin in range(0, len(events), 12):
            await send_events(settings, *events[begin : begin + 12])
            await asyncio.sleep(rng.uniform(0.5, 3))
            worker.kill()
            worker.wait()
            worker = launch(settings, tmp_path, "worker")
        await at_rest(settings)
    finally:
        worker.kill()
        worker.wait()
    assert list(states(settings)) == [ANNE.encode()]
    with processes(alone, tmp_path / "alone", "worker"):
        await send_events(alone, *(_of_anne(o) for o in bought))
        await at_rest(alone)
    assert as_one_id(states(settings)[ANNE.encode()]) == as_one_id(states(alone)[ANNE.encode()])
    for name in ids:
        last = (await of(settings, name))[-1:]
        assert all((m["to"] is None) == (name != ANNE) for m in last)
    known = unpack(opened_remains(gone(settings)[tombstone(ANN.encode(), SALT)], ANN.encode(), SALT)).links.edges
    assert {(e.source, e.target) for e in known} >= {(ANN, ANNA), (ANN, ANNE)}
    await _rebuilt_alike(settings, tmp_path)

    # More partitions, and Redis is lost once more.
    assert run(settings, 6, 0).returncode == 0
    grown = settings.model_copy(update={"partitions": 6})
    with processes(grown, tmp_path, "worker"):
        await send_events(grown, order(ANN, 70), order(ANNA, 71))
        await at_rest(grown)
        assert unpack(states(grown)[ANNE.encode()]).frequency == len(bought) + 2
    stored = states(grown), gone(grown)
    await shards._rebuild(grown, "scoring", None)
    with processes(grown, tmp_path, "worker"):
        await at_rest(grown)
        assert states(grown) == stored[0]


def _of_anne(event: OrderPlaced) -> OrderPlaced:
    return OrderPlaced(
        id=event.id, order_id=event.order_id, customer_id=ANNE, occurred_at=event.occurred_at, amount=event.amount
    )
