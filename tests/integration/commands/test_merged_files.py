"""Files of orders whose customers have several ids, and of merges: the states are those of customers with one id."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import pytest

from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.links import NO_LINKS
from segmentation.money import format_units
from segmentation.rfm import advance_bytes, unpack
from segmentation.state_bytes import CustomerState
from stream.kafka import topics
from stream.kafka.clients import end_offsets, read_topic
from stream.orders.files import read_orders
from stream.orders.rows import OrderRow, merged, parse_at
from stream.orders.simulate import simulate
from stream.orders.sorting import in_time_order
from stream.replay.publisher import replay
from stream.settings import Settings
from stream.worker.steps import scoring_step
from tests.support.engine.real_worker import settled, states
from tests.support.engine.toy_engine import engine

START: Final = parse_at("2011-03-01T10:00:00Z")
KINDS: Final = {"placed": "order", "refunded": "refund", "cancelled": "cancellation", "merged": "merge"}
IDS: Final = ("", "-guest", "-app", "-till")  # of one person: these endings


def with_several_ids(rows: Iterable[OrderRow]) -> list[OrderRow]:
    """Return the rows with each order, and all that is about it, under one of its customer's ids."""
    found = []
    for row in rows:
        ending = random.Random(row.order_id or row.event_id).choice(IDS)
        found.append(msgspec.structs.replace(row, customer_id=row.customer_id + ending))
    return found


def merges_of(rows: Iterable[OrderRow], instants: Callable[[], int]) -> list[OrderRow]:
    """Return merges that make the ids of each customer one: in chains, stars and cycles."""
    found = []
    for name in sorted({row.customer_id for row in rows}):
        dice = random.Random(name)
        others = [name + ending for ending in IDS[1:]]
        dice.shuffle(others)
        pairs = [(others[0], dice.choice([name, others[1]])), (others[1], others[2])]
        if dice.random() < 0.3:
            pairs.append((name, others[0]))
        pairs.append((others[2], name))
        found += [merged(from_, into, instants(), "USD") for from_, into in pairs]
    return found


def write(rows: Iterable[OrderRow], path: Path) -> None:
    """Write rows to a file, in random order."""
    lines = [
        f"{row.order_id or ''},{row.customer_id},{iso(row.at_ms)},{format_units(row.amount_units)},"
        f"{KINDS[row.kind]},{row.merged_into or ''}\n"
        for row in rows
    ]
    random.Random(1).shuffle(lines)
    path.write_text("order_id,customer_id,ordered_at,amount,kind,merged_into\n" + "".join(lines), "utf-8")


async def replay_file(settings: Settings, rows: Iterable[OrderRow], path: Path, end: int | None = None) -> None:
    """Write rows to a file, and replay it as the command does."""
    write(rows, path)
    left_out = Counter[str]()
    with in_time_order(read_orders(path, currency="USD", counts=left_out), left_out=left_out) as ordered:
        await replay(settings, ordered, until_ms=end)
    assert not left_out


async def taken_up(settings: Settings, end: int) -> dict[str, CustomerState]:
    """Return the states once all is read, also what was handed on, as of an instant."""
    async with engine(settings, scoring_step(settings)):
        before, now = dict[int, int](), await end_offsets(settings, settings.orders_topic)
        while before != now:
            await settled(settings)
            before, now = now, await end_offsets(settings, settings.orders_topic)
    assert await read_topic(settings, settings.orders_dead_letters_topic) == []
    return {
        name.decode(): unpack(advance_bytes(value, end, settings.rules)) for name, value in states(settings).items()
    }


def by_person(found: dict[str, CustomerState]) -> dict[str, CustomerState]:
    """Return the states by the bare ids. Each person has one state, under whichever id stays."""
    people = {name.partition("-")[0]: state for name, state in found.items()}
    assert len(people) == len(found), sorted(found)
    return people


@pytest.mark.slow
async def test_merges_of_a_history_end_in_the_states_of_customers_with_one_id(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    simulated = list(itertools.islice(simulate(5, 40, START), 8_000))
    regulars = {name for name, _ in Counter(row.customer_id for row in simulated).most_common(40)}
    rows = [row for row in simulated if row.customer_id in regulars]
    end = max(row.at_ms for row in rows) + DAY_MS
    dice = random.Random(7)
    one, after, amid = (settings_for(time="event", partitions=3) for _ in range(3))
    for settings in (one, after, amid):
        await topics.create(settings)
    await replay_file(one, rows, tmp_path / "one.csv", end)
    expected = await taken_up(one, end)
    assert len(expected) == 40

    # The merges come when all orders are read: whole lives are exact, too.
    split = with_several_ids(rows)
    await replay_file(after, split, tmp_path / "orders.csv", end)
    assert len(await taken_up(after, end)) > 100
    await replay_file(after, merges_of(rows, lambda: end - dice.randrange(DAY_MS)), tmp_path / "merges.csv")
    found = by_person(await taken_up(after, end))
    assert found.keys() == expected.keys()
    assert {name: replace(state, links=NO_LINKS) for name, state in found.items()} == expected

    # Orders and merges in one file, sent at once: the orders handed on are late by the clocks of their shards.
    both = split + merges_of(rows, lambda: START + dice.randrange(end - START))
    await replay_file(amid, both, tmp_path / "both.csv", end)
    found = by_person(await taken_up(amid, end))
    assert found.keys() == expected.keys()
    for name, state in found.items():
        wanted = expected[name]
        assert (state.frequency, state.monetary, state.last) == (wanted.frequency, wanted.monetary, wanted.last)
