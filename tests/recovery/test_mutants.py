"""The mutants on real servers: in a short scenario, workers without an ingredient of the protocol must break something.

Each scenario is run with the whole protocol first, which must survive it. `make recovery-mutants` prints the results.
"""

from __future__ import annotations

import asyncio
import random
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
# How long to wait for a rest: the whole protocol needs a few seconds.
REST_S: Final = 25.0
STILL_S: Final = 1.5  # the due index is polled much more often
TOO_SMALL_BYTES: Final = "100"  # less than any batch of moves or heads
IN_ANY_RUN: Final = 13  # the log itself starts an old model again
TORN: Final = "covering a torn transaction"  # logged by a successor
WAKING: Final = r"taking over afresh|quarantined \("  # logged by a worker that notices its successor


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
            # The first model's start comes again after the second's, as from a trainer that sent it twice.
            await first.feeder.send(started)
            await first.feed(600, size=100)
            await first.silence(400)
            return RecordedInput(settings, first.feeder.acknowledged, await first.undisturbed(first=True))

    return asyncio.run(made())


async def there(settings: Settings, text: bytes) -> list[FeedRecord]:
    """Return the records of the input with this text, to be sent again."""
    rows = await checker.rows_of(settings, settings.orders_topic)
    return [FeedRecord(r.key or b"", r.value or b"", r.partition) for r in rows if text in (r.value or b"")]


async def lag(rig: RecoveryWorld, first: int, then: int) -> None:
    """Roll Redis back from turn `first` + `then` to turn `first`, as a restore does; no worker runs."""
    kept = await kept_at(rig, first)
    await die(rig, "turn.after_commit", passing=then)
    put_back(rig, kept)


async def kept_at(rig: RecoveryWorld, turn: int) -> dict[bytes, bytes]:
    """Let a worker die at its turn of that number. Return Redis as of then."""
    await die(rig, "turn.before_transaction", passing=turn)
    return as_it_is(rig)


async def stopped(rig: RecoveryWorld, index: int) -> None:
    """Wait until the worker has stopped itself at its point."""

    def still() -> bool:
        state = Path(f"/proc/{rig.fleet.pid(index)}/stat").read_text().rpartition(")")[2].split()[0]
        assert state not in "ZX", rig.fleet.last_line(index)
        return state == "T"

    await eventually(still, SOON_S, f"worker {index} stopped")


async def wake(rig: RecoveryWorld, index: int) -> None:
    """Let the worker go on, and wait until it notices its successor."""
    log = rig.fleet.log(index)
    before = len(re.findall(WAKING, log.read_text()))
    rig.fleet.resume(index)
    await eventually(lambda: len(re.findall(WAKING, log.read_text())) > before, SOON_S, "an owner that is overtaken")


def offset(rig: RecoveryWorld) -> int:
    """Return R, the offset of the Redis head."""
    [shard] = checker.read_shards(rig.settings)
    return int(shard.head.get("offset", 0))


@asynccontextmanager
async def refusing(rig: RecoveryWorld, topic: str) -> AsyncIterator[None]:
    """Let Kafka refuse the records of a topic as too large."""
    [spec] = [spec for spec in topics.specs(rig.settings) if spec.name == topic]

    async def configure(settings: dict[str, str]) -> None:
        async with topics.connected_admin(rig.settings) as admin:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])

    await configure(spec.config | {"max.message.bytes": TOO_SMALL_BYTES})
    try:
        yield
    finally:
        await configure(spec.config)


async def goes_on(rig: RecoveryWorld, index: int, *, beyond: int | None = None) -> None:
    """Let the worker go on until it has noticed a failure, or has come `beyond` that offset."""
    log, before = rig.fleet.log(index), offset(rig) if beyond is None else beyond
    rig.fleet.resume(index)
    await eventually(
        lambda: bool(re.search(WAKING, log.read_text())) or offset(rig) > before, SOON_S, "a turn, or its failure"
    )


Play = Callable[[RecoveryWorld], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario. `shows`: the mutants that break something in it. `settings`: those that differ from the log's."""

    play: Play
    shows: tuple[int, ...]
    torn: bool = False  # a transaction is torn in it, which none may be in any other
    wall: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


SCENARIOS: Final[dict[str, Scenario]] = {}


def shows(*numbers: int, torn: bool = False, wall: bool = False, **settings: Any) -> Callable[[Play], Play]:
    def entered(play: Play) -> Play:
        SCENARIOS[play.__name__] = Scenario(play, numbers, torn, wall, settings)
        return play

    return entered


@shows(1)
async def kafka_refuses_moves_for_a_while(rig: RecoveryWorld) -> None:
    rig.fleet.start(0, stop="turn.before_transaction:3")
    await stopped(rig, 0)
    async with refusing(rig, rig.settings.changes_topic):
        # The protocol completes no turn with moves. The mutant has lost some moves by then.
        await goes_on(rig, 0, beyond=300)
    rig.fleet.kill(0)
    rig.fleet.start(0)


@shows(2)
async def kafka_refuses_heads_for_a_while(rig: RecoveryWorld) -> None:
    rig.fleet.start(0, stop="turn.before_transaction:12")
    await stopped(rig, 0)
    async with refusing(rig, rig.settings.heads_topic("scoring")):
        await goes_on(rig, 0)
        rig.fleet.kill(0)
    rig.fleet.start(0)


async def roll_back_at(rig: RecoveryWorld, point: str) -> None:
    """Roll Redis back some turns while the owner is stopped at that point."""
    kept = await kept_at(rig, 15)
    rig.fleet.start(0, stop=f"{point}:10")
    await stopped(rig, 0)
    put_back(rig, kept)
    rig.fleet.resume(0)


@shows(4)
async def redis_is_rolled_back_before_a_commit(rig: RecoveryWorld) -> None:
    await roll_back_at(rig, "turn.before_redis")


@shows(14)
async def redis_is_rolled_back_between_turns(rig: RecoveryWorld) -> None:
    await roll_back_at(rig, "turn.after_redis")


@shows(18)
async def redis_is_rolled_back_while_all_rest(rig: RecoveryWorld) -> None:
    kept = await kept_at(rig, 20)
    rig.fleet.start(0)
    await rig.settled(within_s=SOON_S)
    put_back(rig, kept)


@shows(6, 20, torn=True, turn_max_orders=400, rescore_slice=2_000, due_slice=2_000)
async def a_transaction_is_torn(rig: RecoveryWorld) -> None:
    await die(rig, "turn.torn", passing=2)
    # Smaller turns than the torn one: with some of their orders missing, customers get lower segments.
    rig.fleet.start(0, page=100)


@shows(26, torn=True)
async def a_turn_is_torn_behind_its_moves(rig: RecoveryWorld) -> None:
    await die(rig, "turn.torn_early", passing=2)
    rig.fleet.start(0)


@shows(25)
async def an_end_arrives_late(rig: RecoveryWorld) -> None:
    wire = rig.servers.wires[0].kafka
    # From the first moves on: turns without any have little that could be torn.
    rig.fleet.start(0, stop="turn.between_sends:1")
    await stopped(rig, 0)
    wire.late_answers.clear()
    wire.strand_ends(random.Random(1), 0.5)
    rig.fleet.resume(0)
    await eventually(lambda: len(wire.late_answers) >= 4, SOON_S, "an end that is late")
    wire.heal()


@shows(7, 8, 9)
async def redis_falls_behind(rig: RecoveryWorld) -> None:
    await lag(rig, 28, 10)
    rig.fleet.start(0)


@shows(12)
async def redis_falls_behind_a_model(rig: RecoveryWorld) -> None:
    # Redis goes back to before the first model; Kafka's head is between the first and the second.
    await lag(rig, 3, 12)
    rig.fleet.start(0)


@shows(13)
async def an_old_model_starts_again(rig: RecoveryWorld) -> None:
    rig.fleet.start(0)


@shows(15)
async def an_owner_wakes_up_before_its_transaction(rig: RecoveryWorld) -> None:
    rig.fleet.start(0, stop="turn.before_transaction:12")
    await stopped(rig, 0)
    rig.fleet.start(1)
    await rig.settled(within_s=SOON_S)
    await wake(rig, 0)


@shows(16)
async def an_owner_publishes_and_dies_under_a_takeover(rig: RecoveryWorld) -> None:
    # A turn before the first model: moves would show that there are outputs beyond the head.
    owner = rig.fleet.start(0, stop="turn.before_transaction:3", point="turn.after_commit", passing=3)
    await stopped(rig, 0)
    # Its turns are smaller, so that its first one ends at another offset than its predecessor's.
    rig.fleet.start(1, stop="takeover.before_barrier:1", page=7)
    await stopped(rig, 1)
    # It must not join its group again: that would take the shard from the successor.
    wire, log = rig.servers.wires[0].kafka, rig.fleet.log(0)
    wire.lose(requests=GROUP_TALK)
    rig.fleet.resume(0)
    await eventually(
        lambda: owner.poll() is not None or bool(re.search(WAKING, log.read_text())), SOON_S, "an end, or a failure"
    )
    rig.fleet.kill(0)
    wire.heal()
    rig.fleet.resume(1)


@shows(17)
async def a_worker_dies_after_redis(rig: RecoveryWorld) -> None:
    await die(rig, "turn.after_redis", passing=12)
    rig.fleet.start(0)


@shows(22)
async def a_successor_is_quicker(rig: RecoveryWorld) -> None:
    await die(rig, "turn.before_transaction", passing=10)
    rig.fleet.start(0, stop="takeover.after_barrier:1")
    await stopped(rig, 0)
    rig.fleet.start(1)
    await rig.settled(within_s=SOON_S)
    await wake(rig, 0)


# In wall time, where clocks can be wrong. The orders and the workers' clocks are of the year 2000.


async def begin_in_2000(rig: RecoveryWorld) -> int:
    """Send orders and a model. Return the error of a clock that shows the last order's time."""
    await rig.feed(300, size=100)
    assert await rig.feeder.activate()
    wrong_ms = rig.orders.at_ms + DAY_MS - time.time_ns() // 1_000_000
    rig.fleet.set_clock(0, wrong_ms)
    return wrong_ms


@shows(10, wall=True)
async def a_clock_is_ahead_of_its_successors(rig: RecoveryWorld) -> None:
    right = await begin_in_2000(rig)
    kept = await kept_at(rig, 3)
    rig.fleet.set_clock(0, right + 2 * DAY_MS)
    await die(rig, "turn.after_commit", passing=5)
    put_back(rig, kept)
    rig.fleet.set_clock(0, right)
    rig.fleet.start(0)
    await rig.feed(60)


@shows(11, wall=True)
async def a_clock_steps_back(rig: RecoveryWorld) -> None:
    right = await begin_in_2000(rig)
    rig.fleet.set_clock(0, right + 2 * DAY_MS)
    rig.fleet.start(0)
    await rig.settled(within_s=SOON_S)
    rig.fleet.set_clock(0, right)
    await rig.feed(60)


@shows(19, wall=True)
async def redis_is_rolled_back_to_an_owner_that_has_lost_kafka(rig: RecoveryWorld) -> None:
    """The successor, with a clock ahead, publishes moves by time and dies. The old owner has none to publish."""
    right = await begin_in_2000(rig)
    rig.fleet.start(0)
    await rig.settled(within_s=SOON_S)
    rig.fleet.pause(0)
    kept = as_it_is(rig)
    rig.fleet.set_clock(1, right + 200 * DAY_MS)
    successor = rig.fleet.start(1, point="turn.after_commit", passing=1)
    assert await asyncio.to_thread(successor.wait, SOON_S) == -signal.SIGKILL
    rig.fleet.kill(1)
    put_back(rig, kept)
    # A repeated order: it is taken, and moves no customer.
    await rig.feeder.send((await there(rig.settings, b"order"))[-1:])
    rig.fleet.resume(0)


async def verdict(rig: RecoveryWorld, calm: checker.GroupRun | None) -> list[str]:
    """Return the violations: a stopped shard, a shard that doesn't come to rest, or those of the checker."""
    deadline = time.monotonic() + REST_S
    ends = await rig.ends(rig.settings)
    before: list[dict[str, Any]] = []
    while not (stopped := rig.quarantined()):
        heads = [shard.head for shard in await asyncio.to_thread(checker.read_shards, rig.settings)]
        # In wall time some may still be due: wait until nothing has changed for a while.
        resting = heads == before or calm is not None
        if resting and all(h and h["offset"] >= ends[p] and h["cursor"] is None for p, h in enumerate(heads)):
            break
        before = heads
        if time.monotonic() > deadline:
            return [
                f"doesn't come to rest: Redis stands at {[h.get('offset') for h in heads]}, the input ends at {ends}"
            ]
        rig.fleet.restart_ended()
        await asyncio.sleep(0.1 if calm else STILL_S)
    if stopped:
        return stopped
    run = await checker.read_run(rig.settings)
    return rig._wrong_alone(run) + (checker.differences(run, calm, rig.settings.rules) if calm else [])


async def played(
    servers: RigServers, log: RecordedInput, folder: Path, seed: int, name: str, mutant: int | None
) -> list[str]:
    scenario = SCENARIOS[name]
    settings = (
        settings_on(servers, partitions=1, session_timeout_ms=2_000, time="wall")
        if scenario.wall
        else twin_of(log.settings, **scenario.settings)
    )
    async with world(servers, folder, seed, settings, customers=150, garbage=False) as rig:
        rig.fleet.mutant = mutant
        if not scenario.wall:
            rig.feeder.acknowledged = log.acknowledged
        await scenario.play(rig)
        found = await verdict(rig, None if scenario.wall else log.calm)
        return found + ([] if scenario.torn else rig.fleet.grep(TORN))


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_whole_protocol_survives_each_scenario(
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
async def test_a_mutant_passes_without_faults(
    servers: RigServers, log: RecordedInput, tmp_path: Path, seed: int, number: int
) -> None:
    """Otherwise it would be caught for another reason than the ingredient that it lacks."""
    async with world(servers, tmp_path, seed, twin_of(log.settings), customers=150, garbage=False) as rig:
        rig.fleet.mutant, rig.feeder.acknowledged = number, log.acknowledged
        rig.fleet.start(0)
        assert await verdict(rig, log.calm) == []
