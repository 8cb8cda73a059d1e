"""The cost of one order against its customer's history: `python -m bench.studies.histories`.

Customers with so many entries each get one order more in every turn. A turn is that of a worker without Kafka: the
scoring step's plan, an atomic load from a Valkey of its own, the decision, an atomic commit. Counted are the CPU time
of this process and the bytes that Valkey received and sent.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, cast

import msgspec
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from rich.console import Console

from bench.harness.deployment import deployment
from bench.harness.machine import machine
from bench.harness.model import bench_model
from bench.studies.memory_replay import GROUP, LARGEST_EVENT, MemoryRecord
from segmentation.decisions import CompiledModel
from segmentation.decoder import Reader
from segmentation.entries import DAY_MS, Entry, Kind, Rules, entry
from segmentation.event_text import instant
from segmentation.events import Amount, OrderPlaced, encode
from segmentation.money import UNITS
from segmentation.rfm import CustomerState, pack, settle
from segmentation.scoring import ScoringStep
from segmentation.step import Activation, TurnContext
from stream.engine.store import ShardStore, Writes
from stream.errors import SegstreamError
from stream.local.stack import Endpoints
from stream.local.valkey_server import ValkeyServer
from stream.settings import Settings
from stream.storage.client import connect
from stream.storage.heads import StoreHead, encode_head, first_head
from stream.storage.keys import ShardKeys

OUT: Final = Path("out/bench-histories.json")
HISTORIES: Final = (1, 10, 100, 1_000, 16_384)
NOW_MS: Final = 1_790_000_000_000
RULES: Final = Rules()
TOGETHER: Final = 4  # customers of a turn, in the second half of the table
ROOMY: Final = RULES._replace(cap=2**17)
_CURRENCY: Final = "EUR"
_MOST_DUE: Final = 512
_MINUTE: Final = 60_000
_LONG_ENOUGH_S: Final = 3.0  # of CPU, for one row of the table
_KEYS: Final = ShardKeys(GROUP, "orders", 0)


class History(NamedTuple):
    """How a customer's history goes on."""

    name: str
    spacing: int | None  # ms between two orders; None: so that one leaves the window with each that comes
    rules: Rules

    def apart(self, entries: int) -> int:
        """Return the time between two orders of a customer with so many entries, in ms."""
        return self.spacing or (self.rules.window + self.rules.grace) // entries


COURSES: Final = (
    History("nothing leaves", _MINUTE, ROOMY),
    History("one leaves with each", None, ROOMY),
    History("at the cap", _MINUTE, RULES),
)


class Cost(NamedTuple):
    """The cost of an order, on average."""

    course: str
    entries: int
    customers: int  # of a turn, one order each
    orders: int
    cpu_us: float
    bytes_in: float  # to Redis
    bytes_out: float  # from Redis
    moves: float


@dataclass
class TurnRunner:
    """Runs the turns of one shard, without Kafka."""

    redis: Redis
    rules: Rules
    head: StoreHead = field(default_factory=lambda: first_head("bench", (1, 1), 0))
    raw: bytes | None = None
    moves: int = 0

    def __post_init__(self) -> None:
        reader = Reader(_CURRENCY, "event", 0, 400 * DAY_MS, LARGEST_EVENT)
        self._step = ScoringStep(reader, self.rules)
        self._model = CompiledModel.of(bench_model(), GROUP, {})
        self._store = ShardStore(self.redis, _KEYS, b"bench")

    async def start(self, states: dict[bytes, bytes]) -> None:
        """Put these states into an empty Redis."""
        await self.redis.flushall()
        self.raw = await self._store.read_head()
        await self._commit(Writes(states, created=list(states)), NOW_MS)

    async def turn(self, records: Sequence[MemoryRecord]) -> None:
        """Process the records as one turn of a worker does, without Kafka."""
        assert self.raw is not None
        context = TurnContext(self.head.clock, self.head.clock, Activation(1, ""), self._model)
        plan = self._step.plan(records, 0, context)
        loaded = await self._store.load(self.raw, plan.keys, plan.horizon, _MOST_DUE + 1, self._step.hold)
        turn = self._step.decide(plan, loaded.values, loaded.fired, len(loaded.fired) > _MOST_DUE, context)
        if turn.dead or turn.taken != len(records):
            raise RuntimeError(f"{turn.taken} of {len(records)} orders were taken: {turn.dead[:1]}")
        known = loaded.present(plan.keys)
        created = [key for key in turn.states if key not in known]
        writes = Writes(
            turn.states, held=turn.held, created=created, earlier=turn.earlier, due=turn.due, idle=turn.idle
        )
        await self._commit(writes, turn.clock)
        self.moves += len(turn.outputs)

    async def _commit(self, writes: Writes, clock: int) -> None:
        self.head = msgspec.structs.replace(self.head, turn=self.head.turn + 1, clock=clock, merge_clock=clock)
        self.raw = await self._store.commit(self.raw, encode_head(self.head), writes)


def history(customer: str, entries: int, course: History) -> tuple[bytes, list[Entry]]:
    """Return a customer's key and entries, the last one at NOW_MS."""
    apart = course.apart(entries)
    made = []
    for number in range(entries):
        at = NOW_MS - (entries - 1 - number) * apart
        name = f"{customer}-{number}"
        made.append(entry(Kind.PLACED, name, at, order=name, amount=(20 + number % 30) * UNITS))
    return customer.encode(), made


def records_of(customers: Sequence[str], entries: int, course: History) -> Iterator[list[MemoryRecord]]:
    """Yield the records of one turn after the other: one more order of each customer."""
    offset, turn = 0, 0
    while True:
        turn += 1
        at = NOW_MS + turn * course.apart(entries)
        batch = []
        for customer in customers:
            name = f"{customer}-more-{turn}"
            event = OrderPlaced(
                id=name, customer_id=customer, order_id=name, occurred_at=instant(at), amount=Amount("25.00", _CURRENCY)
            )
            batch.append(MemoryRecord(offset, at, customer.encode(), encode(event)))
            offset += 1
        yield batch


async def cost_of(redis: Redis, course: History, entries: int, customers: int, turns: int, warm_up: int) -> Cost:
    """Measure the turns after the first `warm_up`."""
    names = [f"customer-{number:03}" for number in range(customers)]
    states = {}
    for name in names:
        key, made = history(name, entries, course)
        states[key] = pack(settle(CustomerState(), made, NOW_MS, course.rules))
    shard = TurnRunner(redis, course.rules)
    await shard.start(states)
    batches = records_of(names, entries, course)
    for _ in range(warm_up):
        await shard.turn(next(batches))
    waiting = [next(batches) for _ in range(turns)]  # made before, so that it isn't measured
    moves, before, began = shard.moves, await _traffic(redis), time.process_time()
    orders = 0
    for batch in waiting:
        await shard.turn(batch)
        orders += len(batch)
        if time.process_time() - began > _LONG_ENOUGH_S:
            break
    seconds, after = time.process_time() - began, await _traffic(redis)
    received, sent = ((now - then) / orders for now, then in zip(after, before, strict=True))
    return Cost(
        course=course.name,
        entries=entries,
        customers=customers,
        orders=orders,
        cpu_us=round(seconds / orders * 1e6, 1),
        bytes_in=round(received),
        bytes_out=round(sent),
        moves=(shard.moves - moves) / orders,
    )


async def _traffic(redis: Redis) -> tuple[int, int]:
    info = await redis.info("stats")
    return cast("int", info["total_net_input_bytes"]), cast("int", info["total_net_output_bytes"])


async def measure(
    settings: Settings, histories: Sequence[int], together: int, turns: int, report: Console
) -> list[Cost]:
    """Measure all courses, each with one customer a turn and with several."""
    costs = []
    async with connect(settings) as redis:
        for course in COURSES:
            for entries in histories if course.rules is ROOMY else [course.rules.cap]:
                for customers in (1, together):
                    cost = await cost_of(redis, course, entries, customers, turns, warm_up=8)
                    report.print(
                        f"{cost.course}, {entries:,} entries, {customers} a turn: {cost.cpu_us:,.0f} µs", style="dim"
                    )
                    costs.append(cost)
    return costs


def table(costs: Sequence[Cost], together: int) -> str:
    """Return the figures as Markdown: CPU and bytes of an order, alone in its turn and as one of several."""
    several = f"of {together}: CPU, µs | to Redis | from Redis |"
    lines = [
        f"| course | entries | CPU, µs | to Redis, bytes | from Redis | {several}",
        "|---|" + "---:|" * 7,
    ]
    found = {(cost.course, cost.entries, cost.customers): cost for cost in costs}
    for course, entries in dict.fromkeys((cost.course, cost.entries) for cost in costs):
        cells = []
        for customers in (1, together):
            cost = found[course, entries, customers]
            cells += [f"{cost.cpu_us:,.0f}", f"{cost.bytes_in:,.0f}", f"{cost.bytes_out:,.0f}"]
        lines.append(f"| {course} | {entries:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, show and write. Return 1 where Valkey doesn't start, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.histories", description=__doc__)
    parser.add_argument("--turns", type=int, default=200, help="turns that are measured (default: 200)")
    parser.add_argument(
        "--histories", type=int, nargs="+", default=HISTORIES, metavar="N", help="entries of a customer"
    )
    parser.add_argument(
        "--together", type=int, default=TOGETHER, help=f"customers of a turn beside one (default: {TOGETHER})"
    )
    parser.add_argument("--out", type=Path, default=OUT, help=f"file for the results, JSON (default: {OUT})")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    gc.freeze()  # as a worker does
    gc.set_threshold(100_000, 20, 20)
    try:
        with tempfile.TemporaryDirectory(prefix="segstream-histories-") as folder:
            server = ValkeyServer(Path(folder), port=None, report=lambda _: None)
            server.start()
            try:
                settings = deployment(Endpoints("127.0.0.1:1", server.url), "histories", "orders-histories")
                costs = asyncio.run(
                    measure(settings, arguments.histories, arguments.together, arguments.turns, console)
                )
                with SyncRedis.from_url(server.url) as redis:
                    where = machine(redis)
            finally:
                server.stop()
    except SegstreamError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": where, "costs": [cost._asdict() for cost in costs]}
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(costs, arguments.together))
    return 0


if __name__ == "__main__":
    sys.exit(main())
