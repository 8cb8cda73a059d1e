"""Records that still come by the former number of partitions, in a turn that is torn: they go on all the same."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from aiokafka.errors import InvalidTxnState

from segmentation.entries import DAY_MS
from segmentation.event_text import instant
from segmentation.events import Amount, OrderPlaced, encode
from segmentation.partitioners import murmur2
from segmentation.scoring import ScoringStep
from stream.engine.ownership import ShardContext
from stream.storage.heads import encode_head, with_stored
from tests.property.test_settings_change import MODEL, OLD, START, TEST, OneMember, Rig
from tests.recovery.rig.memory_ledger import MemoryBroker
from tests.recovery.rig.replacing import Replace

FORMER, NOW = 2, 3
AGREED = msgspec.structs.replace(OLD, partitioner="murmur2")
CUSTOMERS = [f"c{n}".encode() for n in range(300)]
OWN = [key for key in CUSTOMERS if murmur2(key, NOW) == murmur2(key, FORMER) == 0][:4]
STRAY = next(key for key in CUSTOMERS if murmur2(key, FORMER) == 0 != murmur2(key, NOW))


class ReshardedRig(Rig):
    """The first shard of three, of which there were two before."""

    def __init__(self, replace: Replace) -> None:
        super().__init__(1, replace)
        self.broker = MemoryBroker(NOW)
        replace(self.store, "partition_counts", self._partition_counts)
        self.settings = TEST.model_copy(update={"partitions": NOW})

    def shard(self, agreed: object) -> ShardContext:
        del agreed
        self.broker.install(self._replace)
        return ShardContext(self.settings, self.streams, 0, ScoringStep.of(AGREED, NOW), self.store, OneMember())

    @staticmethod
    async def _partition_counts(partitions: int) -> set[int]:
        return {partitions}

    def note_the_former_number(self) -> None:
        kept = self.store.kept
        head = msgspec.structs.replace(self.head, former=FORMER, stored=None)
        kept.head = with_stored(encode_head(head), kept.stored())


def order(key: bytes, n: int, day: int) -> tuple[bytes, bytes]:
    name = f"{key.decode()}-{n}"
    amount = Amount(value="30.00", currency="USD")
    at = instant(START + day * DAY_MS)
    return key, encode(OrderPlaced(id=name, order_id=name, customer_id=key.decode(), occurred_at=at, amount=amount))


@pytest.mark.parametrize("torn", [False, True])
def test_a_stray_of_a_torn_turn_goes_on_and_is_no_dead_letter(torn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> ReshardedRig:
        rig = ReshardedRig(monkeypatch.setattr)
        rig.send([order(OWN[0], 1, 0), MODEL])
        await rig.work(AGREED)
        rig.note_the_former_number()
        rig.send([*(order(key, 2, 1) for key in OWN[1:]), order(STRAY, 3, 1)])
        if torn:
            rig.broker.faults.torn_after = rig.streams.output
            with pytest.raises(InvalidTxnState):
                await rig.work(AGREED)
        await rig.work(AGREED)
        return rig

    rig = asyncio.run(work())
    onward = [record.key for record in rig.broker.committed(rig.streams.input, murmur2(STRAY, NOW))]
    assert onward == [STRAY]
    assert [*rig.broker.committed(rig.streams.dead_letters)] == []
    assert len(rig.moves()) == len(OWN)
