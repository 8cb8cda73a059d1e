from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec.structs import replace

from segmentation.backfills import Backfill, Backfills
from segmentation.partitioners import by_crc32, murmur2
from segmentation.step import Scope
from stream.reshard.placement import TooManyBackfills, inherit, kafka_head, sources, targets
from stream.storage.heads import Fingerprint, StoreHead, first_head


def head(partition: int, **change: Any) -> StoreHead:
    base = replace(
        first_head("cluster", (2, 2), 0),
        offset=10 + partition, position=20 + partition, count=30 + partition, clock=100, merge_clock=100, activation=5,
        version="v5", written=Fingerprint(1, 2, 3), read=Fingerprint(4, 5, 6), turn=9, token="t",
    )  # fmt: skip
    return replace(base, **change)


@pytest.mark.parametrize("partitioner", [murmur2, by_crc32])
def test_every_way_of_a_customer_is_among_sources_and_targets(partitioner: Any) -> None:
    rng = random.Random(1)
    for former, partitions in ((1, 2), (2, 3), (4, 6), (8, 12), (8, 16), (3, 10)):
        for _ in range(200):
            key = rng.randbytes(8)
            before, after = partitioner(key, former), partitioner(key, partitions)
            assert before in sources(after, former, partitions)
            assert after in targets(before, former, partitions)


def test_a_former_shard_goes_on_where_it_was_sealed_and_a_new_one_begins() -> None:
    heads = [inherited.head for inherited in inherit([head(0), head(1, clock=200)], 3, [0, 0, 7])]
    assert [h.offset for h in heads] == [10, 11, 7]
    assert [h.position for h in heads] == [20, 21, 0]
    assert [h.count for h in heads] == [30, 31, 0]
    assert [h.written is None for h in heads] == [False, False, True]
    assert {h.clock for h in heads} == {200}
    assert {(h.partitions, h.former) for h in heads} == {((3, 3), 2)}
    assert {(h.activation, h.version, h.cursor) for h in heads} == {(5, "v5", None)}
    doubled = [inherited.head for inherited in inherit([head(0), head(1, clock=200)], 4, [0] * 4)]
    assert [h.clock for h in doubled] == [100, 200, 100, 200]
    written = kafka_head(heads[1])
    assert (written.offset, written.count, written.clock, written.partitions) == (11, 31, 200, 3)


def test_side_inputs_go_on_where_they_were_read_and_from_the_start_of_new_partitions() -> None:
    sealed = [head(0, sides={"profiles": 4, "orders": 9}), head(1, sides={"profiles": 5, "orders": 8})]
    found = [inherited.head.sides for inherited in inherit(sealed, 3, [0] * 3)]
    assert found == [sealed[0].sides, sealed[1].sides, {"profiles": 0, "orders": 0}]


@pytest.mark.parametrize("other", [{"activation": 4, "version": "v4"}, {"cursor": "m", "scope": Scope.RELEASED}])
def test_a_shard_rescores_everyone_where_its_sources_are_not_alike(other: dict[str, Any]) -> None:
    for found in (inherited.head for inherited in inherit([head(0, **other), head(1)], 3, [0] * 3)):
        assert (found.activation, found.version) == (5, "v5")
        assert (found.cursor, found.quiet, found.scope) == ("", "", Scope.EVERYONE)


def test_the_moves_of_changed_settings_keep_their_cause_unless_a_model_starts() -> None:
    changing = {"cursor": "m", "scope": Scope.SETTINGS, "changes": 3}
    for found in (inherited.head for inherited in inherit([head(0, **changing), head(1, changes=3)], 3, [0] * 3)):
        assert (found.cursor, found.quiet, found.scope, found.changes) == ("", "", Scope.SETTINGS, 3)
        assert (kafka_head(found).scope, kafka_head(found).changes) == (Scope.SETTINGS, 3)
    for found in (inherited.head for inherited in inherit([head(0, **changing), head(1, activation=6)], 3, [0] * 3)):
        assert (found.cursor, found.activation, found.scope) == ("", 6, Scope.EVERYONE)


def test_open_backfills_go_along_and_own_slots_stay() -> None:
    first = Backfills(4, (Backfill(3, "archive", 10, 50), Backfill(4, "old", 1, 2, closed=True)))
    second = Backfills(2, (Backfill(3, "other", 5, 6), Backfill(1, "archive", 5, 90)))
    found = inherit([head(0, backfills=first), head(1, backfills=second)], 3, [0] * 3)

    def named(q: int) -> dict[str, int]:
        return {row.id: row.slot for row in found[q].head.backfills.rows}

    assert named(0)["archive"] == 3
    assert named(0)["old"] == 4
    assert named(1)["other"] == 3
    assert named(1)["archive"] == 1
    for q in range(3):
        assert set(named(q)) == {"archive", "old", "other"}
        assert len(set(named(q).values())) == 3
        for source, registry in enumerate((first, second)):
            slots = found[q].slots.get(source, {})
            assert {row.id: slots.get(row.slot, row.slot) for row in registry.rows}.items() <= named(q).items()
        archive = next(row for row in found[q].head.backfills.rows if row.id == "archive")
        assert (archive.since, archive.last) == (5, 90)


def test_more_backfills_than_a_state_can_name_are_refused() -> None:
    def full(prefix: str) -> Backfills:
        return Backfills(40, tuple(Backfill(slot, f"{prefix}{slot}", 1, 2) for slot in range(1, 41)))

    with pytest.raises(TooManyBackfills, match="shard 0"):
        inherit([head(0, backfills=full("a")), head(1, backfills=full("b"))], 3, [0] * 3)
