"""`segstream reshard` on real servers: chains go on, nothing is lost or doubled, whenever the command is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from redis import Redis

from segmentation.campaign_state import CampaignState
from segmentation.events import Amount, CustomerErased, OrderPlaced
from segmentation.partitioners import murmur2
from segmentation.profiles import CustomerProfile
from segmentation.rfm import announcement, unpack
from stream.clock import now_ms
from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.kafka.growth import members, partition_counts
from stream.kafka.step_name import StepName
from stream.kafka.streams import streams_of
from stream.repair.rebuild import ELSEWHERE, LOST
from stream.reshard.journal import Phase, read_journal
from stream.reshard.rebuild import ReshardedRebuilder
from stream.reshard.redis_part import RedisNotSealed
from stream.reshard.resharder import Resharder, ReshardRefused, reshard
from stream.settings import Settings
from stream.status.report import report
from stream.status.report import settled as rests
from stream.storage.keys import ShardKeys
from stream.worker.steps import step_of
from tests.support.command_line import run as command
from tests.support.engine.killed_reshard import KILLED, run
from tests.support.engine.real_worker import activate, check_chains, launch, moves, processes, settled, states
from tests.support.engine.toy_engine import eventually
from tests.support.orders import send_events, send_profiles
from tests.support.topics import cut

NAMES = [f"customer-{i}" for i in range(120)]
FEW = NAMES[:30]
ERASED = [f"erased-{i}" for i in range(20)]
DENIED = NAMES[::10]  # campaigns may not write to them


def order(name: str, number: int) -> OrderPlaced:
    text = f"{name}-{number}"
    return OrderPlaced(
        id=text, order_id=text, customer_id=name, occurred_at=datetime.now(UTC), amount=Amount("90.00", "USD")
    )


async def send(settings: Settings, names: Iterable[str], numbers: range) -> None:
    await send_events(settings, *(order(name, number) for number in numbers for name in names))


async def deny(settings: Settings, names: Iterable[str]) -> None:
    """Send profiles that deny the channel of the only rule."""
    now = datetime.now(UTC)
    profiles = (
        CustomerProfile(id=f"p-{name}", customer_id=name, occurred_at=now, consent={"log": "denied"}) for name in names
    )
    await send_profiles(settings, *profiles)


async def joined(settings: Settings) -> None:
    """Wait until campaigns have read all profiles and orders."""

    async def all_read() -> bool:
        return rests(await asyncio.to_thread(report, settings, "campaigns", now_ms()))

    await eventually(all_read, 90, "profiles and orders")


def of_campaigns(settings: Settings) -> dict[bytes, bytes]:
    """Return all states of campaigns."""
    found: dict[bytes, Any] = {}
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for p in range(settings.partitions):
            found |= redis.hgetall(ShardKeys(settings.group, settings.changes_topic, p).states)
    return found


def denied(settings: Settings) -> set[str]:
    """Return whose state of campaigns has the denial."""
    found = {key: CampaignState.unpack(value) for key, value in of_campaigns(settings).items() if key[0]}
    return {
        key.decode()
        for key, state in found.items()
        if [(channel, dated.text) for channel, dated in state.facts.profile.consent] == [("log", "denied")]
    }


def of_count(settings: Settings, partitions: int) -> Settings:
    return settings.model_copy(update={"partitions": partitions})


async def grow_by_hand(settings: Settings, partitions: int) -> None:
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()
    sharded = [spec.name for spec in topics.specs(of_count(settings, 99)) if spec.partitions == 99]
    await admin.create_partitions({name: NewPartitions(partitions) for name in sharded})
    await admin.close()


async def rebuilt(settings: Settings, step: str = "scoring", only: int | None = None) -> list[str]:
    journal = await read_journal(settings)
    return [
        line async for line in ReshardedRebuilder(settings, streams_of(settings, step), step_of, journal).rebuild(only)
    ]


def delete_redis(settings: Settings, step: str = "scoring") -> None:
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for p in range(settings.partitions):
            redis.delete(*ShardKeys(settings.group, streams_of(settings, step).input, p).all())


def where(settings: Settings, part: str, step: str = "scoring") -> list[set[bytes]]:
    """Return the members of one key of each shard."""
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        keys = [ShardKeys(settings.group, streams_of(settings, step).input, p) for p in range(settings.partitions)]
        if part == "states":
            return [set(redis.hkeys(k.states)) for k in keys]
        if part == "tombstones":
            return [set(redis.hkeys(k.tombstones)) for k in keys]
        return [set(redis.zrange(getattr(k, part), 0, -1)) for k in keys]


async def check(settings: Settings, frequency: dict[str, int]) -> None:
    """Check all chains, and that each customer is in the one shard that is right, with all orders."""
    found = [move for rows in await moves(settings) for move in rows]
    check_chains([sorted(found, key=lambda m: (m["customer_id"], m["sequence"]))])
    there = states(settings)
    assert {key.decode(): unpack(value).frequency for key, value in there.items()} == frequency
    last = {m["customer_id"]: m for m in sorted(found, key=lambda m: m["sequence"])}
    for name in frequency:
        segment, sequence, *_ = announcement(there[name.encode()])
        assert sequence == last[name]["sequence"]
        assert bool(segment) == bool(last[name]["to"])
    for p, names in enumerate(where(settings, "states")):
        assert {murmur2(name, settings.partitions) for name in names} <= {p}
    assert where(settings, "states") == where(settings, "customers")


async def latest(settings: Settings) -> dict[bytes, int]:
    """Return the partition of each customer's latest move."""
    last: dict[tuple[int, bytes], Any] = {}
    for record in await read_topic(settings, settings.state_topic):
        last[record.partition, record.key] = record.value
    found = [(key, p) for (p, key), value in last.items() if value is not None]
    assert len({key for key, _ in found}) == len(found), "a customer has latest moves in two partitions"
    return dict(found)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_more_partitions(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(partitions=2, session_timeout_ms=6_000)
    await topics.create(settings)
    await deny(settings, DENIED[::2])
    with processes(settings, tmp_path, "worker", "dispatch"):
        activation = await asyncio.to_thread(activate, settings)
        await send(settings, NAMES + ERASED, range(3))
        await settled(settings, activation=activation)
        erasures = (CustomerErased(id=f"e-{n}", customer_id=n, occurred_at=datetime.now(UTC)) for n in ERASED)
        await send_events(settings, *erasures)
        await settled(settings)
        with pytest.raises(ReshardRefused, match="workers still run: 1 in"):
            await reshard(settings, 3, step_of, print)
    await send(settings, NAMES, range(3, 4))  # waits in the former partitions
    await deny(settings, DENIED[1::4])  # these too

    lines: list[str] = []
    before, due = states(settings), set().union(*where(settings, "due"))
    await reshard(settings, 3, step_of, lines.append)
    new = of_count(settings, 3)
    assert states(new) == before
    assert set().union(*where(new, "due")) == due
    assert [r.phase for r in await read_journal(new)] == [Phase.DONE]
    assert {key: murmur2(key, 3) for key in await latest(new)} == await latest(new)
    with pytest.raises(ReshardRefused, match="nothing to do"):
        await reshard(new, 3, step_of, print)

    await send(settings, [*NAMES, *ERASED], range(4, 5))  # still by the former routing
    await deny(settings, DENIED[3::4])
    await send(new, NAMES, range(5, 6))
    with processes(new, tmp_path, "worker", "dispatch"):
        await settled(new)
        await settled(new)  # what went on to other partitions too
        await send(new, [*NAMES, *ERASED], range(6, 7))
        await settled(new)
        await settled(new, topic=settings.changes_topic)
        await joined(new)
    assert denied(new) == set(DENIED)
    acts = [msgspec.json.decode(record.value) for record in await read_topic(new, new.actions_topic)]
    assert not {act["customer_id"] for act in acts if act["type"] == "campaign.action"} & set(DENIED[::2])
    assert {act["customer_id"] for act in acts if act.get("reason") == "no_consent"} >= set(DENIED[::2])
    await check(new, dict.fromkeys(NAMES, 7) | dict.fromkeys(ERASED, 2))
    assert not await read_topic(new, settings.orders_dead_letters_topic)
    acted = sorted((r.key, r.partition, r.offset) for r in await read_topic(new, settings.actions_topic))
    assert acted

    # Redis lost altogether, and a shard alone: from the logs of both counts it becomes as before.
    was, published = states(new), await moves(new)
    campaigns, decided = where(new, "states", "campaigns"), of_campaigns(new)
    delete_redis(new)
    delete_redis(new, "campaigns")
    assert len(await rebuilt(new)) == 2 + 3
    await rebuilt(new, "campaigns")
    with processes(new, tmp_path, "worker", "dispatch"):
        await settled(new)
        await settled(new, topic=settings.changes_topic)
        await joined(new)
    assert states(new) == was
    assert where(new, "states", "campaigns") == campaigns
    assert of_campaigns(new) == decided
    await rebuilt(new, only=2)
    with processes(new, tmp_path, "worker"):
        await settled(new)
    assert states(new) == was
    assert await moves(new) == published
    assert sorted((r.key, r.partition, r.offset) for r in await read_topic(new, settings.actions_topic)) == acted


@pytest.mark.slow
async def test_refusals(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(partitions=2)
    await topics.create(settings)
    with pytest.raises(ReshardRefused, match="no shard of the group"):
        await reshard(settings, 3, step_of, print)
    with processes(settings, tmp_path, "worker"):
        await send(settings, NAMES[:10], range(1))
        await settled(settings)

    async def refused(partitions: int, match: str, **change: Any) -> None:
        with pytest.raises(ReshardRefused, match=match):
            await reshard(settings.model_copy(update=change), partitions, step_of, print)

    await eventually(lambda: is_empty(settings), 30, "the group is empty")
    await refused(2, "nothing to do")
    await refused(1, "expected fewer")
    await refused(3, "SEGSTREAM_PARTITIONER", partitioner="none")
    saved = save(settings)
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.delete(ShardKeys(settings.group, settings.orders_topic, 1).head)
    await refused(3, "needs help first .redis_lost")
    assert set((await partition_counts(of_count(settings, 3))).values()) == {2}, "nothing was changed"
    restore(settings, saved)

    await grow_by_hand(settings, 3)
    await refused(4, "expected 2 or 4")
    with processes(of_count(settings, 3), tmp_path, "worker"):
        await eventually(lambda: all_quarantined(of_count(settings, 3)), 60, "quarantined")
    await eventually(lambda: is_empty(settings), 30, "the group is empty")
    await reshard(settings, 3, step_of, print)
    assert len(states(of_count(settings, 3))) == 10
    again = Resharder(of_count(settings, 3), 4, step_of, print)
    assert (await again.plan()).former == 3
    await again.close()


async def is_empty(settings: Settings) -> bool:
    return not await members(settings, [settings.group_of("scoring"), settings.group_of("campaigns")])


def save(settings: Settings) -> dict[bytes, bytes]:
    """Return everything that Redis holds of the group."""
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        return {key: redis.dump(key) for key in redis.scan_iter(match=f"{{{settings.group}:*")}


def restore(settings: Settings, saved: dict[bytes, bytes]) -> None:
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for key in redis.scan_iter(match=f"{{{settings.group}:*"):
            redis.delete(key)
        for key, value in saved.items():
            redis.restore(key, 0, value)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_redis_goes_back(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(partitions=2)
    new = of_count(settings, 3)
    await topics.create(settings)
    with processes(settings, tmp_path, "worker"):
        activation = await asyncio.to_thread(activate, settings)
        await send(settings, NAMES, range(2))
        await settled(settings, activation=activation)
    older = save(settings)
    with processes(settings, tmp_path, "worker"):
        await send(settings, NAMES, range(2, 3))
        await settled(settings)
    sealed = save(settings)
    await eventually(lambda: is_empty(settings), 30, "the group is empty")
    await reshard(settings, 3, step_of, print)
    with processes(new, tmp_path, "worker"):
        await send(new, NAMES, range(3, 4))
        await settled(new)
    was, published = states(new), await moves(new)
    await eventually(lambda: is_empty(settings), 30, "the group is empty")

    # From right before the reshard: its work in Redis is done once more, and the shards follow Kafka.
    restore(settings, sealed)
    await reshard(settings, 3, step_of, print)
    with processes(new, tmp_path, "worker"):
        await settled(new)
    assert states(new) == was
    await eventually(lambda: is_empty(settings), 30, "the group is empty")

    # From longer before: only the logs can help.
    restore(settings, older)
    with pytest.raises(RedisNotSealed) as refused:
        await reshard(settings, 3, step_of, print)
    assert "segstream rebuild" in str(refused.value.hint)
    await rebuilt(new)
    with processes(new, tmp_path, "worker"):
        await settled(new)
    assert states(new) == was
    assert await moves(new) == published


class Load:
    """A producer that never stops. It learns of new partitions late, and until then sends by the former routing."""

    def __init__(self, former: Settings, new: Settings) -> None:
        self.routed_by = former
        self._new = new
        self.sent = 0
        self._stopping = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._stopping:
            await send(self.routed_by, FEW, range(self.sent, self.sent + 1))
            self.sent += 1
            await asyncio.sleep(4)  # a state with thousands of orders would take the time of all else

    def learn(self) -> None:
        self.routed_by = self._new

    async def stop(self) -> None:
        self._stopping = True
        await self._task


async def all_quarantined(settings: Settings) -> bool:
    rows = await asyncio.to_thread(report, settings, StepName.SCORING, now_ms())
    return [(row.state, row.reason) for row in rows] == [("quarantined", "partitions_changed")] * settings.partitions


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_under_load_killed_at_its_steps(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(partitions=2, session_timeout_ms=6_000)
    new = of_count(settings, 3)
    await topics.create(settings)
    with processes(settings, tmp_path, "worker", "dispatch"):
        activation = await asyncio.to_thread(activate, settings)
        load = Load(settings, new)
        await eventually(lambda: load.sent > 3, 30, "orders")
        await settled(settings, activation=activation)

    kills, early = 0, False
    while (done := await asyncio.to_thread(run, settings, 3, 4 + 4 * kills)).returncode == KILLED:
        kills += 1
        print(f"killed {kills} times, {load.sent} orders of each customer so far")
        if not early and await read_journal(settings):
            # A worker of the new count, and one of the former, that are started too early take no turn.
            early = True
            with processes(new, tmp_path / "early", "worker"):
                await eventually(lambda: all_quarantined(new), 60, "quarantined")
    assert done.returncode == 0, done.stderr
    assert kills > 5
    assert early

    with processes(new, tmp_path, "worker", "dispatch"):
        sent = load.sent
        await eventually(lambda: load.sent > sent + 2, 60, "orders by the former routing")
        load.learn()
        sent = load.sent
        worker = launch(new, tmp_path, "worker")
        await eventually(lambda: load.sent > sent + 2, 60, "orders by the new routing")
        worker.kill()
        await asyncio.to_thread(worker.wait)
        await load.stop()
        await settled(new)
        await settled(new)
        await settled(new, topic=settings.changes_topic)
    await check(new, dict.fromkeys(FEW, load.sent))
    assert not await read_topic(new, settings.orders_dead_letters_topic)

    # A fresh group that reads the same orders under the new count alone has the same states, byte for byte, but for
    # what says which moves were published (the bytes before).
    fresh = settings_for(partitions=3, models_topic=settings.models_topic)
    await topics.create(fresh)
    with processes(fresh, tmp_path / "fresh", "worker"):
        async with AIOKafkaProducer(**fresh.kafka_client()) as producer:
            for r in await read_topic(new, new.orders_topic):
                await producer.send(fresh.orders_topic, r.value, key=r.key, partition=murmur2(r.key, 3))
        await settled(fresh, activation=activation)
    assert {key: value[16:] for key, value in states(fresh).items()} == {k: v[16:] for k, v in states(new).items()}
    assert {k: announcement(v)[0] for k, v in states(fresh).items()} == {
        k: announcement(v)[0] for k, v in states(new).items()
    }


@pytest.mark.slow
async def test_retention_overtakes_a_shard_whose_topics_were_given_more_partitions(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(partitions=2)
    new = of_count(settings, 3)
    await topics.create(settings)
    with processes(settings, tmp_path, "worker"):
        activation = await asyncio.to_thread(activate, settings)
        await send(settings, FEW, range(2))
        await settled(settings, activation=activation)
    await eventually(lambda: is_empty(settings), 30, "the group is empty")
    await send(settings, FEW, range(2, 3))
    await cut(settings, settings.orders_topic)
    await grow_by_hand(settings, 3)
    with pytest.raises(ReshardRefused, match=r"needs help first .input_gone"):
        await reshard(settings, 3, step_of, print)

    refused = await asyncio.to_thread(command, new, "skip-lost", "--yes", code=1)
    assert "one of 2 shards, but SEGSTREAM_PARTITIONS is 3" in str(refused.exception)
    assert "SEGSTREAM_PARTITIONS=2" in str(getattr(refused.exception, "hint", ""))
    done = await asyncio.to_thread(command, settings, "skip-lost", "--yes")
    assert done.stdout.count("its states stay") == 2
    sealed = await seal_and_die(settings)
    assert sealed.returncode == KILLED
    begun = await asyncio.to_thread(command, settings, "skip-lost", "--yes", code=1)
    assert "a reshard to 3 partitions has begun" in str(begun.exception)
    await reshard(settings, 3, step_of, print)
    with processes(new, tmp_path, "worker"):
        await send(new, FEW, range(3, 4))
        await settled(new)
    await check(new, dict.fromkeys(FEW, 3))  # two before, and one after


async def seal_and_die(settings: Settings) -> Any:
    """Run the reshard until the journal is written: by then all shards are sealed."""
    for kill_at in range(8, 40, 2):
        done = await asyncio.to_thread(run, settings, 3, kill_at)
        if done.returncode != KILLED or await read_journal(settings):
            return done
    raise AssertionError("no journal")


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_redis_is_lost_after_the_orders_of_before_the_reshard(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(partitions=2)
    new = of_count(settings, 3)
    await topics.create(settings)
    with processes(settings, tmp_path, "worker", "dispatch"):
        activation = await asyncio.to_thread(activate, settings)
        await send(settings, FEW, range(3))
        await settled(settings, activation=activation)
        await settled(settings, topic=settings.changes_topic)
    await eventually(lambda: is_empty(settings), 30, "the group is empty")
    await reshard(settings, 3, step_of, print)
    with processes(new, tmp_path, "worker", "dispatch"):
        await send(new, FEW, range(3, 5))
        await settled(new)
        await settled(new, topic=settings.changes_topic)
    await cut(new, new.orders_topic, {0: 1, 1: 1})
    before, published = states(new), await moves(new)
    actions = await read_topic(new, new.actions_topic)
    delete_redis(new)
    delete_redis(new, "campaigns")
    refused = await asyncio.to_thread(command, new, "rebuild", "--yes", code=1)
    assert "starts at offset 1" in str(refused.exception)
    assert "--allow-truncated-logs" in str(getattr(refused.exception, "hint", ""))
    done = await asyncio.to_thread(command, new, "rebuild", "--yes", "--allow-truncated-logs")
    assert LOST in done.stdout
    assert ELSEWHERE in done.stdout
    # The moves are whole, so the campaigns' shards are made anew completely.
    assert LOST not in (await asyncio.to_thread(command, new, "rebuild", "--step", "campaigns", "--yes")).stdout
    with processes(new, tmp_path, "worker", "dispatch"):
        await send(new, FEW, range(5, 7))
        await settled(new)
        await settled(new, topic=settings.changes_topic)
    found = sorted((move for rows in await moves(new) for move in rows), key=lambda move: move["sequence"])
    check_chains([found])
    assert {key for names in where(new, "states") for key in names} == set(before), "each is known, and in one shard"
    assert sum(map(len, where(new, "states"))) == len(before)
    for p, names in enumerate(where(new, "states")):
        assert {murmur2(name, 3) for name in names} <= {p}
    stayed = {key for key in before if murmur2(key, 2) == murmur2(key, 3)}
    assert all(unpack(states(new)[key]).frequency >= 4 for key in before), "those sent since the reshard count"
    assert any(unpack(states(new)[key]).frequency == 7 for key in stayed), "so do earlier ones on the same partition"
    assert [rows[: len(was)] for rows, was in zip(await moves(new), published, strict=True)] == published
    acted = sorted((r.partition, r.offset, r.value) for r in await read_topic(new, new.actions_topic))
    assert len(acted) >= len(actions)
    assert len({value for *_, value in acted}) == len(acted)

    # The campaigns' shards, from moves that have lost their beginning too: nobody is in the shard of before.
    await cut(new, new.changes_topic, {0: 1, 1: 1})
    delete_redis(new, "campaigns")
    truncated = ("rebuild", "--step", "campaigns", "--yes", "--allow-truncated-logs")
    assert ELSEWHERE in (await asyncio.to_thread(command, new, *truncated)).stdout
    with processes(new, tmp_path, "dispatch"):
        await settled(new, topic=settings.changes_topic)
    found_in = where(new, "states", "campaigns")
    assert any(found_in)
    for p, names in enumerate(found_in):
        assert {murmur2(name, 3) for name in names} <= {p}
    assert sorted((r.partition, r.offset, r.value) for r in await read_topic(new, new.actions_topic)) == acted
