"""Mutants that only a faulty broker shows: the real takeover and turn over a Kafka in memory with faults on demand."""

from __future__ import annotations

import asyncio
import re
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pytest
from aiokafka.errors import InvalidTxnState
from msgspec.structs import replace

from segmentation.step import KafkaRecord, Output, Package, Remnant, Turn, TurnPlan
from stream.engine.flow_control import TurnSlots
from stream.engine.ledger import Ledger, Publication
from stream.engine.ownership import ShardContext
from stream.engine.shard import Shard
from stream.kafka.streams import Streams, streams_of
from stream.metrics import Metrics
from stream.settings import Settings
from stream.status.board import StatusBoard
from stream.storage.heads import HEAD_KEY, decode_kafka_head, decode_store_head, encode_head, first_head
from stream.storage.keys import tombstone
from stream.storage.remains import opened_remains
from tests.recovery.rig.memory_ledger import CLUSTER, MemoryBroker
from tests.recovery.rig.memory_store import Crash, MemoryStore
from tests.recovery.rig.mutants import BY_THE_BROKER, TAKEN_OUT, mutate
from tests.recovery.rig.world import eventually
from tests.recovery.test_mutants import SCENARIOS as REAL
from tests.support.engine.toy_step import LEVEL, STATE, ToyStep
from tests.support.paths import ROOT

SOON_S: Final = 8.0
SALT: Final = b"salt"
QUICK: Final[dict[str, Any]] = {
    "partitions": 1,
    "due_poll_ms": 5,
    "turn_min_gap_ms": 0,
    "commit_timeout_s": 1.0,
    "backoff_max_s": 0.05,
}


class Alone:
    """A consumer group with one member."""

    def identity(self) -> tuple[int, str]:
        return 1, "alone"

    async def confirm(self, partition: int) -> bool:
        return True


class Board:
    """A status board that only notes whether the shard has stopped."""

    def __init__(self) -> None:
        self.stopped = ""

    async def put(self, shard: Any, state: str, owned: Any = None, *, reason: str = "", detail: str = "") -> bool:
        if state == "quarantined":
            self.stopped = f"quarantined ({reason}): {detail}"
        return True

    def note(self, *_: Any) -> None: ...

    def hold(self, *_: Any) -> None: ...

    def warn(self, *_: Any) -> None: ...

    async def release(self, shard: Any) -> None: ...

    async def retry_asked(self, shard: Any) -> bool:
        return False


@dataclass
class MemoryRig:
    """One shard and its worker, in memory."""

    broker: MemoryBroker
    store: MemoryStore
    settings: Settings
    streams: Streams
    sent: list[tuple[bytes, bytes]] = field(default_factory=list)
    board: Board = field(default_factory=Board)
    worker: asyncio.Task[None] | None = None
    step: ToyStep = field(default_factory=ToyStep)

    def send(self, keys: bytes) -> None:
        """Send one record for each letter; a capital erases the key, and "!" can't be used."""
        rows = [
            (key.lower(), b"bad" if key == b"!" else b"erase" if key.isupper() else b"+")
            for key in (bytes([letter]) for letter in keys)
        ]
        self.broker.send(self.streams.input, rows)
        self.sent += rows

    def start(self) -> None:
        """Start a worker, which takes the shard over."""
        context = ShardContext(self.settings, self.streams, 0, self.step, self.store, Alone())
        board = cast("StatusBoard", self.board)
        shard = Shard(context, None, Metrics(), board, TurnSlots(1), lambda: 0)
        self.worker = asyncio.create_task(self._until_it_dies(shard))

    @staticmethod
    async def _until_it_dies(shard: Shard) -> None:
        try:
            await shard.run()
        except Crash:
            return

    async def kill(self) -> None:
        if self.worker:
            self.worker.cancel()
            await asyncio.gather(self.worker, return_exceptions=True)

    @property
    def head(self) -> Any:
        return self.store.kept.head and decode_store_head(self.store.kept.head)

    async def owned(self) -> None:
        await eventually(lambda: bool(self.head), SOON_S, "an owner")

    async def rests(self) -> None:
        """Wait until all records are taken, or the shard has stopped."""
        await eventually(
            lambda: bool(self.board.stopped) or bool(self.head and self.head.offset >= len(self.sent)), SOON_S, "rest"
        )

    async def rebuild(self) -> None:
        """Do as an operator does where the shard has stopped: `segstream rebuild` and `segstream retry`."""
        if not self.board.stopped.startswith("quarantined (redis_lost)"):
            return
        await self.kill()
        await self.store.start_anew(encode_head(first_head(CLUSTER, (1, 1), 0)), {})
        self.board.stopped = ""
        self.start()

    def wrong(self) -> list[str]:
        """Return the violations in the logs and in the store."""
        if self.board.stopped:
            return [self.board.stopped]
        found: list[str] = []
        count: Counter[bytes] = Counter()
        erased: set[bytes] = set()
        for key, value in self.sent:
            (erased.add if value == b"erase" else erased.discard)(key)
            count[key] = 0 if value == b"erase" else count[key] + (value == b"+")
        count = +count
        states = {key: STATE.unpack(value)[0] for key, value in self.store.kept.states.items()}
        if states != count:
            found.append(f"records counted: {states}, sent: {dict(count)}")
        last: Counter[bytes] = Counter()
        for record in self.broker.committed(self.streams.output):
            key, sequence, level = cast("bytes", record.value).split(b":")
            if not int(sequence) == int(level) == last[key] + 1:
                found.append(f"output {record.value!r} after level {last[key]}")
            last[key] = int(level)
        if +last != Counter({key: n // LEVEL for key, n in count.items() if n >= LEVEL}):
            found.append(f"published {dict(last)} of {dict(count)}")
        newest = {r.key: r.value for r in self.broker.committed(self.streams.output)}
        latest = {r.key: r.value for r in self.broker.committed(self.streams.latest or "")}
        if latest != newest:
            found.append(f"the compacted topic has {latest}, the last outputs are {newest}")
        dead = [
            int(dict(r.headers)["__connect.errors.offset"]) for r in self.broker.committed(self.streams.dead_letters)
        ]
        if sorted(dead) != (bad := [at for at, (_, value) in enumerate(self.sent) if value == b"bad"]):
            found.append(f"dead letters of records {dead}, those at {bad} can't be used")
        left = {r.key for r in self.broker.committed(self.streams.tombstones or "")}
        if left != (want := {tombstone(key, SALT) for key in erased}):
            found.append(f"tombstones {left}, expected {want}")
        if self.broker.torn:
            found.append(f"{self.broker.torn} transactions ended by another one's end")
        heads = [r for r in self.broker.committed(self.streams.heads) if r.key == HEAD_KEY]
        if heads and (counted := decode_kafka_head(heads[-1].value or b"").count) != last.total():
            found.append(f"the head counts {counted} outputs, there are {last.total()}")
        return found


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> Any:
    settings = Settings(**QUICK)
    broker = MemoryBroker(1)
    broker.install(monkeypatch.setattr)
    made = MemoryRig(broker, MemoryStore(SALT), settings, streams_of(settings, "scoring"))
    yield made
    await made.kill()


async def a_send_of_outputs_fails(rig: MemoryRig) -> None:
    rig.start()
    await rig.owned()
    rig.broker.faults.refused[rig.streams.output] = 1
    rig.send(b"aaa")


async def the_heads_send_fails(rig: MemoryRig) -> None:
    rig.send(b"b")
    rig.start()
    await rig.owned()
    await rig.rests()
    rig.broker.faults.refused[rig.streams.heads] = 1
    rig.send(b"aaa")
    await rig.rests()
    await rig.kill()
    rig.start()
    rig.send(b"a")


async def a_torn_transaction_ends_at_the_head(rig: MemoryRig) -> None:
    rig.start()
    await rig.owned()
    rig.broker.faults.slow.add(rig.streams.output)
    rig.broker.faults.torn_after = rig.streams.heads
    rig.send(b"aaa")


async def a_torn_transaction_ends_before_the_head(rig: MemoryRig) -> None:
    rig.start()
    await rig.owned()
    rig.broker.faults.torn_after = rig.streams.output
    rig.send(b"aaa")
    await rig.rests()
    rig.send(b"a")


async def a_torn_turn_lacks_all_but_its_moves(rig: MemoryRig) -> None:
    rig.start()
    await rig.owned()
    rig.broker.faults.torn_after = rig.streams.output
    rig.send(b"a!aacC!b")


async def a_torn_transaction_ends_at_a_dead_letter(rig: MemoryRig) -> None:
    rig.start()
    await rig.owned()
    rig.broker.faults.torn_after = rig.streams.dead_letters
    rig.send(b"!a")
    await rig.rests()
    await rig.kill()
    rig.start()
    rig.send(b"!b")


async def an_end_arrives_late(rig: MemoryRig) -> None:
    rig.start()
    await rig.owned()
    rig.broker.faults.late_end_after = rig.streams.output
    rig.send(b"a")
    await rig.rests()
    rig.send(b"aa")


async def the_end_offset_is_too_low(rig: MemoryRig) -> None:
    rig.start()
    await rig.owned()
    rig.store.crashes = True
    rig.send(b"aaa")
    assert rig.worker
    await asyncio.wait_for(rig.worker, SOON_S)
    rig.broker.faults.low_ends[rig.streams.output] = 100
    rig.start()
    await rig.rests()
    rig.send(b"a")


async def a_late_record_is_in_no_transaction(rig: MemoryRig) -> None:
    rig.start()
    await rig.owned()
    rig.broker.faults.rows_in_batch = 1
    rig.broker.faults.lost = rig.streams.output
    rig.send(b"aaabbb")


async def a_part_of_redis_vanishes_between_turns(rig: MemoryRig) -> None:
    rig.send(b"aaaabb")
    rig.start()
    await rig.owned()
    await rig.rests()
    rig.store.lose("states")
    rig.send(b"aaa")
    await rig.rests()
    await rig.rebuild()


async def a_part_of_redis_vanishes_under_a_turn(rig: MemoryRig) -> None:
    rig.send(b"aaaabb")
    rig.start()
    await rig.owned()
    await rig.rests()
    rig.store.vanishes = ("states",)
    rig.send(b"aaa")
    await rig.rests()
    await rig.rebuild()


SCENARIOS: Final[tuple[tuple[Callable[[MemoryRig], Awaitable[None]], tuple[int, ...]], ...]] = (
    (a_send_of_outputs_fails, (1,)),
    (the_heads_send_fails, (2,)),
    (a_torn_transaction_ends_at_the_head, (3,)),
    (a_torn_transaction_ends_before_the_head, (6, 20)),
    (a_torn_turn_lacks_all_but_its_moves, (26,)),
    (a_torn_transaction_ends_at_a_dead_letter, (27,)),
    (an_end_arrives_late, (25,)),
    (the_end_offset_is_too_low, (5,)),
    (a_late_record_is_in_no_transaction, (21,)),
    (a_part_of_redis_vanishes_between_turns, (23,)),
    (a_part_of_redis_vanishes_under_a_turn, (24,)),
)


async def found(rig: MemoryRig, play: Callable[[MemoryRig], Awaitable[None]]) -> list[str]:
    await play(rig)
    return await found_at_rest(rig)


async def found_at_rest(rig: MemoryRig) -> list[str]:
    await rig.rests()
    return rig.wrong()


@pytest.mark.parametrize("play", [play for play, _ in SCENARIOS])
async def test_the_whole_protocol_survives_a_faulty_broker(
    rig: MemoryRig, play: Callable[[MemoryRig], Awaitable[None]]
) -> None:
    assert await found(rig, play) == []
    published = [*rig.broker.committed(rig.streams.output), *rig.broker.committed(rig.streams.dead_letters)]
    assert published, "nothing was published at all"


@pytest.mark.parametrize(("number", "play"), [(n, play) for play, numbers in SCENARIOS for n in numbers])
async def test_a_mutant_is_caught_by_a_faulty_broker(
    rig: MemoryRig,
    number: int,
    play: Callable[[MemoryRig], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if number == BY_THE_BROKER:
        rig.broker.faults.verifies = False
    else:
        mutate(number, monkeypatch.setattr)
    wrong = await found(rig, play)
    print(f"\nmutant {number:2}, without {TAKEN_OUT[number]}: in memory, {play.__name__}: {' '.join(wrong)[:160]}")
    assert wrong, f"mutant {number}, without {TAKEN_OUT[number]}, is as good as the protocol"


@pytest.mark.parametrize("number", sorted({n for _, numbers in SCENARIOS for n in numbers}))
async def test_a_mutant_passes_on_a_broker_without_faults(
    rig: MemoryRig, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would be caught for another reason than the ingredient that it lacks."""
    if number == BY_THE_BROKER:
        rig.broker.faults.verifies = False
    else:
        mutate(number, monkeypatch.setattr)
    for _ in range(2):
        rig.send(b"aaabbb")
        rig.start()
        assert await found_at_rest(rig) == []
        await rig.kill()


async def test_a_tombstone_that_was_torn_off_alone_is_not_restored(rig: MemoryRig) -> None:
    """Else its customer would have the sequence number of a move that isn't there."""
    rig.start()
    rig.send(b"aa")
    await rig.owned()
    await rig.rests()
    rig.broker.faults.slow |= {rig.streams.output, rig.streams.latest or ""}
    rig.broker.faults.torn_after = rig.streams.tombstones
    rig.store.crashes = True  # in the takeover that follows
    rig.send(b"aA")
    assert rig.worker
    await asyncio.wait_for(rig.worker, SOON_S)
    assert len(rig.broker.committed(rig.streams.tombstones or "")) == 1
    assert not rig.broker.committed(rig.streams.output)
    rig.broker.faults.slow.clear()
    await rig.store.start_anew(encode_head(first_head(CLUSTER, (1, 1), 0)), {})
    rig.start()
    await rig.rests()
    assert [r.value for r in rig.broker.committed(rig.streams.output)] == [b"a:1:1"]
    assert rig.store.kept.tombstones[tombstone(b"a", SALT)] == STATE.pack(0, 0, 1)


class PublishesErasuresLater(ToyStep):
    """It keeps an erased customer's level until a move takes it away, as a backfill lets the real step do."""

    def merge(self, plan: TurnPlan, values: Sequence[bytes | None]) -> Turn:
        return self._with_levels(super().merge(plan, values), plan, values)

    def decide(self, plan: TurnPlan, values: Sequence[bytes | None], *others: Any) -> Turn:
        return self._with_levels(super().decide(plan, values, *others), plan, values)

    def is_gone(self, value: bytes) -> bool:
        count, level, _ = STATE.unpack(value)
        return bool(count == level == 0)

    def _with_levels(self, turn: Turn, plan: TurnPlan, values: Sequence[bytes | None]) -> Turn:
        for key, before in zip(plan.keys, values, strict=True):
            count, _, sequence = STATE.unpack(turn.states[key])
            if before and not count:
                turn.states[key] = STATE.pack(0, STATE.unpack(before)[1], sequence)
        return turn


async def test_an_erasure_that_only_a_torn_move_publishes_leaves_its_tombstone(rig: MemoryRig) -> None:
    """No record of that turn names the customer: the tombstone can only come of the move."""
    rig.step = PublishesErasuresLater()
    rig.start()
    rig.send(b"aaa")
    await rig.owned()
    await rig.rests()
    rig.send(b"A")
    await rig.rests()
    await rig.kill()
    assert rig.store.kept.states == {b"a": STATE.pack(0, 1, 1)}
    last = decode_kafka_head([r for r in rig.broker.committed(rig.streams.heads) if r.key == HEAD_KEY][-1].value or b"")
    ledger = await Ledger.open(rig.settings, rig.streams, 0)
    rig.broker.faults.torn_after = rig.streams.output
    move = Output(b"a", b"a:2:0", [], struct.pack("<qq", 0, 2))
    with pytest.raises(InvalidTxnState):
        await ledger.publish(Publication(replace(last, count=2), [move]))
    await ledger.close()
    rig.start()
    await eventually(lambda: rig.head.count == 2, SOON_S, "the covering head")
    name, left = tombstone(b"a", SALT), STATE.pack(0, 0, 2)
    await eventually(lambda: rig.store.kept.tombstones.get(name) == left, SOON_S, "the tombstone in Redis")
    assert {r.key: r.value for r in rig.broker.committed(rig.streams.tombstones or "")} == {name: left}


NOTHING: Final = STATE.pack(0, 0, 0)


class HandsOn(ToyStep):
    """It hands each record on, and leaves a remnant of its customer."""

    def merge(self, plan: TurnPlan, values: Sequence[bytes | None]) -> Turn:
        return self._handed_on(super().merge(plan, values), plan)

    def decide(self, plan: TurnPlan, values: Sequence[bytes | None], *others: Any) -> Turn:
        return self._handed_on(super().decide(plan, values, *others), plan)

    def rank(self, value: bytes) -> int | None:
        return 1

    @staticmethod
    def _handed_on(turn: Turn, plan: TurnPlan) -> Turn:
        records = cast("list[KafkaRecord]", plan.work)
        turn.packages = [Package(at, 1, b"%d" % record.offset) for at, record in enumerate(records)]
        turn.remnants = {key: Remnant(NOTHING, None) for key in plan.keys}
        return turn


async def test_packages_and_remnants_are_in_the_turn_and_in_the_head_that_covers_it(rig: MemoryRig) -> None:
    """A turn is torn before they are sent; those of the turns that Redis hadn't seen aren't sent again."""
    rig.step = HandsOn()
    rig.start()
    rig.send(b"ab")
    await rig.owned()
    await rig.rests()

    def sent() -> list[bytes | None]:
        return [r.value for r in rig.broker.committed(rig.streams.input, 1)]

    assert sent() == [b"0", b"1"]
    tombstones = rig.streams.tombstones or ""
    rig.broker.faults.slow |= {tombstones, rig.streams.latest or ""}
    rig.broker.faults.torn_after = rig.streams.output
    rig.send(b"aac")
    await rig.rests()
    await eventually(lambda: len(sent()) >= 5, SOON_S, "the packages of the torn turn")
    await rig.kill()
    assert set(sent()) == {b"0", b"1", b"2", b"3", b"4"}
    left = {r.key: r.value for r in rig.broker.committed(tombstones)}
    names = {key: tombstone(key, SALT) for key in (b"a", b"b", b"c")}
    assert {opened_remains(left[name] or b"", key, SALT) for key, name in names.items()} == {NOTHING}
    assert not rig.store.kept.tombstones

    before = sent()
    await rig.store.start_anew(encode_head(first_head(CLUSTER, (1, 1), 0)), {})
    rig.start()
    await rig.rests()
    await eventually(lambda: len(rig.store.kept.states) == 3, SOON_S, "the rebuilt states")
    assert sent() == before


def rows_of_the_table() -> dict[int, tuple[str, str, str]]:
    """Return number -> (removed ingredient, on real servers, in memory) of docs/explanation/exactly-once.md."""
    text = (ROOT / "docs" / "explanation" / "exactly-once.md").read_text("utf-8")
    found = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    return {int(number): (out, real, memory) for number, out, real, memory in found}


def test_the_table_of_mutants_is_true() -> None:
    real = {n: f"`{name}`" for name, scenario in REAL.items() for n in scenario.shows}
    memory = {n: f"`{play.__name__}`" for play, numbers in SCENARIOS for n in numbers}
    assert rows_of_the_table() == {n: (out, real.get(n, "-"), memory.get(n, "-")) for n, out in TAKEN_OUT.items()}
    assert all(n in real or n in memory for n in TAKEN_OUT)
