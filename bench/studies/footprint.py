"""The memory that a customer takes in Valkey: `python -m bench.studies.footprint`.

Customers with so many orders are written as a worker writes them, to a Valkey of their own: states, the due index and
the list of customers of eight shards. Counted is the growth of Valkey's memory, its own overhead included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec
import numpy as np
from redis.asyncio import Redis
from rich.console import Console

from bench.harness.deployment import deployment
from bench.studies.memory_replay import GROUP
from segmentation.entries import DAY_MS, Kind, Rules, entry
from segmentation.money import UNITS
from segmentation.rfm import absorb_bytes, with_announcement
from stream.engine.store import ShardStore, Writes
from stream.errors import SegstreamError
from stream.local.stack import Endpoints
from stream.local.valkey_server import ValkeyServer
from stream.settings import Settings
from stream.storage.client import connect
from stream.storage.heads import encode_head, first_head
from stream.storage.keys import ShardKeys

OUT: Final = Path("out/bench-footprint.json")
ORDERS: Final = (1, 10, 20, 50)
SPANS: Final = (360, 730)  # days that the orders lie in: within the window, and beyond it
SHARDS: Final = 8
NOW_MS: Final = 1_790_000_000_000
RULES: Final = Rules()
_AT_ONCE: Final = 500  # customers of a commit


class Footprint(NamedTuple):
    """The bytes of customers with so many orders, on average."""

    span_days: int
    orders: int
    state: float
    in_valkey: float


def a_state(number: int, orders: int, span_days: int, rng: np.random.Generator) -> bytes:
    """Return the state of a customer who has ordered at random instants of the last days, and moved."""
    value: bytes | None = None
    for i, at in enumerate(np.sort(NOW_MS - rng.integers(0, span_days * DAY_MS, orders)).tolist()):
        amount = int(rng.integers(100, 20_000)) * UNITS // 100
        placed = entry(Kind.PLACED, f"event-{number}-{i}", at, order=f"order-{number}-{i}", amount=amount)
        value, _ = absorb_bytes(value, placed, at, RULES)
    return with_announcement(value or b"", segment=3, sequence=4, moved_at=NOW_MS)


async def footprint(redis: Redis, span_days: int, orders: int, customers: int) -> Footprint:
    """Write the customers, and return what each takes."""
    await cast("Any", redis).execute_command("FLUSHALL", "SYNC")
    before, size, rng = await _memory(redis), 0, np.random.default_rng(7)
    for shard in range(SHARDS):
        store, head = (
            ShardStore(redis, ShardKeys(GROUP, "orders", shard), b"bench"),
            first_head("bench", (SHARDS, 1), 0),
        )
        raw = await store.read_head()
        numbers = range(shard, customers, SHARDS)
        for first in range(0, len(numbers), _AT_ONCE):
            states = {
                f"customer-{number:07}".encode(): a_state(number, orders, span_days, rng)
                for number in numbers[first : first + _AT_ONCE]
            }
            size += sum(map(len, states.values()))
            earlier = {key: NOW_MS + int(rng.integers(1, 100 * DAY_MS)) for key in states}
            head = msgspec.structs.replace(head, turn=head.turn + 1, clock=NOW_MS, merge_clock=NOW_MS)
            raw = await store.commit(raw, encode_head(head), Writes(states, created=list(states), earlier=earlier))
    grown = await _memory(redis) - before
    return Footprint(span_days, orders, round(size / customers, 1), round(grown / customers, 1))


async def _memory(redis: Redis) -> int:
    """Return Valkey's memory once it holds still: it lets go of what was flushed in the background."""
    seen = -1
    while (now := cast("int", (await redis.info("memory"))["used_memory"])) != seen:
        seen = now
        await asyncio.sleep(0.2)
    return now


async def measure(settings: Settings, customers: int) -> list[Footprint]:
    """Measure all spans and numbers of orders."""
    async with connect(settings) as redis:
        return [await footprint(redis, span, orders, customers) for span in SPANS for orders in ORDERS]


def table(found: Sequence[Footprint]) -> str:
    """Return the figures as Markdown."""
    rows = [f"| {f.span_days} | {f.orders} | {f.state:,.0f} | {f.in_valkey:,.0f} |" for f in found]
    return "\n".join(["| within days | orders | state, bytes | in Valkey |", "|" + "---:|" * 4, *rows])


def main() -> int:
    """Measure, show and write. Return 1 where Valkey doesn't start, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.footprint", description=__doc__)
    parser.add_argument("--customers", type=int, default=20_000, help="customers of each row (default: 20000)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"file for the results, JSON (default: {OUT})")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="segstream-footprint-") as folder:
            server = ValkeyServer(Path(folder), port=None, report=lambda _: None)
            server.start()
            try:
                settings = deployment(Endpoints("127.0.0.1:1", server.url), "footprint", "orders-footprint")
                found = asyncio.run(measure(settings, arguments.customers))
            finally:
                server.stop()
    except SegstreamError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False)
        return 1
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps([f._asdict() for f in found], indent=2) + "\n", encoding="utf-8")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
