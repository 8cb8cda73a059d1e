"""An independent check of a run: it reads the topics (read_committed) and the states in Redis, nothing of the engine.

Of the code under test it uses one function, `advance_bytes`: states are compared as of their shard's clock.

Each check returns the violations as texts; an empty list means none.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from redis import Redis

from segmentation.rfm import Rules, advance_bytes
from stream.kafka.clients import read_topic
from stream.settings import Settings
from stream.storage.pieces import ends_of
from tests.recovery.rig.unstamped import SALT_MARK, without_stamps

SHOWN: Final = 5  # of each kind of violation
RUN_DEPENDENT: Final = {"id", "scored_at"}  # a move's fields with the group or the wall clock

HANDED_ON: Final = ("customer.merged", "customer.joined", "event.forwarded")  # they add nothing to a person
SEALED: Final = b"\xfe"  # the first byte of remains that name other ids


@dataclass(frozen=True, slots=True)
class ReadRow:
    """One record of a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    timestamp: int = 0  # ms


@dataclass(frozen=True, slots=True)
class ShardContent:
    """The content of Redis for one partition."""

    head: dict[str, Any]
    states: dict[bytes, bytes]
    due: dict[bytes, float]
    customers: list[bytes]
    tombstones: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class GroupRun:
    """The topics and shards of a group after a run."""

    orders: list[ReadRow]
    moves: list[ReadRow]
    latest: list[ReadRow]
    dead: list[ReadRow]
    heads: list[ReadRow]
    shards: list[ShardContent]

    def published(self) -> list[list[dict[str, Any]]]:
        """Return the moves of each partition in order, without the fields that differ from run to run."""
        moves: list[list[dict[str, Any]]] = [[] for _ in self.shards]
        for row in self.moves:
            moves[row.partition].append({k: v for k, v in move(row).items() if k not in RUN_DEPENDENT})
        return moves


def move(row: ReadRow) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(row.value or b"null"))


async def read_run(settings: Settings) -> GroupRun:
    """Read a run, without proxies: `settings` name the servers themselves."""
    return GroupRun(
        orders=await rows_of(settings, settings.orders_topic),
        moves=await rows_of(settings, settings.changes_topic),
        latest=await rows_of(settings, settings.state_topic),
        # Groups that read the same orders share the topic.
        dead=[
            row
            for row in await rows_of(settings, settings.orders_dead_letters_topic)
            if row.headers["segstream_group"] == settings.group.encode()
        ],
        heads=await rows_of(settings, settings.heads_topic("scoring")),
        shards=read_shards(settings),
    )


async def rows_of(settings: Settings, topic: str) -> list[ReadRow]:
    found = sorted(await read_topic(settings, topic), key=lambda r: (r.partition, r.offset))
    return [ReadRow(r.partition, r.offset, r.key, r.value, dict(r.headers), r.timestamp) for r in found]


def read_shards(settings: Settings, topic: str = "") -> list[ShardContent]:
    """Read the shards in Redis, by the key names of docs/architecture.md. `topic`: their input, or else the orders."""
    with Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=30) as redis:
        tags = [f"{{{settings.group}:{topic or settings.orders_topic}:{p}}}" for p in range(settings.partitions)]
        return [_shard(redis, tag) for tag in tags]


def _shard(redis: Redis, tag: str) -> ShardContent:
    head = cast("bytes | None", redis.get(f"{tag}:head"))
    return ShardContent(
        json.loads(head or b"{}"),
        joined(
            cast("dict[bytes, bytes]", redis.hgetall(f"{tag}:states")),
            cast("dict[bytes, bytes]", redis.hgetall(f"{tag}:pieces")),
        ),
        dict(cast("list[tuple[bytes, float]]", redis.zrange(f"{tag}:due", 0, -1, withscores=True))),
        cast("list[bytes]", redis.zrange(f"{tag}:customers", 0, -1)),
        cast("dict[bytes, bytes]", redis.hgetall(f"{tag}:tombstones")),
    )


def joined(states: dict[bytes, bytes], pieces: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return whole states. A piece that belongs to none is among them, as a state that is too many."""
    left = dict(pieces)
    found = {}
    for customer, value in states.items():
        ends = ends_of(value)
        found[customer] = ends.whole([left.pop(name, None) for name in ends.fields(customer)]) if ends else value
    return found | left


def violations(run: GroupRun, acknowledged: Iterable[tuple[int, bytes]], *, event_time: bool = True) -> list[str]:
    """Return the violations of one run. `acknowledged`: (partition, value) of the records that Kafka acknowledged.

    `event_time` False: moves needn't come in the order of their instants, for in wall time slices interleave.
    """
    return [
        *_input(run, acknowledged),
        *_chains(run.moves),
        *marks(run.moves, in_order=event_time),
        *_latest(run),
        *_dead(run),
        *heads(run.heads, run.moves),
        *_redis(run),
    ]


def some(kind: str, wrong: Sequence[Any]) -> list[str]:
    """Return one violation of a kind, with some of its examples; none where nothing is wrong."""
    return [f"{kind}: {len(wrong)}, such as {wrong[:SHOWN]}"] if wrong else []


def _input(run: GroupRun, acknowledged: Iterable[tuple[int, bytes]]) -> list[str]:
    there = {(row.partition, row.value) for row in run.orders}
    return some("acknowledged orders that left the input", [v for v in acknowledged if v not in there])


def _events(run: GroupRun) -> Iterator[tuple[ReadRow, dict[str, Any]]]:
    """Yield the records that are events; the rest is garbage."""
    for row in run.orders:
        with suppress(ValueError):
            event = json.loads(row.value or b"null")
            if isinstance(event, dict) and "type" in event:
                yield row, event


def _chains(moves: Sequence[ReadRow]) -> list[str]:
    """Check the chains of moves.

    For each customer: sequence 1, 2, 3..., `from` is the `to` before, one partition, one key. Each id comes once.
    """
    wrong: list[str] = []
    last: dict[str, tuple[int, dict[str, Any]]] = {}
    ids = Counter(move(row)["id"] for row in moves)
    wrong += some("moves published twice (id)", [i for i, n in ids.items() if n > 1])
    broken = []
    for row in moves:
        now = move(row)
        customer = now["customer_id"]
        partition, before = last.get(customer, (row.partition, None))
        if (
            now["sequence"] != (before["sequence"] + 1 if before else 1)
            or now["from"] != (before["to"] if before else None)
            or now["to"] == now["from"]
            or partition != row.partition
            or row.key != customer.encode()
        ):
            broken.append((row.partition, row.offset, customer, now["sequence"], now["from"], now["to"], before))
        last[customer] = (row.partition, now)
    return wrong + some("broken chains", broken)


def marks(outputs: Sequence[ReadRow], *, in_order: bool) -> list[str]:
    """Check the marks of each partition: S counts 1, 2, 3...; N, T and M never go back. `in_order`: nor does time."""
    count: Counter[int] = Counter()
    behind: dict[int, tuple[int, int, int]] = {}
    instants: dict[int, str] = {}
    gaps, back, late = [], [], []
    for row in outputs:
        number, n, t, m, _ = row.headers["segstream_mark"].split(b":", 4)
        count[row.partition] += 1
        if int(number) != count[row.partition]:
            gaps.append((row.partition, row.offset, int(number), count[row.partition]))
        now = (int(n), int(t), int(m))
        before = behind.get(row.partition, now)
        if any(new < old for new, old in zip(now, before, strict=True)):
            back.append((row.partition, row.offset, before, now))
        behind[row.partition] = now
        at = str(move(row)["occurred_at"]) if in_order else ""
        if in_order and at < instants.get(row.partition, at):
            late.append((row.partition, row.offset, instants[row.partition], at))
        instants[row.partition] = at
    return [
        *some("outputs whose number S isn't the next", gaps),
        *some("offset, clock or model that went back", back),
        *some("outputs before earlier ones", late),
    ]


def _latest(run: GroupRun) -> list[str]:
    """Check the compacted topic: each customer's last move, or a tombstone for a customer in no segment."""
    latest = {row.key: row.value for row in run.latest}
    last = {row.key: row.value if move(row)["to"] else None for row in run.moves}
    return some(
        "customers whose latest record isn't their last move", [k for k, v in last.items() if latest.get(k) != v]
    )


def _dead(run: GroupRun) -> list[str]:
    """Check the dead letters: each unusable record once, with its coordinates, and no usable one."""
    usable = {(row.partition, row.offset) for row, _ in _events(run)}
    every = {(row.partition, row.offset) for row in run.orders}
    found = Counter(
        (int(row.headers["__connect.errors.partition"]), int(row.headers["__connect.errors.offset"]))
        for row in run.dead
    )
    return [
        *some("records twice in the dead letters", [at for at, n in found.items() if n > 1]),
        *some("unusable records that aren't in the dead letters", sorted(every - usable - set(found))),
        *some("dead letters of usable records", sorted(set(found) & usable)),
    ]


def heads(rows: Sequence[ReadRow], outputs: Sequence[ReadRow]) -> list[str]:
    """Check the Kafka heads: they count all outputs, and nothing in them goes back."""
    count = Counter(row.partition for row in outputs)
    wrong: list[Any] = []
    last: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row.key != b"head":
            continue
        head = json.loads(row.value or b"null")
        before = last.get(row.partition, head)
        wrong += [
            (row.partition, row.offset, n) for n in ("offset", "count", "clock", "activation") if head[n] < before[n]
        ]
        last[row.partition] = head
    ends = [(p, head["count"], count[p]) for p, head in last.items() if head["count"] != count[p]]
    return [*some("Kafka heads that went back", wrong), *some("Kafka heads that count other outputs", ends)]


def _redis(run: GroupRun) -> list[str]:
    """Check Redis: it has followed to the end, and has exactly the customers of the input."""
    lasting: defaultdict[int, int] = defaultdict(int)
    people: list[set[bytes]] = [set() for _ in run.shards]
    erased: list[set[bytes]] = [set() for _ in run.shards]
    persons = Persons(run)
    for row, event in _events(run):
        lasting[row.partition] = row.offset + 1
        if row.key and "customer_id" in event and event["type"] not in HANDED_ON:
            p, key = persons.home(row)
            (erased if event["type"] == "customer.erased" else people)[p].add(key)
    moves_of = Counter(row.partition for row in run.moves)
    wrong = []
    for p, shard in enumerate(run.shards):
        head = shard.head
        if not head or head["offset"] < lasting[p] or head["count"] != moves_of[p] or head["cursor"] is not None:
            wrong.append(
                f"Redis head of shard {p} isn't at the end ({lasting[p]} records, {moves_of[p]} moves): {head}"
            )
        if missing := people[p] - erased[p] - set(shard.states):
            wrong.append(f"shard {p}: customers without a state: {sorted(missing)[:SHOWN]}")
        if foreign := set(shard.states) - people[p]:
            wrong.append(f"shard {p}: states of unknown customers: {sorted(foreign)[:SHOWN]}")
        if sorted(shard.states) != shard.customers:
            wrong.append(f"shard {p}: {len(shard.states)} states, but {len(shard.customers)} in the list of customers")
        if lost := set(shard.due) - set(shard.states):
            wrong.append(f"shard {p}: due times of unknown customers: {sorted(lost)[:SHOWN]}")
    return wrong


class Persons:
    """The ids that merges have made one person, and the id that each person goes by."""

    def __init__(self, run: GroupRun) -> None:
        latest: dict[tuple[str, str], int] = {}
        self._homes: dict[str, int] = {}
        for row, event in _events(run):
            if "customer_id" in event and event["type"] not in HANDED_ON:
                self._homes[event["customer_id"]] = row.partition
            if event["type"] == "customer.merged":
                pair = event["from"], event["into"]
                at = int(datetime.fromisoformat(event["occurred_at"]).timestamp() * 1000)
                latest[pair] = max(latest.get(pair, 0), at)
                self._homes[event["from"]] = row.partition
            elif event["type"] == "customer.joined":
                self._homes[event["customer_id"]] = row.partition
        self._roots: dict[str, str] = {}
        for _, giver, into in sorted((at, *pair) for pair, at in latest.items()):
            old, new = self.root(giver), self.root(into)
            if old == new:
                new = into if old == giver else old
            for name in [n for n in {*self._roots, giver, into} if self.root(n) in {old, self.root(into)}]:
                self._roots[name] = new

    def root(self, customer: str) -> str:
        """Return the id that a customer's person goes by."""
        return self._roots.get(customer, customer)

    def home(self, row: ReadRow) -> tuple[int, bytes]:
        """Return (partition, key) of the person that a record is about."""
        assert row.key is not None
        name = row.key.decode()
        root = self.root(name)
        return (row.partition, row.key) if root == name else (self._homes[root], root.encode())


def differences(run: GroupRun, calm: GroupRun, rules: Rules, salt: bytes | None = None) -> list[str]:
    """Compare a run with an undisturbed one of the same input: moves in order, states and tombstones byte by byte.

    Only the stamps of merges may differ (`unstamped`).
    """
    wrong: list[str] = []
    for p, (ours, theirs) in enumerate(zip(run.published(), calm.published(), strict=True)):
        if ours != theirs:
            at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
            shown = (ours[at], theirs[at]) if at is not None else "one is the other's beginning"
            wrong.append(f"moves of shard {p} differ ({len(ours)} and {len(theirs)}), first at {at}: {shown}")
    return wrong + other_states(without_stamps(run, salt), without_stamps(calm, salt), rules)


def other_states(ours: Sequence[ShardContent], theirs: Sequence[ShardContent], rules: Rules) -> list[str]:
    """Compare two sets of states, byte by byte, each advanced to its shard's clock.

    A state in Redis is as of its last change, and a takeover may change it more often: that is no difference.
    """
    wrong: list[str] = []
    for p, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a.head["clock"] != b.head["clock"]:
            wrong.append(f"clocks of shard {p}: {a.head['clock']} and {b.head['clock']}")
            continue
        for kind in ("states", "tombstones"):
            x, y = (_brought_to(getattr(shard, kind), a.head["clock"], rules) for shard in (a, b))
            # A customer erased and back within one turn never got a tombstone: that run may lack the salt's mark.
            both = x.keys() & y.keys() if kind == "tombstones" else frozenset()
            keys = (x.keys() | y.keys()) - ({SALT_MARK} - both)
            other = sorted(key for key in keys if x.get(key) != y.get(key))
            wrong += some(f"{kind} of shard {p} that differ", [(key, x.get(key), y.get(key)) for key in other])
    return wrong


def _brought_to(states: dict[bytes, bytes], clock: int, rules: Rules) -> dict[bytes, bytes]:
    asis = {key for key, value in states.items() if key == SALT_MARK or value.startswith(SEALED)}
    return {key: value if key in asis else advance_bytes(value, clock, rules) for key, value in states.items()}
