"""`segstream merge`, and what `customer` and `erase` say of ids that were merged, on real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import SecretStr
from redis import Redis

from segmentation.events import Amount, OrderPlaced
from segmentation.links import Edge, Links
from segmentation.money import UNITS
from segmentation.partitioners import murmur2
from segmentation.profiles import CustomerProfile
from segmentation.rfm import EMPTY, Kind, absorb_bytes, entry, pack, unpack
from stream.clock import now_ms
from stream.customers.campaigns import campaign_states
from stream.customers.merge import MergeRefused, merge
from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.settings import Settings
from stream.storage.keys import ShardKeys
from stream.storage.remains import stored_remains
from stream.traces.mentions import CustomerIdRefused
from stream.traces.person import person_of
from tests.integration.commands.test_erase_command import keys_naming
from tests.support.command_line import run
from tests.support.data.redis_customers import head
from tests.support.engine.real_worker import activate, check_chains, moves, processes, settled
from tests.support.engine.toy_engine import eventually
from tests.support.orders import send_events, send_profiles

PARTITIONS = 2
GUEST, ACCOUNT, THIRD = "guest-of-the-test", "person-of-the-test", "third-of-the-test"


def order(customer: str, number: int, amount: str = "100.00") -> OrderPlaced:
    return OrderPlaced(
        id=f"{customer}-{number}",
        order_id=f"{customer}-{number}",
        customer_id=customer,
        occurred_at=datetime.now(UTC),
        amount=Amount(amount, "USD"),
    )


async def command(settings: Settings, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = await asyncio.to_thread(run, settings, *arguments, "--json", code=code)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def moves_of(settings: Settings, customer: str) -> list[dict[str, Any]]:
    everyone = await moves(settings)
    check_chains(everyone)
    return [move for partition in everyone for move in partition if move["customer_id"] == customer]


def test_the_ids_of_the_test_live_in_different_shards() -> None:
    assert len({murmur2(name.encode(), PARTITIONS) for name in (GUEST, ACCOUNT)}) == PARTITIONS


@pytest.mark.slow
async def test_two_ids_become_one_customer(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(partitions=PARTITIONS, erasure_salt=SecretStr("of the test"))
    await topics.create(settings)
    life = [order(GUEST, 1), order(GUEST, 2), order(ACCOUNT, 1)]
    with processes(settings, tmp_path, "worker", "dispatch"):
        activation = await asyncio.to_thread(activate, settings)
        await send_events(settings, *life)
        await settled(settings, activation=activation)
        before = await moves_of(settings, GUEST)
        actions = len(await read_topic(settings, settings.actions_topic))
        berlin = CustomerProfile(id="p-1", customer_id=GUEST, occurred_at=datetime.now(UTC), time_zone="Europe/Berlin")
        await send_profiles(settings, berlin)

        done = await command(settings, "merge", GUEST, ACCOUNT)
        assert (done["done"], done["reasons"]) == (True, [])
        assert (done["customer_id"], done["ids"]) == (ACCOUNT, [ACCOUNT, GUEST])
        last = (await moves_of(settings, GUEST))[-1]
        assert (last["from"], last["to"], last["cause"]) == (before[-1]["to"], None, "merged")
        assert (last["merged_into"], last["rfm"]) == (ACCOUNT, None)
        latest = [r.value for r in await read_topic(settings, settings.state_topic) if r.key == GUEST.encode()]
        assert latest[-1] is None
        known = await command(settings, "customer", ACCOUNT)
        assert (known["frequency"], known["monetary"], known["ids"]) == (3, "300.00", [ACCOUNT, GUEST])
        gone = await command(settings, "customer", GUEST)
        assert (gone["merged_into"], gone["frequency"], gone["entries"]) == (ACCOUNT, 0, [])
        shown = (await asyncio.to_thread(run, settings, "customer", GUEST)).stdout
        assert f"{GUEST} was merged into {ACCOUNT}" in shown
        shown = (await asyncio.to_thread(run, settings, "customer", ACCOUNT)).stdout
        assert f"{ACCOUNT} has 2 ids: {ACCOUNT}, {GUEST}" in shown

        await eventually(lambda: "Berlin" in known_to_campaigns(settings, ACCOUNT), 60, "the profile is handed on")
        assert "time zone Europe/Berlin" in (await asyncio.to_thread(run, settings, "customer", ACCOUNT)).stdout

        # Later events of either id, and a second merge in a chain.
        await send_events(settings, order(GUEST, 3), life[0], order(THIRD, 1))
        chained = await command(settings, "merge", ACCOUNT, THIRD)
        assert (chained["customer_id"], chained["ids"]) == (THIRD, [THIRD, GUEST, ACCOUNT])
        await settled(settings)
        await settled(settings)  # what was handed on meanwhile
        assert (await command(settings, "customer", THIRD))["frequency"] == 5
        assert (await command(settings, "customer", GUEST))["merged_into"] == THIRD
        await settled(settings, topic=settings.changes_topic)
        causes = [move["cause"] for part in await moves(settings) for move in part]
        new = (await read_topic(settings, settings.actions_topic))[actions:]
        assert not [a for a in new if "(merge" in json.loads(a.value)["reason"]], causes

        # An erasure of any id is of the whole person.
        erased = await command(settings, "erase", GUEST, "--wait", "60")
        assert (erased["done"], erased["reasons"]) == (True, [])
        assert sorted(erased["ids"]) == sorted([THIRD, ACCOUNT, GUEST])
        for name in (GUEST, ACCOUNT, THIRD):
            assert keys_naming(settings, name) == []
            assert (await command(settings, "erase", name, "--check"))["done"]
            assert "Berlin" not in known_to_campaigns(settings, name)
        assert (await moves_of(settings, THIRD))[-1]["cause"] == "erasure"
        await send_events(settings, *life)
        await settled(settings)
        await settled(settings)
        assert [keys_naming(settings, name) for name in (GUEST, ACCOUNT, THIRD)] == [[], [], []]


def known_to_campaigns(settings: Settings, name: str) -> str:
    """The knowledge that the campaigns' shards have of an id."""
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        return str([state for _, state in campaign_states(redis, settings, name)])


def written(settings: Settings, name: str, edges: tuple[Edge, ...], orders: int = 0, *, gone: bool = False) -> None:
    """Write what a shard knows of an id, as a worker would."""
    at = now_ms()
    state = EMPTY
    for number in range(orders):
        own = entry(Kind.PLACED, f"{name}{number}", at - number, order=f"{name}{number}", amount=UNITS)
        state, _ = absorb_bytes(state, own, at, settings.rules)
    value = pack(replace(unpack(state), links=Links(edges)))
    keys = ShardKeys(settings.group, settings.orders_topic, murmur2(name.encode(), PARTITIONS))
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.set(keys.head, head(at, PARTITIONS))
        if gone:
            hash_, hidden = stored_remains(value, name.encode(), settings.salt, len(edges))
            redis.hset(keys.tombstones, cast("str", hash_), cast("str", hidden))
        else:
            redis.hset(keys.states, name, cast("str", value))


async def test_the_ids_of_a_person_as_the_shards_know_them(settings_for: Callable[..., Settings]) -> None:
    """Each shard knows a part of the merges; the one of the id that stays knows all."""
    settings = settings_for(partitions=PARTITIONS, erasure_salt=SecretStr("of the test"))
    await topics.create(settings)
    first, second = Edge(1, GUEST, ACCOUNT, 5), Edge(2, ACCOUNT, THIRD, 6)
    written(settings, GUEST, (first,), gone=True)
    written(settings, ACCOUNT, (first, second), gone=True)
    written(settings, THIRD, (first, second), 3)
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for name in (GUEST, ACCOUNT, THIRD):
            person = person_of(redis, settings, name)
            assert (person.customer_id, set(person.ids)) == (THIRD, {GUEST, ACCOUNT, THIRD})
            assert person.ids[0] == THIRD
            assert person.knows(2, ACCOUNT, THIRD)
            assert not person.knows(3, ACCOUNT, THIRD)
            assert not person.knows(1, ACCOUNT, GUEST)
        assert person_of(redis, settings, "nobody").ids == ("nobody",)
        # Two that take each other for the one that stays, while a merge in the other direction is under way.
        written(settings, GUEST, (first,), gone=True)
        written(settings, ACCOUNT, (first, Edge(3, ACCOUNT, GUEST, 9)), gone=True)
        assert set(person_of(redis, settings, GUEST).ids) == {GUEST, ACCOUNT}
        written(settings, ACCOUNT, (first, second), gone=True)

    assert (await command(settings, "customer", THIRD))["frequency"] == 3
    gone = await command(settings, "customer", GUEST)
    assert (gone["merged_into"], gone["frequency"], gone["entries"], gone["next"]) == (THIRD, 0, [], None)
    found = await command(settings, "erase", GUEST, "--check", code=1)
    assert found["ids"] == [THIRD, GUEST, ACCOUNT]
    assert any("keeps events of the customer (3)" in reason for reason in found["reasons"])
    assert {(left["customer_id"], left["state"]) for left in found["shards"]} == {
        (GUEST, False),
        (ACCOUNT, False),
        (THIRD, True),
    }
    # An id whose shard hasn't handed its orders on yet.
    written(settings, ACCOUNT, (first,), 1)
    found = await command(settings, "erase", THIRD, "--check", code=1)
    assert any(f"keeps a state of '{ACCOUNT}', which was merged into" in reason for reason in found["reasons"])


async def test_where_no_worker_runs_the_merge_is_sent_and_not_done(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(partitions=PARTITIONS)
    await topics.create(settings)
    shown = (await asyncio.to_thread(run, settings, "merge", GUEST, ACCOUNT, "--wait", "0", code=1)).stdout
    assert f"{GUEST} and {ACCOUNT}: not merged yet.\n" in shown
    assert "hasn't read the merge at offset 0 yet" in shown
    assert "Merging again does no harm." in shown
    (record,) = await read_topic(settings, settings.orders_topic)
    assert record.key == GUEST.encode()
    sent = json.loads(record.value)
    assert (sent["type"], sent["from"], sent["into"]) == ("customer.merged", GUEST, ACCOUNT)


@pytest.mark.parametrize(
    ("from_", "into", "error"),
    [
        (GUEST, GUEST, "can't be merged into itself"),
        ("", ACCOUNT, "0 characters"),
        (GUEST, "x" * 257, "257 characters"),
    ],
)
async def test_ids_that_cannot_be_merged_are_refused(from_: str, into: str, error: str) -> None:
    with pytest.raises(CustomerIdRefused, match=error):
        await merge(Settings(), from_, into, None, now_ms=now_ms(), wait_s=0)


async def test_without_a_partitioner_nobody_can_be_merged() -> None:
    with pytest.raises(MergeRefused, match="SEGSTREAM_PARTITIONER is none"):
        await merge(Settings(partitioner="none"), GUEST, ACCOUNT, None, now_ms=now_ms(), wait_s=0)
