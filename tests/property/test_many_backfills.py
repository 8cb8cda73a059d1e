"""More backfills than slots, one after the other, and a shard whose Redis was set back to before all of them."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import InvalidTxnState

from segmentation.backfills import SLOTS
from segmentation.events import CONTROL_KEY, Amount, BackfillFinished, ModelActivated, OrderPlaced, encode
from tests.property.test_settings_change import OLD, Rig
from tests.recovery.rig.memory_store import StoredShard
from tests.support.engine.memory_shard import DAY, T0, at


def order(n: int, customer: str, backfill: str | None) -> tuple[bytes, bytes]:
    placed = OrderPlaced(
        id=f"e{n}", order_id=f"o{n}", customer_id=customer, occurred_at=at(T0 + n * DAY // 10),
        amount=Amount(value="10", currency="USD"), backfill=backfill,
    )  # fmt: skip
    return customer.encode(), encode(placed)


def the_log() -> list[tuple[bytes, bytes]]:
    """Three times as many backfills as slots, each finished before the next one; the last one stays open."""
    log = []
    for n in range(3 * SLOTS):
        log += [order(3 * n, f"c{n}", f"archive-{n}"), order(3 * n + 1, f"c{n % 7}", f"archive-{n}")]
        if n < 3 * SLOTS - 1:
            log.append((CONTROL_KEY, encode(BackfillFinished(id=f"end-{n}", backfill=f"archive-{n}"))))
        log.append(order(3 * n + 2, "always", None))
    return log


async def begin(rig: Rig) -> StoredShard:
    """Start the model and read the log. Return the store as it was between the two."""
    rig.send([(CONTROL_KEY, encode(ModelActivated(id="start", activation=1, version="v")))])
    await rig.work(OLD)
    before = rig.store.copy()
    rig.send(the_log())
    await rig.work(OLD)
    return before


def test_a_shard_that_is_read_again_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(3, monkeypatch.setattr)

    async def both() -> None:
        before = await begin(rig)
        clock, states, moves = rig.head.clock, rig.bare(OLD, rig.head.clock), rig.moves()
        assert len(states) == 3 * SLOTS + 1
        rig.store.kept = before
        await rig.work(OLD)
        assert rig.bare(OLD, clock) == states
        assert len(moves) > SLOTS
        assert rig.moves() == moves
        rig.send([(CONTROL_KEY, encode(BackfillFinished(id="end", backfill=f"archive-{3 * SLOTS - 1}")))])
        await rig.work(OLD)
        rig.check(OLD)  # now nobody is muted

    asyncio.run(both())
    assert not list(rig.broker.committed(rig.streams.dead_letters))


def test_a_torn_turn_that_marks_one_more_keeps_its_dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(3, monkeypatch.setattr)

    async def both() -> None:
        before = await begin(rig)
        last = 9 * SLOTS
        rig.send([order(last, "marked", "one-more"), (b"marked", b"{"), order(last + 1, "moves", None)])
        rig.broker.faults.torn_after = rig.streams.output
        with pytest.raises(InvalidTxnState):
            await rig.work(OLD)
        rig.store.kept = before
        await rig.work(OLD)

    asyncio.run(both())
    assert rig.broker.faults.torn_after is None
    letters = [record.value for record in rig.broker.committed(rig.streams.dead_letters)]
    assert letters == [b"{"]
