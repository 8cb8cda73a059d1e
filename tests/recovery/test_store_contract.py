"""The contract that the protocol needs of Redis, tested on the real one and on those in memory."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, Final, cast

import msgspec
import pytest

from segmentation.open_state import OpenState
from segmentation.rfm import CustomerState, Kind, Rules, absorb_bytes, entry, pack, settle
from segmentation.step import DueEntry, Remnant
from stream.engine.store import ShardStore, Writes
from stream.errors import ShardLost, ShardQuarantined
from stream.kafka.streams import streams_of
from stream.settings import Settings
from stream.storage.client import connect
from stream.storage.heads import (
    Stored,
    encode_head,
    first_head,
    stored_of,
    with_stored,
)
from stream.storage.keys import ShardKeys, tombstone
from stream.storage.remains import opened_remains
from tests.recovery.rig.calm_servers import STORES, calm_servers
from tests.recovery.rig.memory_store import MemoryStore
from tests.simulation.servers.redis_client import SimulatedRedis
from tests.support.engine.toy_step import ToyStep


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ShardStore]:
    if request.param == "memory":
        memory = MemoryStore()
        await memory.read_head()
        yield memory
        return
    keys = ShardKeys(uuid.uuid4().hex, "orders", 0)
    if request.param == "simulated":
        kafka, place = calm_servers(streams_of(Settings(), "scoring"))
        simulated = ShardStore(cast("Any", SimulatedRedis(place, kafka.wire, 5)), keys, b"salt")
        await simulated.read_head()
        yield simulated
        return
    url = request.getfixturevalue("stack").endpoints.redis
    redis = connect(Settings(redis_url=url))
    made = ShardStore(redis, keys, b"salt")
    await made.read_head()
    yield made
    await redis.aclose()


def store_head(turn: int) -> bytes:
    """Return the bytes of a head, without counts."""
    return encode_head(msgspec.structs.replace(first_head("cluster", (1, 1), 0), turn=turn))


async def test_the_head_is_compared_and_set(store: ShardStore) -> None:
    assert await store.read_head() is None
    assert await store.is_empty()
    one, two = store_head(1), store_head(2)
    first = await store.commit(None, one, Writes({b"a": b"1"}, created=[b"a"], due={b"a": 7}))
    assert first == with_stored(one, Stored(1, 1, 1, 0))
    with pytest.raises(ShardLost):
        await store.commit(None, two, Writes({b"a": b"2"}))
    with pytest.raises(ShardLost):
        await store.commit(two, two, Writes({b"a": b"2"}))
    assert await store.committed(one) == first
    assert await store.committed(two) is None
    assert (await store.load(first, [b"a", b"b"], None, 0)).values == [b"1", None]
    second = await store.commit(first, two, Writes({b"a": b"2"}, idle=[b"a"]))
    assert second == with_stored(two, Stored(1, 1, 0, 0))
    assert await store.read_head() == second
    assert not await store.is_empty()


async def test_nothing_is_loaded_under_another_head(store: ShardStore) -> None:
    await store.commit(None, store_head(1), Writes())
    for asked in ([b"a"], []):
        with pytest.raises(ShardLost):
            await store.load(store_head(2), asked, 10, 5)
    with pytest.raises(ShardLost):
        await store.load_slice(store_head(2), "", 5)


VANISHED: Final = {
    "states": "0 states instead of 2",
    "customers": "0 entries in the list of customers instead of 2",
    "due": "0 due times instead of 2",
    "tombstones": "0 tombstones instead of 2",
}


class GoneStep(ToyStep):
    """A step whose states say that their customers are gone, and which other id they are one with."""

    def is_gone(self, value: bytes) -> bool:
        return value.startswith(b"left")

    def rank(self, value: bytes) -> int | None:
        return 7 if b"one with" in value else None


async def lose(store: ShardStore, name: str) -> None:
    """Delete one key of the shard behind its head."""
    if isinstance(store, MemoryStore):
        store.lose(name)
    else:
        await store._redis.delete(getattr(store._keys, name))


@pytest.mark.parametrize(("name", "shown"), VANISHED.items(), ids=VANISHED)
async def test_a_part_that_vanished_behind_the_head_is_noticed(store: ShardStore, name: str, shown: str) -> None:
    await store.commit(None, store_head(1), store.with_tombstones(Writes({b"c": b"left"}), GoneStep()))
    raw = await store.read_head()
    states = {b"a": b"1", b"b": b"2"}
    raw = await store.commit(raw, store_head(2), Writes(states, created=list(states), due=dict.fromkeys(states, 7)))
    await lose(store, name)

    async def stops(call: Awaitable[object]) -> None:
        with pytest.raises(ShardQuarantined, match=shown) as stop:
            await call
        assert stop.value.reason == "redis_lost"
        assert "segstream rebuild" in str(stop.value)

    await stops(store.load(raw, [b"a"], None, 0))
    await stops(store.load(raw, [], 5, 10))
    await stops(store.load_slice(raw, "", 5))
    await stops(store.commit(raw, store_head(3), Writes({b"a": b"3"})))
    await stops(store.read_head())


async def test_a_head_of_a_version_that_counts_nothing_gets_its_counts(store: ShardStore) -> None:
    raw = await store.commit(None, store_head(1), Writes({b"a": b"1"}, created=[b"a"]))
    old = raw.replace(b',"stored":[1,1,0,0]', b"")
    assert old != raw
    if isinstance(store, MemoryStore):
        store.kept.head = old
    else:
        await store._redis.set(store._keys.head, old)
    assert await store.read_head() == old
    assert (await store.load(old, [b"a"], None, 0)).values == [b"1"]
    new = await store.commit(old, store_head(2), Writes({b"b": b"1"}, created=[b"b"]))
    assert new == with_stored(store_head(2), Stored(2, 2, 0, 0))


async def test_due_customers_are_found(store: ShardStore) -> None:
    names = [b"a", b"b", b"c"]
    raw = await store.commit(
        None, store_head(1), Writes(dict.fromkeys(names, b"s"), created=names, earlier={b"a": 30, b"b": 20, b"c": 10})
    )
    assert (await store.load(raw, [], 30, 5)).fired == [DueEntry(10, b"c", b"s"), DueEntry(20, b"b", b"s")]
    assert (await store.load(raw, [], 30, 1)).fired == [DueEntry(10, b"c", b"s")]
    assert (await store.load(raw, [], None, 5)).fired == []
    raw = await store.commit(raw, store_head(2), Writes(earlier={b"a": 40, b"b": 5}, due={b"c": 50}))
    assert [(d.at, d.key) for d in (await store.load(raw, [], 99, 5)).fired] == [(5, b"b"), (30, b"a"), (50, b"c")]
    raw = await store.commit(raw, store_head(3), Writes(idle=[b"a", b"b"]))
    assert [d.key for d in (await store.load(raw, [], 99, 5)).fired] == [b"c"]


async def test_customers_are_found_in_slices(store: ShardStore) -> None:
    names = [b"a", b"b", b"c"]
    raw = await store.commit(None, store_head(1), Writes(dict.fromkeys(names, b"s"), created=names))
    assert await store.load_slice(raw, "", 2) == ([(b"a", b"s"), (b"b", b"s")], 2, b"b")
    assert await store.load_slice(raw, "b", 2) == ([(b"c", b"s")], 1, b"c")
    assert await store.load_slice(raw, "c", 2) == ([], 0, b"")


async def test_erased_customers_are_stored_under_hashes(store: ShardStore) -> None:
    raw = await store.commit(None, store_head(1), Writes({b"a": b"s"}, created=[b"a"], earlier={b"a": 1}))
    raw = await store.commit(raw, store_head(2), store.with_tombstones(Writes({b"a": b"left"}), GoneStep()))
    found = await store.load(raw, [b"a"], 99, 5)
    assert (found.values, found.fired, found.erased) == ([b"left"], [], frozenset({b"a"}))
    assert found.present([b"a"]) == set()
    assert await store.load_slice(raw, "", 5) == ([], 0, b"")
    again = store.with_tombstones(Writes({b"a": b"left later", b"b": b"left"}), GoneStep())
    assert await store.former_tombstones(raw, again) == {tombstone(b"a", store._salt): b"left"}
    with pytest.raises(ShardLost):
        await store.former_tombstones(store_head(7), again)
    assert await store.former_tombstones(raw, Writes()) == {}
    raw = await store.commit(raw, store_head(3), Writes({b"a": b"back"}, created=[b"a"]))
    back = await store.load(raw, [b"a"], None, 0)
    assert (back.values, back.erased) == ([b"back"], frozenset())


@pytest.mark.parametrize("states", [{}, {b"n%d" % i: b"s" for i in range(11_000)}], ids=["empty", "customers"])
async def test_a_shard_can_be_started_anew(store: ShardStore, states: dict[bytes, bytes]) -> None:
    await store.commit(None, store_head(1), Writes({b"a": b"s"}, created=[b"a"], due={b"a": 1}))
    await store.start_anew(store_head(0), states)
    raw = await store.read_head()
    assert raw == with_stored(store_head(0), Stored(len(states), len(states), 0, 0))
    assert (await store.load(raw, [b"a", *list(states)[:1]], 99, 5)).values == [None, *list(states.values())[:1]]


async def test_remains_that_name_another_id_are_sealed(store: ShardStore) -> None:
    step, merged = GoneStep(), b"left: one with bob"
    raw = await store.commit(None, store_head(1), Writes({b"a": b"s"}, created=[b"a"]))
    writes = store.with_tombstones(Writes({b"a": merged}), step)
    name = tombstone(b"a", store._salt)
    assert b"bob" not in writes.tombstones[name]
    raw = await store.commit(raw, store_head(2), writes)
    assert (await store.load(raw, [b"a"], None, 0)).values == [merged]
    again = store.with_tombstones(Writes({b"a": merged + b" and carl"}), step)
    assert await store.former_tombstones(raw, again) == {name: writes.tombstones[name]}


async def test_remnants_of_the_living_go_with_the_tombstones_of_the_gone(store: ShardStore) -> None:
    step, salt = GoneStep(), store._salt
    raw = await store.commit(None, store_head(1), store.with_tombstones(Writes({b"a": b"left"}), step))
    writes = store.with_tombstones(Writes({b"a": b"left again", b"b": b"left"}), step)
    remnants = {
        b"b": Remnant(b"not stored", b"one with a, living"),
        b"c": Remnant(b"one with a and b, living", b"one with a, living"),
        b"d": Remnant(b"one with a, living", None),
    }
    now, before = await store.left_behind(raw, writes, remnants, step)

    def opened(found: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        names = {key: tombstone(key, salt) for key in (b"a", b"b", b"c", b"d")}
        return {key: opened_remains(found[name], key, salt) for key, name in names.items() if name in found}

    assert opened(now) == {
        b"a": b"left again", b"b": b"left", b"c": b"one with a and b, living", b"d": b"one with a, living",
    }  # fmt: skip
    assert opened(before) == {b"a": b"left", b"b": b"one with a, living", b"c": b"one with a, living"}
    assert len(now) == 4


def large(orders: int) -> bytes:
    entries = [entry(Kind.PLACED, f"e{i}", 1_000 + i, order=f"o{i}", amount=100) for i in range(orders)]
    return pack(settle(CustomerState(), entries, 1_000 + orders, Rules()))


def bought(value: bytes, number: int) -> bytes:
    at = 2_000_000 + number
    return absorb_bytes(value, entry(Kind.PLACED, f"more{number}", at, order=f"more{number}"), at, Rules())[0]


def buys(held: OpenState, number: int) -> None:
    at = 2_000_000 + number
    held.absorb(entry(Kind.PLACED, f"more{number}", at, order=f"more{number}"), at)
    held.dirty = True


async def held_in_pieces(store: ShardStore, orders: int = 200) -> tuple[bytes, bytes, OpenState]:
    """Bring a large state into pieces, by one more order. Return (the head, the state's bytes, the state held open)."""
    value = large(orders)
    raw = await store.commit(None, store_head(1), Writes({b"a": value}, created=[b"a"]))
    hold = lambda found: OpenState(found, Rules())  # noqa: E731
    assert (await store.load(raw, [b"a"], None, 0, hold)).values == [value], "once isn't often"
    [held] = (await store.load(raw, [b"a"], None, 0, hold)).values
    if not isinstance(held, OpenState):
        pytest.skip("this store holds nothing open")
    buys(held, 1)
    raw = await store.commit(raw, store_head(2), Writes(held={b"a": held}))
    return raw, bought(value, 1), held


async def test_a_large_state_that_is_held_open_lies_in_pieces(store: ShardStore) -> None:
    raw, value, held = await held_in_pieces(store)
    assert stored_of(raw) == Stored(1, 1, 0, 0, pieces=3)
    assert (await store.load(raw, [b"a"], None, 0)).values == [value]
    assert (await store.load(raw, [b"a"], None, 0, lambda _: None)).values == [held], "it isn't loaded again"
    for number in range(2, 80):
        buys(held, number)
        value = bought(value, number)
    raw = await store.commit(raw, store_head(3), Writes(held={b"a": held}))
    assert stored_of(raw) == Stored(1, 1, 0, 0, pieces=5)
    assert (await store.load_slice(raw, "", 5))[0] == [(b"a", value)]


async def test_another_owner_finds_the_state_in_pieces_and_may_write_it_whole(store: ShardStore) -> None:
    raw, value, _ = await held_in_pieces(store)
    assert await store.read_head() == raw
    assert (await store.load(raw, [b"a"], None, 0, lambda _: None)).values == [value]
    raw = await store.commit(raw, store_head(3), Writes({b"a": value}))
    assert stored_of(raw) == Stored(1, 1, 0, 0)
    assert (await store.load(raw, [b"a"], None, 0)).values == [value]


async def test_an_erased_customer_leaves_no_piece(store: ShardStore) -> None:
    raw, _, _ = await held_in_pieces(store)
    raw = await store.commit(raw, store_head(3), Writes(deleted=[b"a"], tombstones={b"hash": b"rest"}))
    assert stored_of(raw) == Stored(0, 0, 0, 2)


async def test_a_state_of_a_commit_that_failed_is_held_no_longer(store: ShardStore) -> None:
    raw, value, _ = await held_in_pieces(store)
    [held] = (await store.load(raw, [b"a"], None, 0, lambda _: None)).values
    buys(held, 2)
    with pytest.raises(ShardLost):
        await store.commit(store_head(9), store_head(3), Writes(held={b"a": held}))
    assert (await store.load(raw, [b"a"], None, 0, lambda _: None)).values == [value]


async def test_a_lost_piece_is_noticed(store: ShardStore) -> None:
    raw, _, _ = await held_in_pieces(store)
    await store._redis.delete(store._keys.pieces)
    with pytest.raises(ShardQuarantined, match="0 pieces of large states instead of 3"):
        await store.load(raw, [], None, 0)
