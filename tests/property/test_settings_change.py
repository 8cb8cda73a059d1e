"""A change of settings in memory: the real takeover, turns and change, over many histories, with a crash at any commit.

Afterwards the states are those of a fresh replay under the new settings, and the chains of moves go on. Settings that
only judge records leave the states alone, and a rebuild comes to the same bytes.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentation.agreed import WAYS, Agreed, Way, differences, way_from
from segmentation.decisions import CompiledModel
from segmentation.decoder import Reader
from segmentation.entries import DAY_MS, NONE
from segmentation.event_text import instant
from segmentation.events import CONTROL_KEY, Amount, OrderCancelled, OrderPlaced, OrderRefunded, encode
from segmentation.rfm import EMPTY, advance_bytes, with_announcement
from segmentation.scoring import ScoringStep
from segmentation.step import Activation, Scope, TurnContext
from stream.engine import agreement
from stream.engine.flow_control import TurnSlots
from stream.engine.ledger import Publication
from stream.engine.ownership import ShardContext
from stream.engine.store import Writes
from stream.engine.takeover import follow, take_over
from stream.engine.turns import Turns
from stream.errors import ShardQuarantined
from stream.kafka.streams import streams_of
from stream.metrics import Metrics
from stream.repair.reconfigure import changed
from stream.settings import Settings
from stream.storage.heads import decode_store_head, encode_head, first_head
from tests.recovery.rig.memory_ledger import CLUSTER, MemoryBroker
from tests.recovery.rig.memory_store import Crash, MemoryStore, StoredShard
from tests.recovery.rig.replacing import Replace
from tests.support.engine.memory_shard import a_model

OLD: Final = msgspec.structs.replace(
    Settings(time="event").agreed, window_days=30, grace_days=2, cap_entries=6, future_tolerance_s=10**10
)
CHANGES: Final[dict[str, dict[str, Any]]] = {
    "window": {"window_days": 12},
    "longer window": {"window_days": 90},
    "grace": {"grace_days": 9},
    "cap": {"cap_entries": 3},
    "larger cap": {"cap_entries": 40},
    "dwell": {"dwell_hours": 240.0},
    "currency": {"currency": "EUR"},
    "jump": {"max_clock_jump_days": 2},
    "all": {"window_days": 20, "dwell_hours": 48.0, "earliest_date": "1980-01-01"},
}
TEST: Final = Settings(partitions=1, time="event", due_poll_ms=1, turn_min_gap_ms=0, rescore_slice=2, turn_max_orders=5)


class CrashingStore(MemoryStore):
    """A store whose owner dies at a commit: the one of this number from now on. None: at none."""

    fuse: int | None = None
    group: bytes | None = None

    async def commit(self, expected: bytes | None, head: bytes, writes: Writes) -> bytes:
        if self.fuse is not None:
            self.fuse -= 1
            self.crashes = self.fuse < 0
            self.fuse = None if self.crashes else self.fuse
        return await super().commit(expected, head, writes)

    async def agreed(self, otherwise: bytes | None) -> bytes | None:
        self.group = self.group or otherwise
        return self.group


class OneModel:
    """One model, started by a record of the log."""

    def __init__(self, model: CompiledModel) -> None:
        self.model = model

    def latest(self) -> Activation:
        return Activation(1, "v")

    def compiled(self, version: str) -> object | None:
        return self.model

    def refuses(self, version: str) -> bool:
        return False


class OneMember:
    """A consumer group of one member."""

    def identity(self) -> tuple[int, str]:
        return 1, "alone"

    async def confirm(self, partition: int) -> bool:
        return True


class Rig:
    """A shard in memory, worked on by one owner after the other."""

    def __init__(self, seed: int, replace: Replace) -> None:
        self._replace = replace
        rng = np.random.default_rng(seed)
        self.broker, self.store = MemoryBroker(1), CrashingStore()
        self.streams = streams_of(TEST, "scoring")
        self.models = OneModel(CompiledModel.of(a_model(rng, (1, 2, 3)), TEST.group, {}))
        self.sent = 0
        self.earlier_version = False  # its steps know of no settings that agree

    def send(self, rows: list[tuple[bytes, bytes]]) -> None:
        self.broker.send(self.streams.input, rows)
        self.sent += len(rows)

    def shard(self, agreed: Agreed) -> ShardContext:
        self.broker.install(self._replace)
        if self.earlier_version:
            plain = ScoringStep(Reader.under(agreed), agreed.rules, dwell_ms=agreed.dwell_ms)
            return ShardContext(TEST, self.streams, 0, plain, self.store, OneMember())
        return ShardContext(TEST, self.streams, 0, ScoringStep.of(agreed, 1), self.store, OneMember())

    @property
    def head(self) -> Any:
        assert self.store.kept.head is not None
        return decode_store_head(self.store.kept.head)

    async def work(self, agreed: Agreed) -> None:
        """Take the shard over and do turns until all records are taken and nobody is to be rescored."""
        shard, stopping = self.shard(agreed), asyncio.Event()
        board: Any = SimpleNamespace(note=lambda *_: None, hold=lambda *_: None)
        turns = Turns(shard, self.models, Metrics(), board, TurnSlots(1), lambda: 0, stopping)
        owned = await take_over(shard, 0, stopping)
        try:
            turns.begin(owned)
            while owned.head.offset < self.sent or owned.head.cursor is not None:
                await turns.turn(owned)
        finally:
            await owned.close()

    async def work_with_crashes(self, agreed: Agreed, fuses: list[int]) -> None:
        for fuse in fuses:
            self.store.fuse = fuse
            try:
                await self.work(agreed)
            except Crash:
                continue
        self.store.fuse = None
        await self.work(agreed)

    async def change(self, held: Agreed, wanted: Agreed) -> None:
        """Do what `segstream reconfigure` does to one shard."""
        owned, kafka, _ = await follow(self.shard(held), 0)
        await owned.ledger.cover(Publication(changed(kafka, held, wanted, 0)))
        await owned.close()

    def bare(self, agreed: Agreed, at: int) -> dict[bytes, bytes]:
        """Return the states at a clock, without the last published move; not those of customers without an event."""
        found = {}
        for key, value in self.store.kept.states.items():
            found[key] = with_announcement(advance_bytes(value, at, agreed.rules), 0, 0, NONE)
        return {key: value for key, value in found.items() if value != EMPTY}

    def moves(self) -> list[dict[str, Any]]:
        return [json.loads(record.value or b"") for record in self.broker.committed(self.streams.output)]

    def check(self, agreed: Agreed) -> None:
        """Check that chains are unbroken, and that nobody is left whom the model would move now."""
        last: dict[str, tuple[int, str | None]] = {}
        for move in self.moves():
            sequence, segment = last.get(move["customer_id"], (0, None))
            assert (move["sequence"], move["from"]) == (sequence + 1, segment)
            last[move["customer_id"]] = move["sequence"], move["to"]
        context = TurnContext(self.head.clock, 0, Activation(1, "v"), self.models.model, scope=Scope.SETTINGS)
        rows = sorted(self.store.kept.states.items())
        again = ScoringStep.of(agreed, 1).rescore(rows, [False] * len(rows), context)
        assert again.outputs == []


def history(seed: int, begin: int, count: int) -> list[tuple[bytes, bytes]]:
    """Return orders of a few customers, in time; some are cancelled or refunded, some in another currency."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[bytes, bytes]] = []
    at = begin
    for number in range(count):
        name = f"c{rng.integers(7)}"
        at += int(rng.exponential(1.5) * DAY_MS)
        amount = Amount(f"{rng.integers(1, 60)}.00", "EUR" if rng.random() < 0.15 else "USD")
        text, when = f"{seed}-{number}", instant(at)
        event: Any = OrderPlaced(id=text, order_id=text, customer_id=name, occurred_at=when, amount=amount)
        if number and rng.random() < 0.25:
            other = f"{seed}-{rng.integers(number)}"
            event = (
                OrderCancelled(id=text, order_id=other, customer_id=name, occurred_at=when)
                if rng.random() < 0.5
                else OrderRefunded(id=text, order_id=other, customer_id=name, occurred_at=when, amount=amount)
            )
        rows.append((name.encode(), encode(event)))
    return rows


START: Final = 1_600_000_000_000
MODEL: Final = (
    CONTROL_KEY,
    b'{"type":"model.activated","id":"m","activation":1,"version":"v"}',
)


def logs(seed: int) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
    """Return the records before the change, and those after it."""
    before = history(seed, START, 40)
    return [*before[:5], MODEL, *before[5:]], history(seed + 1, START + 400 * DAY_MS // 4, 15)


async def changed_shop(rig: Rig, seed: int, wanted: Agreed, crashes: list[int]) -> None:
    before, after = logs(seed)
    rig.send(before)
    await rig.work(OLD)
    was = rig.store.copy()
    published = rig.moves()
    with pytest.raises(ShardQuarantined, match="reconfigure") as refused:
        await rig.work(wanted)
    assert refused.value.reason == "settings_changed"
    assert rig.store.kept.states == was.states
    await rig.change(OLD, wanted)
    with pytest.raises(ShardQuarantined, match="reconfigure"):
        await rig.work(OLD)
    await rig.work_with_crashes(wanted, crashes)
    rig.check(wanted)
    added = rig.moves()[len(published) :]
    assert rig.moves()[: len(published)] == published
    assert {move["cause"] for move in added} <= {"settings"}
    assert set(Counter(move["customer_id"] for move in added).values()) <= {1}
    rig.send(after)
    await rig.work(wanted)
    rig.check(wanted)


async def fresh_shop(rig: Rig, seed: int, agreed: Agreed) -> None:
    before, after = logs(seed)
    rig.send([*before, *after])
    await rig.work(agreed)


@pytest.mark.parametrize("change", CHANGES)
@given(seed=st.integers(0, 10_000), crashes=st.lists(st.integers(0, 12), max_size=4))
@settings(max_examples=3, deadline=None)
def test_after_a_change_the_states_are_those_of_a_fresh_replay(change: str, seed: int, crashes: list[int]) -> None:
    wanted = msgspec.structs.replace(OLD, **CHANGES[change])

    async def both(replace: Replace) -> None:
        rig = Rig(seed, replace)
        await changed_shop(rig, seed, wanted, crashes)
        if way_from(OLD, wanted) is not Way.ADOPT:
            fresh = Rig(seed, replace)
            await fresh_shop(fresh, seed, wanted)
            at = max(rig.head.clock, fresh.head.clock)  # no clock goes back, not even where fewer records count
            assert rig.bare(wanted, at) == fresh.bare(wanted, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "MAX_SLICE", 2)
        asyncio.run(both(patch.setattr))


@pytest.mark.parametrize("back", [True, False], ids=["set back", "rebuilt"])
@pytest.mark.parametrize("change", CHANGES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=2, deadline=None)
def test_a_rebuild_and_a_redis_set_back_behind_the_change_come_to_the_same_states(
    change: str, back: bool, seed: int
) -> None:
    wanted = msgspec.structs.replace(OLD, **CHANGES[change])

    async def twice(replace: Replace) -> None:
        rig = Rig(seed, replace)
        before, after = logs(seed)
        rig.send(before[:25])
        await rig.work(OLD)
        past = rig.store.copy()
        rig.send(before[25:])
        await rig.work(OLD)
        await rig.change(OLD, wanted)
        rig.send(after)
        await rig.work(wanted)
        states, published = dict(rig.store.kept.states), rig.moves()
        if back:
            rig.store.kept = past
        else:
            rig.store.kept = StoredShard(encode_head(first_head(CLUSTER, (1, 1), 0)))
        await rig.work(wanted)
        at = rig.head.clock
        assert {k: advance_bytes(v, at, wanted.rules) for k, v in rig.store.kept.states.items()} == {
            k: advance_bytes(v, at, wanted.rules) for k, v in states.items()
        }
        assert rig.moves() == published

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "MAX_SLICE", 2)
        asyncio.run(twice(patch.setattr))


def test_heads_of_an_earlier_version_get_the_settings_of_the_first_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = logs(1)

    async def upgrade() -> None:
        rig = Rig(1, monkeypatch.setattr)
        rig.send(before)
        rig.earlier_version = True
        await rig.work(OLD)
        assert decode_store_head(rig.store.kept.head or b"").agreed is None
        rig.earlier_version = False
        await rig.work(OLD)
        assert rig.head.agreed == OLD
        with pytest.raises(ShardQuarantined, match="SEGSTREAM_CAP_ENTRIES is 9 here, but 6"):
            await rig.work(msgspec.structs.replace(OLD, cap_entries=9))
        # In a rolling restart a worker of the earlier version may come in between.
        rig.send(after[:5])
        rig.earlier_version = True
        await rig.work(OLD)
        rig.send(after[5:])
        rig.earlier_version = False
        await rig.work(OLD)
        rig.check(OLD)
        assert rig.head.agreed == OLD

    asyncio.run(upgrade())


@pytest.mark.parametrize("seed", range(1, 7))
def test_two_changes_that_cancel_out_are_followed_by_a_redis_from_before_both(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings agree again, but Kafka's rescore goes on: the moves are those of an undisturbed run."""
    before, after = logs(seed)
    wanted = msgspec.structs.replace(OLD, window_days=12)

    async def there_and_back(*, lost: bool) -> list[dict[str, Any]]:
        rig = Rig(seed, monkeypatch.setattr)
        rig.send(before)
        await rig.work(OLD)
        past = rig.store.copy()
        await rig.change(OLD, wanted)
        await rig.work(wanted)
        await rig.change(wanted, OLD)
        if lost:
            rig.store.kept = past
        await rig.work(OLD)
        rig.send(after)
        await rig.work(OLD)
        rig.check(OLD)
        return rig.moves()

    assert asyncio.run(there_and_back(lost=True)) == asyncio.run(there_and_back(lost=False))


WINDOW: Final = msgspec.structs.replace(OLD, window_days=12)
DWELL: Final = msgspec.structs.replace(OLD, dwell_hours=240.0)
JUMP: Final = msgspec.structs.replace(OLD, max_clock_jump_days=2)
# The changes one after the other, the last of which holds.
UNSEEN: Final[dict[str, list[Agreed]]] = {
    "a longer window": [msgspec.structs.replace(OLD, window_days=90)],
    "a dwell": [DWELL],
    "a jump": [JUMP],
    "a window and back": [WINDOW, OLD],
    "a dwell and back": [DWELL, OLD],
    "a window and back, and a jump on the way": [msgspec.structs.replace(WINDOW, max_clock_jump_days=2), JUMP],
}


@pytest.mark.parametrize("seed", [3, 8])
@pytest.mark.parametrize("earlier", [True, False], ids=["of an earlier version", "of this version"])
@pytest.mark.parametrize("changes", UNSEEN.values(), ids=UNSEEN)
def test_a_backup_from_before_changes_is_brought_to_the_settings_that_hold(
    changes: list[Agreed], earlier: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own settings may be the same again, or not be in it at all: the counter in Kafka's head tells."""
    before, after = logs(seed)

    async def restored(*, back: bool) -> tuple[dict[bytes, bytes], list[dict[str, Any]]]:
        rig = Rig(seed, monkeypatch.setattr)
        rig.send(before[:25])
        rig.earlier_version = earlier
        await rig.work(OLD)
        past = rig.store.copy()
        rig.send(before[25:])
        await rig.work(OLD)
        rig.earlier_version = False
        await rig.work(OLD)
        for held, wanted in pairwise([OLD, *changes]):
            await rig.change(held, wanted)
            await rig.work(wanted)
        if back:
            rig.store.kept = past
            await rig.work(changes[-1])
        assert (rig.head.agreed, rig.head.changes) == (changes[-1], len(changes))
        rig.send(after)
        await rig.work(changes[-1])
        rig.check(changes[-1])
        at, rules = rig.head.clock, changes[-1].rules
        states = {key: advance_bytes(value, at, rules) for key, value in rig.store.kept.states.items()}
        return states, rig.moves()

    assert asyncio.run(restored(back=True)) == asyncio.run(restored(back=False))


def test_each_setting_has_a_way() -> None:
    assert tuple(WAYS) == Agreed.__struct_fields__
    assert [d.name for d in differences(OLD, msgspec.structs.replace(OLD, currency="EUR", dwell_hours=1.0))] == [
        "currency",
        "dwell_hours",
    ]
