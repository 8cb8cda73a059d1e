"""An independent judge of a run: reads the topics (read_committed) and the states in Redis, and nothing of the engine.

Of the code that it judges it uses one function, `advance_bytes`: states are compared as of their shard's clock.

Each check returns what is wrong, in words; nothing wrong is an empty list.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast

from redis import Redis

from segmentation.rfm import Rules, advance_bytes
from stream.kafka.clients import read_topic
from stream.settings import Settings

SHOWN: Final = 5  # of each kind of violation
RUN_DEPENDENT: Final = {"id", "scored_at"}  # a move's fields that name the group, or tell the wall clock

SALT_MARK: Final = b"salt"  # lies among the tombstones


@dataclass(frozen=True, slots=True)
class ReadRow:
    """One record, as it was read."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class ShardContent:
    """What lies in Redis for one partition."""

    head: dict[str, Any]
    states: dict[bytes, bytes]
    due: dict[bytes, float]
    customers: list[bytes]
    tombstones: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class GroupRun:
    """All that a group has left behind."""

    orders: list[ReadRow]
    moves: list[ReadRow]
    latest: list[ReadRow]
    dead: list[ReadRow]
    heads: list[ReadRow]
    shards: list[ShardContent]

    def told(self) -> list[list[dict[str, Any]]]:
        """The moves of each partition in their order, without what differs from run to run."""
        told: list[list[dict[str, Any]]] = [[] for _ in self.shards]
        for row in self.moves:
            told[row.partition].append({k: v for k, v in move(row).items() if k not in RUN_DEPENDENT})
        return told


def move(row: ReadRow) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(row.value or b"null"))


async def read_run(settings: Settings) -> GroupRun:
    """Read everything, past all proxies; `settings` name the servers themselves."""
    return GroupRun(
        orders=await _rows(settings, settings.orders_topic),
        moves=await _rows(settings, settings.changes_topic),
        latest=await _rows(settings, settings.state_topic),
        dead=await _rows(settings, settings.orders_dead_letters_topic),
        heads=await _rows(settings, settings.heads_topic("scoring")),
        shards=read_shards(settings),
    )


async def _rows(settings: Settings, topic: str) -> list[ReadRow]:
    found = sorted(await read_topic(settings, topic), key=lambda r: (r.partition, r.offset))
    return [ReadRow(r.partition, r.offset, r.key, r.value, dict(r.headers)) for r in found]


def read_shards(settings: Settings) -> list[ShardContent]:
    """Redis as it is. Key names as docs/architecture.md tells them."""
    with Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=30) as redis:
        return [_shard(redis, settings, partition) for partition in range(settings.partitions)]


def _shard(redis: Redis, settings: Settings, partition: int) -> ShardContent:
    tag = f"{{{settings.group}:{settings.orders_topic}:{partition}}}"
    head = cast("bytes | None", redis.get(f"{tag}:head"))
    return ShardContent(
        json.loads(head or b"{}"),
        cast("dict[bytes, bytes]", redis.hgetall(f"{tag}:states")),
        dict(cast("list[tuple[bytes, float]]", redis.zrange(f"{tag}:due", 0, -1, withscores=True))),
        cast("list[bytes]", redis.zrange(f"{tag}:customers", 0, -1)),
        cast("dict[bytes, bytes]", redis.hgetall(f"{tag}:tombstones")),
    )


# ---- one run alone


def violations(run: GroupRun, acknowledged: Iterable[tuple[int, bytes]]) -> list[str]:
    """Whatever a run by itself shows to be wrong. `acknowledged`: (partition, value) of what the shop was told has arrived."""
    return [
        *_input(run, acknowledged),
        *_chains(run.moves),
        *_marks(run.moves),
        *_latest(run),
        *_dead(run),
        *_heads(run),
        *_redis(run),
    ]


def _some(kind: str, wrong: Sequence[Any]) -> list[str]:
    return [f"{kind}: {len(wrong)}, such as {wrong[:SHOWN]}"] if wrong else []


def _input(run: GroupRun, acknowledged: Iterable[tuple[int, bytes]]) -> list[str]:
    there = {(row.partition, row.value) for row in run.orders}
    return _some("acknowledged orders that left the input", [v for v in acknowledged if v not in there])


def _events(run: GroupRun) -> Iterator[tuple[ReadRow, dict[str, Any]]]:
    """The records that are events; the rest is garbage."""
    for row in run.orders:
        with suppress(ValueError):
            event = json.loads(row.value or b"null")
            if isinstance(event, dict) and "type" in event:
                yield row, event


def _chains(moves: Sequence[ReadRow]) -> list[str]:
    """Per customer: sequence 1, 2, 3..., from = to before, one partition, one key; per partition: ids once, time never back."""
    wrong: list[str] = []
    last: dict[str, tuple[int, dict[str, Any]]] = {}
    ids = Counter(move(row)["id"] for row in moves)
    wrong += _some("moves told twice (id)", [i for i, n in ids.items() if n > 1])
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
    return wrong + _some("broken chains", broken)


def _marks(moves: Sequence[ReadRow]) -> list[str]:
    """Per partition: S counts 1, 2, 3...; N, T, M never go back; nor does the time of a move."""
    count: Counter[int] = Counter()
    behind: dict[int, tuple[int, int, int]] = {}
    instants: dict[int, str] = {}
    gaps, back, late = [], [], []
    for row in moves:
        number, n, t, m, _ = row.headers["segstream_mark"].split(b":", 4)
        count[row.partition] += 1
        if int(number) != count[row.partition]:
            gaps.append((row.partition, row.offset, int(number), count[row.partition]))
        now = (int(n), int(t), int(m))
        before = behind.get(row.partition, now)
        if any(new < old for new, old in zip(now, before, strict=True)):
            back.append((row.partition, row.offset, before, now))
        behind[row.partition] = now
        at = move(row)["occurred_at"]
        if at < instants.get(row.partition, at):
            late.append((row.partition, row.offset, instants[row.partition], at))
        instants[row.partition] = at
    return [
        *_some("moves whose number S isn't the next", gaps),
        *_some("offset, clock or model that went back", back),
        *_some("moves before earlier ones", late),
    ]


def _latest(run: GroupRun) -> list[str]:
    """The compacted topic ends with the last move of each customer; with a tombstone for who left all segments."""
    latest = {row.key: row.value for row in run.latest}
    last = {row.key: row.value if move(row)["to"] else None for row in run.moves}
    return _some(
        "customers whose latest record isn't their last move", [k for k, v in last.items() if latest.get(k) != v]
    )


def _dead(run: GroupRun) -> list[str]:
    """Each unusable record once, with its coordinates; no usable one."""
    usable = {(row.partition, row.offset) for row, _ in _events(run)}
    every = {(row.partition, row.offset) for row in run.orders}
    found = Counter(
        (int(row.headers["__connect.errors.partition"]), int(row.headers["__connect.errors.offset"]))
        for row in run.dead
    )
    return [
        *_some("records twice in the dead letters", [at for at, n in found.items() if n > 1]),
        *_some("unusable records that aren't in the dead letters", sorted(every - usable - set(found))),
        *_some("dead letters of usable records", sorted(set(found) & usable)),
    ]


def _heads(run: GroupRun) -> list[str]:
    """The Kafka head of each shard: all moves counted; nothing in it ever goes back."""
    told = Counter(row.partition for row in run.moves)
    wrong: list[Any] = []
    last: dict[int, dict[str, Any]] = {}
    for row in run.heads:
        if row.key != b"head":
            continue
        head = json.loads(row.value or b"null")
        before = last.get(row.partition, head)
        wrong += [
            (row.partition, row.offset, n) for n in ("offset", "count", "clock", "activation") if head[n] < before[n]
        ]
        last[row.partition] = head
    ends = [(p, head["count"], told[p]) for p, head in last.items() if head["count"] != told[p]]
    return [*_some("Kafka heads that went back", wrong), *_some("Kafka heads that count other moves", ends)]


def _redis(run: GroupRun) -> list[str]:
    """Redis has followed to the end; every customer of the input is there, and nobody else."""
    lasting: defaultdict[int, int] = defaultdict(int)
    people: list[set[bytes]] = [set() for _ in run.shards]
    erased: list[set[bytes]] = [set() for _ in run.shards]
    for row, event in _events(run):
        lasting[row.partition] = row.offset + 1
        if row.key and "customer_id" in event:
            (erased if event["type"] == "customer.erased" else people)[row.partition].add(row.key)
    told = Counter(row.partition for row in run.moves)
    wrong = []
    for p, shard in enumerate(run.shards):
        head = shard.head
        if not head or head["offset"] < lasting[p] or head["count"] != told[p] or head["cursor"] is not None:
            wrong.append(f"Redis head of shard {p} isn't at the end ({lasting[p]} records, {told[p]} moves): {head}")
        if missing := people[p] - erased[p] - set(shard.states):
            wrong.append(f"shard {p}: customers without a state: {sorted(missing)[:SHOWN]}")
        if foreign := set(shard.states) - people[p]:
            wrong.append(f"shard {p}: states of nobody: {sorted(foreign)[:SHOWN]}")
        if sorted(shard.states) != shard.customers:
            wrong.append(f"shard {p}: {len(shard.states)} states, but {len(shard.customers)} in the list of customers")
        if lost := set(shard.due) - set(shard.states):
            wrong.append(f"shard {p}: due times of nobody: {sorted(lost)[:SHOWN]}")
    return wrong


# ---- two runs of the same input


def differences(run: GroupRun, calm: GroupRun, rules: Rules) -> list[str]:
    """How a run differs from an undisturbed one of the same input: moves in their order, states and tombstones byte by byte."""
    wrong: list[str] = []
    for p, (ours, theirs) in enumerate(zip(run.told(), calm.told(), strict=True)):
        if ours != theirs:
            at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
            shown = (ours[at], theirs[at]) if at is not None else "one is the other's beginning"
            wrong.append(f"moves of shard {p} differ ({len(ours)} and {len(theirs)}), first at {at}: {shown}")
    return wrong + other_states(run.shards, calm.shards, rules)


def other_states(ours: Sequence[ShardContent], theirs: Sequence[ShardContent], rules: Rules) -> list[str]:
    """How two sets of states differ, byte by byte, once each is brought to its shard's clock.

    A state in Redis is of the instant of its last visit, and a takeover may visit it more often: that says nothing.
    """
    wrong: list[str] = []
    for p, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a.head["clock"] != b.head["clock"]:
            wrong.append(f"clocks of shard {p}: {a.head['clock']} and {b.head['clock']}")
            continue
        for kind in ("states", "tombstones"):
            x, y = (_brought_to(getattr(shard, kind), a.head["clock"], rules) for shard in (a, b))
            # Who is erased and comes back within one turn never got a tombstone: then that run may have no mark of the salt.
            both = x.keys() & y.keys() if kind == "tombstones" else frozenset()
            keys = (x.keys() | y.keys()) - ({SALT_MARK} - both)
            other = sorted(key for key in keys if x.get(key) != y.get(key))
            wrong += _some(f"{kind} of shard {p} that differ", [(key, x.get(key), y.get(key)) for key in other])
    return wrong


def _brought_to(states: dict[bytes, bytes], clock: int, rules: Rules) -> dict[bytes, bytes]:
    return {key: value if key == SALT_MARK else advance_bytes(value, clock, rules) for key, value in states.items()}
