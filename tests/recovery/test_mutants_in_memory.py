"""The ingredients that only a faulty broker shows to be needed: the real takeover and turn over a Kafka in memory that fails on demand."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pytest

from stream.engine.flow_control import TurnSlots
from stream.engine.ownership import ShardContext
from stream.engine.shard import Shard
from stream.engine.status_board import StatusBoard
from stream.kafka.streams import Streams, streams_of
from stream.metrics import Metrics
from stream.settings import Settings
from stream.storage.heads import HEAD_KEY, decode_kafka_head, decode_store_head
from tests.recovery.rig.memory_ledger import Crash, MemoryBroker, MemoryStore
from tests.recovery.rig.mutants import BY_THE_BROKER, TAKEN_OUT, mutate
from tests.recovery.rig.world import eventually
from tests.recovery.test_mutants import SCENARIOS as REAL
from tests.support.engine.toy_step import LEVEL, STATE, ToyStep
from tests.support.paths import ROOT

SOON_S: Final = 8.0
QUICK: Final[dict[str, Any]] = {
    "partitions": 1,
    "due_poll_ms": 5,
    "turn_min_gap_ms": 0,
    "commit_timeout_s": 1.0,
    "backoff_max_s": 0.05,
}


class Alone:
    """A group of one."""

    def identity(self) -> tuple[int, str]:
        return 1, "alone"

    async def confirm(self, partition: int) -> bool:
        return True


class Board:
    """Only remembers whether the shard has stopped."""

    def __init__(self) -> None:
        self.stopped = ""

    async def put(self, shard: Any, state: str, owned: Any = None, *, reason: str = "", detail: str = "") -> bool:
        if state == "quarantined":
            self.stopped = f"quarantined ({reason}): {detail}"
        return True

    def note(self, *_: Any) -> None: ...

    async def release(self, shard: Any) -> None: ...

    async def retry_asked(self, shard: Any) -> bool:
        return False


@dataclass
class MemoryDeployment:
    """One shard, whoever works on it."""

    broker: MemoryBroker
    store: MemoryStore
    settings: Settings
    streams: Streams
    sent: list[tuple[bytes, bytes]] = field(default_factory=list)
    board: Board = field(default_factory=Board)
    worker: asyncio.Task[None] | None = None

    def send(self, keys: bytes) -> None:
        """One record for each letter."""
        rows = [(bytes([key]), b"+") for key in keys]
        self.broker.send(self.streams.input, rows)
        self.sent += rows

    def start(self) -> None:
        """A worker that takes the shard over."""
        context = ShardContext(self.settings, self.streams, 0, ToyStep(), self.store, Alone())
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
        """All taken, or stopped."""
        await eventually(
            lambda: bool(self.board.stopped) or bool(self.head and self.head.offset >= len(self.sent)), SOON_S, "rest"
        )

    def wrong(self) -> list[str]:
        """What a reader of the logs and of Redis finds."""
        if self.board.stopped:
            return [self.board.stopped]
        found: list[str] = []
        count = Counter(key for key, _ in self.sent)
        states = {key: STATE.unpack(value)[0] for key, value in self.store.kept.states.items()}
        if states != count:
            found.append(f"records counted: {states}, sent: {dict(count)}")
        last: Counter[bytes] = Counter()
        for record in self.broker.told(self.streams.output):
            key, sequence, level = cast("bytes", record.value).split(b":")
            if not int(sequence) == int(level) == last[key] + 1:
                found.append(f"output {record.value!r} after level {last[key]}")
            last[key] = int(level)
        if +last != Counter({key: n // LEVEL for key, n in count.items() if n >= LEVEL}):
            found.append(f"told {dict(last)} of {dict(count)}")
        heads = [r for r in self.broker.told(self.streams.heads) if r.key == HEAD_KEY]
        if heads and (told := decode_kafka_head(heads[-1].value or b"").count) != last.total():
            found.append(f"the head counts {told} outputs, there are {last.total()}")
        return found


@pytest.fixture
async def shop(monkeypatch: pytest.MonkeyPatch) -> Any:
    settings = Settings(**QUICK)
    broker = MemoryBroker(1)
    broker.install(monkeypatch.setattr)
    made = MemoryDeployment(broker, MemoryStore(), settings, streams_of(settings, "scoring"))
    yield made
    await made.kill()


async def a_send_of_outputs_fails(shop: MemoryDeployment) -> None:
    shop.start()
    await shop.owned()
    shop.broker.faults.refused[shop.streams.output] = 1
    shop.send(b"aaa")


async def the_heads_send_fails(shop: MemoryDeployment) -> None:
    shop.send(b"b")
    shop.start()
    await shop.owned()
    await shop.rests()
    shop.broker.faults.refused[shop.streams.heads] = 1
    shop.send(b"aaa")
    await shop.rests()
    await shop.kill()
    shop.start()
    shop.send(b"a")


async def a_torn_transaction_ends_at_the_head(shop: MemoryDeployment) -> None:
    shop.start()
    await shop.owned()
    shop.broker.faults.slow.add(shop.streams.output)
    shop.broker.faults.torn_after = shop.streams.heads
    shop.send(b"aaa")


async def a_torn_transaction_ends_before_the_head(shop: MemoryDeployment) -> None:
    shop.start()
    await shop.owned()
    shop.broker.faults.torn_after = shop.streams.output
    shop.send(b"aaa")
    await shop.rests()
    shop.send(b"a")


async def the_end_offset_is_too_low(shop: MemoryDeployment) -> None:
    shop.start()
    await shop.owned()
    shop.store.crashes = True
    shop.send(b"aaa")
    assert shop.worker
    await asyncio.wait_for(shop.worker, SOON_S)
    shop.broker.faults.low_ends[shop.streams.output] = 100
    shop.start()
    await shop.rests()
    shop.send(b"a")


async def a_late_record_is_in_no_transaction(shop: MemoryDeployment) -> None:
    shop.start()
    await shop.owned()
    shop.broker.faults.rows_in_batch = 1
    shop.broker.faults.lost = shop.streams.output
    shop.send(b"aaabbb")


SCENARIOS: Final[tuple[tuple[Callable[[MemoryDeployment], Awaitable[None]], tuple[int, ...]], ...]] = (
    (a_send_of_outputs_fails, (1,)),
    (the_heads_send_fails, (2,)),
    (a_torn_transaction_ends_at_the_head, (3,)),
    (a_torn_transaction_ends_before_the_head, (6, 20)),
    (the_end_offset_is_too_low, (5,)),
    (a_late_record_is_in_no_transaction, (21,)),
)


async def found(shop: MemoryDeployment, play: Callable[[MemoryDeployment], Awaitable[None]]) -> list[str]:
    await play(shop)
    return await found_at_rest(shop)


async def found_at_rest(shop: MemoryDeployment) -> list[str]:
    await shop.rests()
    return shop.wrong()


@pytest.mark.parametrize("play", [play for play, _ in SCENARIOS])
async def test_the_whole_protocol_stands_a_faulty_broker(
    shop: MemoryDeployment, play: Callable[[MemoryDeployment], Awaitable[None]]
) -> None:
    assert await found(shop, play) == []
    assert shop.broker.told(shop.streams.output), "nothing was told at all"


@pytest.mark.parametrize(("number", "play"), [(n, play) for play, numbers in SCENARIOS for n in numbers])
async def test_a_mutant_is_caught_by_a_faulty_broker(
    shop: MemoryDeployment,
    number: int,
    play: Callable[[MemoryDeployment], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if number == BY_THE_BROKER:
        shop.broker.faults.verifies = False
    else:
        mutate(number, monkeypatch.setattr)
    wrong = await found(shop, play)
    print(f"\nmutant {number:2}, without {TAKEN_OUT[number]}: in memory, {play.__name__}: {' '.join(wrong)[:160]}")
    assert wrong, f"mutant {number}, without {TAKEN_OUT[number]}, is as good as the protocol"


@pytest.mark.parametrize("number", sorted({n for _, numbers in SCENARIOS for n in numbers}))
async def test_a_mutant_does_well_on_a_broker_that_is_well(
    shop: MemoryDeployment, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be caught for another reason than the ingredient that it lacks."""
    if number == BY_THE_BROKER:
        shop.broker.faults.verifies = False
    else:
        mutate(number, monkeypatch.setattr)
    for _ in range(2):
        shop.send(b"aaabbb")
        shop.start()
        assert await found_at_rest(shop) == []
        await shop.kill()


def rows_of_the_table() -> dict[int, tuple[str, str, str]]:
    """Number -> (taken out, on real servers, in memory), as docs/explanation/exactly-once.md says."""
    text = (ROOT / "docs" / "explanation" / "exactly-once.md").read_text("utf-8")
    found = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    return {int(number): (out, real, memory) for number, out, real, memory in found}


def test_the_table_of_mutants_is_true() -> None:
    real = {n: f"`{name}`" for name, scenario in REAL.items() for n in scenario.shows}
    memory = {n: f"`{play.__name__}`" for play, numbers in SCENARIOS for n in numbers}
    assert rows_of_the_table() == {n: (out, real.get(n, "-"), memory.get(n, "-")) for n, out in TAKEN_OUT.items()}
    assert all(n in real or n in memory for n in TAKEN_OUT)
