"""The faults of the storm, by the resource that they need. Each heals its damage before it returns."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, cast

from tests.recovery.rig.proxy import ADD_PARTITIONS, END_TXN, GROUP_TALK, PRODUCE, Proxy
from tests.recovery.rig.security import WORKER, worker_commands, worker_rules
from tests.recovery.rig.worker import TAKEOVER_POINTS, TURN_POINTS
from tests.recovery.rig.world import SHORT, RecoveryWorld
from tests.support.secured.rules import grant, revoke

HOUR_MS: Final = 3_600_000
SESSION_S: Final = SHORT["session_timeout_ms"] / 1000
TRANSACTION_S: Final = SHORT["transaction_timeout_ms"] / 1000
EVERY_TIMEOUT_S: Final = SHORT["commit_timeout_s"] + 2


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault. `resource`: two faults with the same one are never combined. `weight`: its share among all."""

    name: str
    resource: str
    weight: int
    strike: Callable[[RecoveryWorld, random.Random], Awaitable[None]]


FAULTS: list[Fault] = []
DENIALS: list[Fault] = []  # of secured servers alone


def faults_of(world: RecoveryWorld) -> list[Fault]:
    """Return the faults that these servers can have."""
    return FAULTS + DENIALS if world.servers.security else FAULTS


def fault(
    resource: str, weight: int = 4, among: list[Fault] = FAULTS
) -> Callable[[Callable[[RecoveryWorld, random.Random], Awaitable[None]]], Fault]:
    """Register a fault."""

    def entered(strike: Callable[[RecoveryWorld, random.Random], Awaitable[None]]) -> Fault:
        made = Fault(strike.__name__, resource, weight, strike)
        among.append(made)
        return made

    return entered


def some_worker(world: RecoveryWorld, rng: random.Random) -> int:
    # There may be no worker for a moment: another fault at the same time has stopped it.
    return rng.choice(world.fleet.running or [0])


@fault("worker", 8)
async def kill_a_worker(world: RecoveryWorld, rng: random.Random) -> None:
    index = some_worker(world, rng)
    world.fleet.kill(index)
    await asyncio.sleep(rng.choice((0.0, rng.uniform(0, SESSION_S + 2))))
    world.fleet.start(index)


@fault("worker", 4)
async def pause_a_worker(world: RecoveryWorld, rng: random.Random) -> None:
    index = some_worker(world, rng)
    world.fleet.pause(index)
    await asyncio.sleep(rng.uniform(0.1, SESSION_S))
    world.fleet.resume(index)


@fault("worker", 8)
async def pause_a_worker_until_it_has_a_successor(world: RecoveryWorld, rng: random.Random) -> None:
    index = some_worker(world, rng)
    world.fleet.pause(index)
    await asyncio.sleep(SESSION_S + rng.uniform(1, 5))
    world.fleet.resume(index)


@fault("worker", 8)
async def add_or_remove_a_worker(world: RecoveryWorld, rng: random.Random) -> None:
    free = world.fleet.free
    if free and (len(world.fleet.running) < 2 or rng.random() < 0.6):
        world.fleet.start(rng.choice(free))
    else:
        index = some_worker(world, rng)
        code = await asyncio.to_thread(world.fleet.leave, index)
        world.note(f"worker {index} has left with code {code}")
        if not world.fleet.alike(index):
            world.fleet.start(index)


@fault("worker", 8)
async def let_a_worker_die_at_a_point(world: RecoveryWorld, rng: random.Random) -> None:
    index = some_worker(world, rng)
    point = rng.choice(TURN_POINTS + TAKEOVER_POINTS)
    passing = rng.randint(1, 15) if point in TURN_POINTS else rng.randint(1, 3)
    world.note(f"worker {index}: {point} at passing {passing}")
    world.fleet.kill(index)
    world.fleet.start(index, point=point, passing=passing, page=rng.choice((None, 5)))
    await asyncio.sleep(rng.uniform(2, 5))


@fault("worker", 2)
async def let_a_clock_jump(world: RecoveryWorld, rng: random.Random) -> None:
    index = some_worker(world, rng)
    world.fleet.set_clock(index, rng.choice((-48, -1, 1, 48)) * HOUR_MS)
    await asyncio.sleep(rng.uniform(0.5, 2))


@fault("valkey", 6)
async def kill_valkey(world: RecoveryWorld, rng: random.Random) -> None:
    await asyncio.to_thread(world.servers.valkey.kill)
    await asyncio.sleep(rng.uniform(0, 1))
    await asyncio.to_thread(world.servers.valkey.start)


@fault("valkey", 8)
async def put_valkey_back(world: RecoveryWorld, rng: random.Random) -> None:
    await asyncio.to_thread(world.servers.put_back, rng.randrange(4))


@fault("valkey", 2)
async def take_valkey_down_for_long(world: RecoveryWorld, rng: random.Random) -> None:
    await asyncio.to_thread(world.servers.valkey.stop)
    await asyncio.sleep(rng.uniform(EVERY_TIMEOUT_S, EVERY_TIMEOUT_S + 2))
    await asyncio.to_thread(world.servers.valkey.start)


@fault("valkey", 4)
async def suspend_valkey(world: RecoveryWorld, rng: random.Random) -> None:
    world.servers.valkey.suspend()
    await asyncio.sleep(rng.uniform(0.2, 4))
    world.servers.valkey.resume()


@fault("valkey", 5)
async def fail_over(world: RecoveryWorld, rng: random.Random) -> None:
    servers = world.servers
    await asyncio.to_thread(servers.fail_over, rng.uniform(0.1, 3))
    # One worker after the other is connected to the new primary; meanwhile the others write to the old one.
    for wires in rng.sample(servers.wires, len(servers.wires)):
        wires.redis.point_at(servers.valkey.port)
        wires.redis.cut()
        await asyncio.sleep(rng.choice((0.0, rng.uniform(0, 2))))
    await asyncio.to_thread(servers.demote_other)


@fault("valkey", 2)
async def fill_valkey(world: RecoveryWorld, rng: random.Random) -> None:
    with world.servers.redis() as redis:
        redis.config_set("maxmemory", 1)
        await asyncio.sleep(rng.uniform(0.5, 3))
        redis.config_set("maxmemory", 0)


@fault("valkey", 2)
async def make_valkey_read_only(world: RecoveryWorld, rng: random.Random) -> None:
    with world.servers.redis() as redis:
        redis.config_set("min-replicas-to-write", 5)
        await asyncio.sleep(rng.uniform(0.5, 3))
        redis.config_set("min-replicas-to-write", 0)


@fault("valkey", 3)
async def lose_a_part_of_redis(world: RecoveryWorld, rng: random.Random) -> None:
    """Delete one key of a shard behind its head, as an evicting policy does; an operator rebuilds the shard."""
    partition, part = rng.randrange(world.settings.partitions), rng.choice(("states", "customers", "due", "tombstones"))
    tag = f"{{{world.settings.group}:{world.settings.orders_topic}"
    with world.servers.redis() as redis:
        if not redis.delete(f"{tag}:{partition}}}:{part}"):
            return
        world.note(f"shard {partition} has lost its {part}")
        world.losses += 1
        await asyncio.sleep(rng.uniform(0, 3))
        await world.rebuilt(partition)
        # The owner may show only now that it has stopped.
        for _ in range(8):
            shown = cast("bytes | None", redis.hget(f"{tag}}}:status", str(partition)))
            if shown and b'"quarantined"' in shown:
                redis.hdel(f"{tag}}}:status", str(partition))
            await asyncio.sleep(0.5)


@fault("kafka", 3)
async def kill_kafka(world: RecoveryWorld, rng: random.Random) -> None:
    await asyncio.to_thread(world.servers.kafka.kill)
    await asyncio.sleep(rng.uniform(0, 2))
    await asyncio.to_thread(world.servers.kafka.start)


@fault("kafka", 3)
async def suspend_kafka(world: RecoveryWorld, rng: random.Random) -> None:
    world.servers.kafka.suspend()
    await asyncio.sleep(rng.uniform(0.5, EVERY_TIMEOUT_S))
    world.servers.kafka.resume()


async def while_denied(world: RecoveryWorld, rng: random.Random) -> None:
    """Wait; the workers that a denial has ended are started again under it, too."""
    await asyncio.sleep(rng.uniform(0.3, 3))
    world.fleet.restart_ended()
    await asyncio.sleep(rng.uniform(0, 3))


@fault("kafka", 8, among=DENIALS)
async def take_a_permission_in_kafka(world: RecoveryWorld, rng: random.Random) -> None:
    rule = rng.choice(worker_rules(world.settings))
    world.note(f"without {rule}")
    await revoke(world.settings, rule)
    try:
        await while_denied(world, rng)
    finally:
        await grant(world.settings, [rule])


@fault("valkey", 8, among=DENIALS)
async def take_a_permission_in_redis(world: RecoveryWorld, rng: random.Random) -> None:
    command = rng.choice(worker_commands())
    world.note(f"without {command}")
    world.servers.set_redis_user(WORKER, f"-{command}")
    try:
        await while_denied(world, rng)
    finally:
        world.servers.set_redis_user(WORKER, f"+{command}")


def some_proxies(world: RecoveryWorld, rng: random.Random) -> list[Proxy]:
    wires = world.servers.wires[some_worker(world, rng)]
    return rng.choice(([wires.kafka], [wires.redis], [wires.kafka, wires.redis]))


@fault("wire", 4)
async def cut(world: RecoveryWorld, rng: random.Random) -> None:
    for proxy in some_proxies(world, rng):
        proxy.cut()


async def for_a_while(proxies: list[Proxy], seconds: float) -> None:
    """Leave a wire broken, then heal it. The data on the way sometimes arrives late, sometimes never."""
    await asyncio.sleep(seconds)
    for proxy in proxies:
        proxy.heal()


@fault("wire", 4)
async def refuse(world: RecoveryWorld, rng: random.Random) -> None:
    proxies = some_proxies(world, rng)
    for proxy in proxies:
        proxy.refuse()
    await for_a_while(proxies, rng.uniform(0.5, EVERY_TIMEOUT_S))


@fault("wire", 5)
async def hold(world: RecoveryWorld, rng: random.Random) -> None:
    proxies = some_proxies(world, rng)
    for proxy in proxies:
        proxy.hold()
    await for_a_while(proxies, rng.uniform(0.5, EVERY_TIMEOUT_S))


@fault("wire", 5)
async def hold_answers_and_cut(world: RecoveryWorld, rng: random.Random) -> None:
    """Half-open: requests are carried out, but no answer arrives."""
    proxies = some_proxies(world, rng)
    for proxy in proxies:
        proxy.hold_answers()
    await asyncio.sleep(rng.uniform(0.2, EVERY_TIMEOUT_S))
    for proxy in proxies:
        proxy.cut()
        proxy.heal()


@fault("wire", 3)
async def delay(world: RecoveryWorld, rng: random.Random) -> None:
    proxies = some_proxies(world, rng)
    for proxy in proxies:
        proxy.delay(rng.uniform(0.02, 0.5))
    await for_a_while(proxies, rng.uniform(1, 4))


@fault("wire", 2)
async def slow_down(world: RecoveryWorld, rng: random.Random) -> None:
    proxies = some_proxies(world, rng)
    for proxy in proxies:
        proxy.slow(rng.uniform(5_000, 100_000))
    await for_a_while(proxies, rng.uniform(1, 4))


@fault("wire", 4)
async def let_a_transaction_time_out(world: RecoveryWorld, rng: random.Random) -> None:
    """Lose the end of a transaction: Kafka aborts it after its time-out."""
    proxy = world.servers.wires[some_worker(world, rng)].kafka
    proxy.lose(requests=[END_TXN])
    await for_a_while([proxy], TRANSACTION_S + rng.uniform(0, 4))


@fault("wire", 5)
async def lose_answers_of_kafka(world: RecoveryWorld, rng: random.Random) -> None:
    """Lose answers, above all that of a commit: it has happened, and its owner doesn't know."""
    proxy = world.servers.wires[some_worker(world, rng)].kafka
    proxy.lose(answers=[rng.choice((END_TXN, END_TXN, PRODUCE, ADD_PARTITIONS))])
    await for_a_while([proxy], rng.uniform(0.2, 5))


@fault("wire", 5)
async def let_ends_arrive_late(world: RecoveryWorld, rng: random.Random) -> None:
    """Break connections under the end of a transaction, which arrives in a later one."""
    proxy = world.servers.wires[some_worker(world, rng)].kafka
    proxy.strand_ends(rng, rng.uniform(0.1, 0.6))
    await for_a_while([proxy], rng.uniform(1, 6))


@fault("wire", 4)
async def lose_the_coordinator(world: RecoveryWorld, rng: random.Random) -> None:
    """Lose a worker's heartbeats: it can do everything else."""
    proxy = world.servers.wires[some_worker(world, rng)].kafka
    proxy.lose(requests=GROUP_TALK)
    await for_a_while([proxy], SESSION_S + rng.uniform(1, 5))


@fault("feed", 3)
async def start_another_model(world: RecoveryWorld, rng: random.Random) -> None:
    del rng
    world.note(f"model {world.feeder.models}: {'published' if await world.feeder.activate() else 'Kafka refuses'}")


@fault("feed", 2)
async def be_silent_for_weeks(world: RecoveryWorld, rng: random.Random) -> None:
    await world.silence(rng.randint(5, 60))
