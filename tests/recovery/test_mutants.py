"""Each ingredient of the protocol, taken out of real workers on real servers: a short scenario shows what goes wrong without it.

Each scenario is run with the whole protocol first, which must stand it. `make recovery-mutants` prints what catches which.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from stream.kafka import topics
from stream.settings import Settings
from tests.recovery.rig import checker
from tests.recovery.rig.feed import DAY_MS, FeedRecord
from tests.recovery.rig.mutants import TAKEN_OUT
from tests.recovery.rig.proxy import GROUP_TALK
from tests.recovery.rig.servers import RigServers
from tests.recovery.rig.world import RecoveryWorld, eventually, settings_on, twin_of, world
from tests.recovery.test_points import RecordedInput, as_it_is, die, put_back

pytestmark = [pytest.mark.mutants, pytest.mark.timeout(300)]

SOON_S: Final = 60.0
# So long a world that doesn't come to rest is waited for: the whole protocol needs a few seconds.
REST_S: Final = 25.0
STILL_S: Final = 1.5  # looks at what is due come oftener by far
TOO_SMALL_BYTES: Final = "100"  # no batch of moves or heads fits in
IN_ANY_RUN: Final = 13  # the log itself starts an old model again
WAKING: Final = r"taking over afresh|quarantined \("  # what a worker says that finds itself overtaken


@pytest.fixture(scope="module")
def log(servers: RigServers, tmp_path_factory: pytest.TempPathFactory, seed: int) -> RecordedInput:
    async def made() -> RecordedInput:
        settings, folder = settings_on(servers, partitions=1, session_timeout_ms=2_000), tmp_path_factory.mktemp("log")
        async with world(servers, folder, seed, settings, customers=150, garbage=False) as first:
            await first.feed(200, size=100)
            assert await first.feeder.activate()
            await first.feed(400, size=100)
            started = await there(settings, b'"model.activated"')
            assert await first.feeder.activate()
            # The first model's start comes again, behind the second's: from a trainer that has sent it twice.
            await first.feeder.send(started)
            await first.feed(600, size=100)
            await first.silence(400)
            return RecordedInput(settings, first.feeder.acknowledged, await first.undisturbed())

    return asyncio.run(made())


async def there(settings: Settings, text: bytes) -> list[FeedRecord]:
    """The records of the input that say so, to be sent again."""
    rows = await checker._rows(settings, settings.orders_topic)
    return [FeedRecord(r.key or b"", r.value or b"", r.partition) for r in rows if text in (r.value or b"")]


# ---- what the scenarios are made of


async def lag(shop: RecoveryWorld, first: int, then: int) -> None:
    """Redis is put back from turn `first` + `then` to turn `first`, as after a restore; nobody is at work."""
    kept = await kept_at(shop, first)
    await die(shop, "turn.after_commit", passing=then)
    put_back(shop, kept)


async def kept_at(shop: RecoveryWorld, turn: int) -> dict[bytes, bytes]:
    """A worker comes to its turn of that number, and is gone: Redis as it is then."""
    await die(shop, "turn.before_transaction", passing=turn)
    return as_it_is(shop)


async def stopped(shop: RecoveryWorld, place: int) -> None:
    """The worker has come to its point, and stands still."""

    def still() -> bool:
        state = Path(f"/proc/{shop.fleet.pid(place)}/stat").read_text().rpartition(")")[2].split()[0]
        assert state not in "ZX", shop.fleet.last_words(place)
        return state == "T"

    await eventually(still, SOON_S, f"the worker on place {place} stands still")


async def wake(shop: RecoveryWorld, place: int) -> None:
    """The worker goes on, and finds out that it was overtaken."""
    log = shop.fleet.log(place)
    before = len(re.findall(WAKING, log.read_text()))
    shop.fleet.resume(place)
    await eventually(lambda: len(re.findall(WAKING, log.read_text())) > before, SOON_S, "an owner that is overtaken")


def offset(shop: RecoveryWorld) -> int:
    """R."""
    [shard] = checker.read_shards(shop.settings)
    return int(shard.head.get("offset", 0))


@asynccontextmanager
async def refusing(shop: RecoveryWorld, topic: str) -> AsyncIterator[None]:
    """Kafka takes no record of that topic: each is too large."""
    [spec] = [spec for spec in topics.specs(shop.settings) if spec.name == topic]

    async def configure(settings: dict[str, str]) -> None:
        async with topics._admin(shop.settings) as admin:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])

    await configure(spec.config | {"max.message.bytes": TOO_SMALL_BYTES})
    try:
        yield
    finally:
        await configure(spec.config)


async def goes_on(shop: RecoveryWorld, place: int, *, beyond: int | None = None) -> None:
    """The worker goes on, until it has noticed that something is wrong, or has come further (`beyond` that offset)."""
    log, before = shop.fleet.log(place), offset(shop) if beyond is None else beyond
    shop.fleet.resume(place)
    await eventually(
        lambda: bool(re.search(WAKING, log.read_text())) or offset(shop) > before, SOON_S, "a turn, or its failure"
    )


# ---- the scenarios

Play = Callable[[RecoveryWorld], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`shows`: the mutants that break something in it. `settings`: where they differ from the log's."""

    play: Play
    shows: tuple[int, ...]
    wall: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


SCENARIOS: Final[dict[str, Scenario]] = {}


def shows(*numbers: int, wall: bool = False, **settings: Any) -> Callable[[Play], Play]:
    def entered(play: Play) -> Play:
        SCENARIOS[play.__name__] = Scenario(play, numbers, wall, settings)
        return play

    return entered


@shows(1)
async def kafka_refuses_moves_for_a_while(shop: RecoveryWorld) -> None:
    shop.fleet.start(0, stop="turn.before_transaction:3")
    await stopped(shop, 0)
    async with refusing(shop, shop.settings.changes_topic):
        # The protocol comes to no turn with moves; without it, some have been lost by then.
        await goes_on(shop, 0, beyond=300)
    shop.fleet.kill(0)
    shop.fleet.start(0)


@shows(2)
async def kafka_refuses_heads_for_a_while(shop: RecoveryWorld) -> None:
    shop.fleet.start(0, stop="turn.before_transaction:12")
    await stopped(shop, 0)
    async with refusing(shop, shop.settings.heads_topic("scoring")):
        await goes_on(shop, 0)
        shop.fleet.kill(0)
    shop.fleet.start(0)


async def roll_back_at(shop: RecoveryWorld, point: str) -> None:
    """Redis is put back some turns while the owner stands still at that point."""
    kept = await kept_at(shop, 15)
    shop.fleet.start(0, stop=f"{point}:10")
    await stopped(shop, 0)
    put_back(shop, kept)
    shop.fleet.resume(0)


@shows(4)
async def redis_is_rolled_back_before_a_commit(shop: RecoveryWorld) -> None:
    await roll_back_at(shop, "turn.before_redis")


@shows(14)
async def redis_is_rolled_back_between_turns(shop: RecoveryWorld) -> None:
    await roll_back_at(shop, "turn.after_redis")


@shows(18)
async def redis_is_rolled_back_while_all_rest(shop: RecoveryWorld) -> None:
    kept = await kept_at(shop, 20)
    shop.fleet.start(0)
    await shop.settled(within_s=SOON_S)
    put_back(shop, kept)


@shows(6, 20, turn_max_orders=400, rescore_slice=2_000, due_slice=2_000)
async def a_transaction_is_torn(shop: RecoveryWorld) -> None:
    await die(shop, "turn.torn", passing=2)
    # Smaller turns than the torn one: with only some of its orders, its customers look worse.
    shop.fleet.start(0, page=100)


@shows(7, 8, 9)
async def redis_falls_behind(shop: RecoveryWorld) -> None:
    await lag(shop, 28, 10)
    shop.fleet.start(0)


@shows(12)
async def redis_falls_behind_a_model(shop: RecoveryWorld) -> None:
    # The head it comes back to lies before the first model, Kafka's between the first and the second.
    await lag(shop, 3, 12)
    shop.fleet.start(0)


@shows(13)
async def an_old_model_starts_again(shop: RecoveryWorld) -> None:
    shop.fleet.start(0)


@shows(15)
async def an_owner_wakes_up_before_its_transaction(shop: RecoveryWorld) -> None:
    shop.fleet.start(0, stop="turn.before_transaction:12")
    await stopped(shop, 0)
    shop.fleet.start(1)
    await shop.settled(within_s=SOON_S)
    await wake(shop, 0)


@shows(16)
async def an_owner_publishes_and_dies_under_a_takeover(shop: RecoveryWorld) -> None:
    # A turn before the first model: moves would show that something has been told beyond the head.
    owner = shop.fleet.start(0, stop="turn.before_transaction:3", point="turn.after_commit", passing=3)
    await stopped(shop, 0)
    # Its turns are smaller: it doesn't end its first one where its predecessor has.
    shop.fleet.start(1, stop="takeover.before_barrier:1", page=7)
    await stopped(shop, 1)
    # It doesn't come back into its group, which would take the shard from the successor.
    wire, log = shop.servers.wires[0].kafka, shop.fleet.log(0)
    wire.lose(requests=GROUP_TALK)
    shop.fleet.resume(0)
    await eventually(
        lambda: owner.poll() is not None or bool(re.search(WAKING, log.read_text())), SOON_S, "an end, or a failure"
    )
    shop.fleet.kill(0)
    wire.heal()
    shop.fleet.resume(1)


@shows(17)
async def a_worker_dies_after_redis(shop: RecoveryWorld) -> None:
    await die(shop, "turn.after_redis", passing=12)
    shop.fleet.start(0)


@shows(22)
async def a_successor_is_quicker(shop: RecoveryWorld) -> None:
    await die(shop, "turn.before_transaction", passing=10)
    shop.fleet.start(0, stop="takeover.after_barrier:1")
    await stopped(shop, 0)
    shop.fleet.start(1)
    await shop.settled(within_s=SOON_S)
    await wake(shop, 0)


# In wall time, where clocks can be wrong. The orders are of the year 2000, and so are the workers.


async def begin_in_2000(shop: RecoveryWorld) -> int:
    """Orders and a model; returns by how much a clock is wrong that tells the last order's time."""
    await shop.feed(300, size=100)
    assert await shop.feeder.activate()
    wrong_ms = shop.orders.at_ms + DAY_MS - time.time_ns() // 1_000_000
    shop.fleet.set_clock(0, wrong_ms)
    return wrong_ms


@shows(10, wall=True)
async def a_clock_is_ahead_of_its_successors(shop: RecoveryWorld) -> None:
    right = await begin_in_2000(shop)
    kept = await kept_at(shop, 3)
    shop.fleet.set_clock(0, right + 2 * DAY_MS)
    await die(shop, "turn.after_commit", passing=5)
    put_back(shop, kept)
    shop.fleet.set_clock(0, right)
    shop.fleet.start(0)
    await shop.feed(60)


@shows(11, wall=True)
async def a_clock_steps_back(shop: RecoveryWorld) -> None:
    right = await begin_in_2000(shop)
    shop.fleet.set_clock(0, right + 2 * DAY_MS)
    shop.fleet.start(0)
    await shop.settled(within_s=SOON_S)
    shop.fleet.set_clock(0, right)
    await shop.feed(60)


@shows(19, wall=True)
async def redis_is_rolled_back_to_an_owner_that_has_lost_kafka(shop: RecoveryWorld) -> None:
    """The successor, whose clock is ahead, tells what time has moved, and dies; the old owner has nothing to tell."""
    right = await begin_in_2000(shop)
    shop.fleet.start(0)
    await shop.settled(within_s=SOON_S)
    shop.fleet.pause(0)
    kept = as_it_is(shop)
    shop.fleet.set_clock(1, right + 200 * DAY_MS)
    successor = shop.fleet.start(1, point="turn.after_commit", passing=1)
    assert await asyncio.to_thread(successor.wait, SOON_S) == -signal.SIGKILL
    shop.fleet.kill(1)
    put_back(shop, kept)
    # An order that is known already: it is taken, and moves nobody.
    await shop.feeder.send((await there(shop.settings, b"order"))[-1:])
    shop.fleet.resume(0)


# ---- the verdict


async def verdict(shop: RecoveryWorld, calm: checker.GroupRun | None) -> list[str]:
    """What is wrong in the end: a shard that stopped, or doesn't come to rest, or what the checker finds."""
    deadline = time.monotonic() + REST_S
    ends = await shop.ends(shop.settings)
    before: list[dict[str, Any]] = []
    while not (stopped := shop.quarantined()):
        heads = [shard.head for shard in await asyncio.to_thread(checker.read_shards, shop.settings)]
        # In wall time some may be due yet: nothing more has come for a while.
        resting = heads == before or calm is not None
        if resting and all(h and h["offset"] >= ends[p] and h["cursor"] is None for p, h in enumerate(heads)):
            break
        before = heads
        if time.monotonic() > deadline:
            return [
                f"doesn't come to rest: Redis stands at {[h.get('offset') for h in heads]}, the input ends at {ends}"
            ]
        shop.fleet.tend()
        await asyncio.sleep(0.1 if calm else STILL_S)
    if stopped:
        return stopped
    run = await checker.read_run(shop.settings)
    return shop._wrong_alone(run) + (checker.differences(run, calm, shop.settings.rules) if calm else [])


async def played(
    servers: RigServers, log: RecordedInput, folder: Path, seed: int, name: str, mutant: int | None
) -> list[str]:
    scenario = SCENARIOS[name]
    settings = (
        settings_on(servers, partitions=1, session_timeout_ms=2_000, time="wall")
        if scenario.wall
        else twin_of(log.settings, **scenario.settings)
    )
    async with world(servers, folder, seed, settings, customers=150, garbage=False) as shop:
        shop.fleet.mutant = mutant
        if not scenario.wall:
            shop.feeder.acknowledged = log.acknowledged
        await scenario.play(shop)
        return await verdict(shop, None if scenario.wall else log.calm)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_whole_protocol_stands_it(
    servers: RigServers, log: RecordedInput, tmp_path: Path, seed: int, name: str
) -> None:
    assert await played(servers, log, tmp_path, seed, name, None) == []


@pytest.mark.parametrize(
    ("number", "name"), sorted((number, name) for name, scenario in SCENARIOS.items() for number in scenario.shows)
)
async def test_a_mutant_is_caught(
    servers: RigServers, log: RecordedInput, tmp_path: Path, seed: int, number: int, name: str
) -> None:
    found = await played(servers, log, tmp_path, seed, name, number)
    print(f"\nmutant {number:2}, without {TAKEN_OUT[number]}: {name}: {len(found)} violations; {' '.join(found)[:160]}")
    assert found, f"mutant {number}, without {TAKEN_OUT[number]}, is as good as the protocol in {name}"


@pytest.mark.parametrize("number", sorted({n for s in SCENARIOS.values() for n in s.shows} - {IN_ANY_RUN}))
async def test_a_mutant_does_well_where_nothing_happens(
    servers: RigServers, log: RecordedInput, tmp_path: Path, seed: int, number: int
) -> None:
    """Else it would be caught for another reason than the ingredient that it lacks."""
    async with world(servers, tmp_path, seed, twin_of(log.settings), customers=150, garbage=False) as shop:
        shop.fleet.mutant, shop.feeder.acknowledged = number, log.acknowledged
        shop.fleet.start(0)
        assert await verdict(shop, log.calm) == []
