"""Customers whom time alone will move, put into Redis as the engine would hold them, each due at a chosen instant.

A million orders through Kafka would take minutes, and leave the instants to chance. Instead, the engine's own functions
make a few customers, order by order; all others are copies of these, shifted in time. Recency is a difference, so a
shifted customer waits as long.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from redis import Redis

from bench.harness.errors import BenchError
from bench.harness.model import bench_model
from segmentation.decisions import CompiledModel, ScoreRequest, ScoringContext, score, search
from segmentation.entries import DAY_MS, NONE, Kind, Rules, entry, keys_of, kinds_of, times_of
from segmentation.money import UNITS
from segmentation.partitioners import murmur2
from segmentation.rfm import absorb_bytes, announcement, headers
from segmentation.state_bytes import column, layout, put_column
from segmentation.step import NEVER_DUE
from stream.settings import Settings
from stream.storage.heads import StoreHead
from stream.storage.keys import ShardKeys, status_key
from stream.storage.reads import parse_head, read_head

REFERENCE_MS: Final = 1_700_000_000_000  # the patterns' last order
# Each pattern's number of orders and their amount: from three segments into three others, after 6 to 31 days.
ORDERS: Final = ((1, 40), (3, 80), (5, 120), (4, 390))
_BETWEEN_MS: Final = 60_000  # between two orders of a pattern: time alone moves nobody so soon
_BLOCK: Final = 16_384
_MOVING: Final = ("moved_at", "last", "first", "newest", "next_change", "life_first")  # instants in a state's header
_NAME: Final = b"c%010d"
_TAKEOVER_S: Final = 60.0
_POLL_S: Final = 0.5
# Puts the present counts into a head (stream/storage/heads.py), and returns it.
_COUNT: Final = """
local head = redis.call('GET', KEYS[1])
if not head then return head end
local found = {
  redis.call('HLEN', KEYS[2]), redis.call('ZCARD', KEYS[4]), redis.call('ZCARD', KEYS[3]), redis.call('HLEN', KEYS[5])
}
head = string.gsub(head, '"stored":%b[]}$', '"stored":[' .. table.concat(found, ',') .. ']}')
redis.call('SET', KEYS[1], head)
return head
"""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One customer; all others of its kind are copies, shifted in time."""

    value: bytes  # the state, with the last order at REFERENCE_MS
    wait_ms: int  # from the last order to the first move by silence
    source: str
    target: str
    target_id: int
    sequence: int  # of that move


@dataclass(frozen=True, slots=True)
class Cohort:
    """Customers `first`, `first` + 1, …, each due at an instant (ms)."""

    first: int
    due_ms: NDArray[np.int64]

    @property
    def names(self) -> list[bytes]:
        """The customers' keys."""
        return [name_of(number) for number in range(self.first, self.first + self.due_ms.size)]


def name_of(number: int) -> bytes:
    """Return a customer's key.

    >>> name_of(42), number_of("c0000000042")
    (b'c0000000042', 42)
    """
    return _NAME % number


def number_of(name: str) -> int:
    """Return the customer's number. Raises ValueError where it isn't a seeded one."""
    return int(name.removeprefix("c"))


def patterns(rules: Rules) -> list[Pattern]:
    """Make all patterns with the engine's own functions. Raises BenchError where the search and the scorer disagree."""
    model = CompiledModel.of(bench_model(), "bench", {})
    return [_pattern(model, rules, orders, amount) for orders, amount in ORDERS]


def _pattern(model: CompiledModel, rules: Rules, orders: int, amount: int) -> Pattern:
    scoring, key = ScoringContext.of(model, 1, rules), b"pattern"
    value: bytes | None = None
    due, target = NEVER_DUE, 0
    for number in range(orders):
        at = REFERENCE_MS - (orders - 1 - number) * _BETWEEN_MS
        placed = entry(Kind.PLACED, f"event-{number}", at, order=f"order-{number}", amount=amount * UNITS)
        value, _ = absorb_bytes(value, placed, at, rules)
        for move in score([ScoreRequest(key, value, None, at, (number, 1, at, key))], scoring).moves:
            value = move.value
        (due,), (target,), _ = search([value], [at + 1], scoring)
        if due <= at + _BETWEEN_MS:
            raise BenchError(f"{orders} orders of {amount}: time moves the customer between two of them.")
    assert value is not None
    if due == NEVER_DUE or not _first_by_the_scorer(model, value, due, target):
        raise BenchError(
            f"{orders} orders of {amount}: the search gives {due} as due, the scorer another instant.",
            hint="Choose other orders, or fix the search.",
        )
    segment, sequence, _ = announcement(value)
    names = {s.id: s.name for s in bench_model().segments}
    return Pattern(value, due - REFERENCE_MS, names[segment], names[target], target, sequence + 1)


def _first_by_the_scorer(model: CompiledModel, value: bytes, due: int, target: int) -> bool:
    """Return whether the scorer moves the customer at `due` to `target` (a segment's id), and not 1 ms before."""
    scorer, head = model.scorer, headers([value])
    source, rest = scorer.index_from_ids(head["segment"]), scorer.rest_of(head)
    found = [int(scorer.decide(source, np.array([at]), head["last"], rest)[0]) for at in (due - 1, due)]
    return found == [int(source[0]), scorer.index_of[target]] and announcement(value)[0] != target


def shifted(pattern: Pattern, due_ms: NDArray[np.int64], numbers: NDArray[np.int64]) -> list[bytes]:
    """Return states of this pattern, each due at its own instant, with hashes of orders and events of its own."""
    one = np.frombuffer(pattern.value, layout(int(headers([pattern.value])["n"][0])))
    states = np.tile(one, due_ms.size)
    by = due_ms - (REFERENCE_MS + pattern.wait_ms)
    head, rows = states["head"], states["rows"]
    for name in (*_MOVING, *(("cut",) if one["head"]["cut"][0] != NONE else ())):
        head[name] += by
    keys = column(rows, "key") + keys_of(by, 0)[:, None]
    put_column(rows, "key", keys)
    days = times_of(keys[:, kinds_of(keys[0]) == Kind.PLACED]) // DAY_MS  # in a pattern all of them stand
    head["life_days"] = 1 + np.count_nonzero(np.diff(days), axis=1)
    for name in ("order", "event"):
        put_column(rows, name, column(rows, name) ^ numbers[:, None])
    made: list[bytes] = states.view(f"V{len(pattern.value)}").tolist()
    return made


def seed(settings: Settings, redis: Redis, cohort: Cohort, made: list[Pattern]) -> None:
    """Put a cohort into its shards as commits would: states, customers and due index. Return when owners work again.

    The owners may be at work. They stop at writes that aren't theirs, until the heads count these too.
    """
    # Make the next customers while Valkey works on the last ones.
    with ThreadPoolExecutor(1) as sender:
        sent: Future[Any] | None = None
        for pipe in _commands(settings, redis, cohort, made):
            if sent:
                sent.result()
            sent = sender.submit(pipe.execute)
        if sent:
            sent.result()
    _let_owners_go_on(settings, redis)


def _let_owners_go_on(settings: Settings, redis: Redis) -> None:
    """Let each head count what its shard holds now, and wait for the takeover that follows.

    Raises BenchError where none follows. Shards without a head have no owner yet.
    """
    shards = [ShardKeys(settings.group, settings.orders_topic, p) for p in range(settings.partitions)]
    waiting = {keys: head.token for keys in shards if (head := _counted_anew(redis, keys)) is not None}
    deadline = time.monotonic() + _TAKEOVER_S
    while waiting:
        if time.monotonic() > deadline:
            raise BenchError(f"{len(waiting)} shards weren't taken over within {_TAKEOVER_S} s.")
        # As `segstream retry` does.
        redis.hdel(status_key(settings.group, settings.orders_topic), *(str(keys.partition) for keys in waiting))
        time.sleep(_POLL_S)
        heads = {keys: read_head(redis, keys) for keys in waiting}
        waiting = {keys: waiting[keys] for keys, head in heads.items() if head and head.token == waiting[keys]}


def _counted_anew(redis: Redis, keys: ShardKeys) -> StoreHead | None:
    raw = cast("bytes | None", redis.eval(_COUNT, 5, *keys.all()))
    return None if raw is None else parse_head(raw, keys.shard)


def _commands(settings: Settings, redis: Redis, cohort: Cohort, made: list[Pattern]) -> Iterator[Any]:
    for begin, end in pairwise([*range(0, cohort.due_ms.size, _BLOCK), cohort.due_ms.size]):
        numbers = np.arange(cohort.first + begin, cohort.first + end)
        rows: list[list[Any]] = [[] for _ in range(settings.partitions)]
        for key, state, due in _customers(numbers, cohort.due_ms[begin:end], made):
            rows[murmur2(key, settings.partitions)].append((key, state, due))
        pipe: Any = redis.pipeline(transaction=False)
        for partition, own in enumerate(rows):
            if not own:
                continue
            keys = ShardKeys(settings.group, settings.orders_topic, partition)
            pipe.execute_command("HSET", keys.states, *(part for key, state, _ in own for part in (key, state)))
            pipe.execute_command("ZADD", keys.customers, *(part for key, _, _ in own for part in (0, key)))
            pipe.execute_command("ZADD", keys.due, *(part for key, _, due in own for part in (due, key)))
        yield pipe


def _customers(
    numbers: NDArray[np.int64], due_ms: NDArray[np.int64], made: list[Pattern]
) -> Iterator[tuple[bytes, bytes, int]]:
    for kind, pattern in enumerate(made):
        own = np.flatnonzero(numbers % len(made) == kind)
        states = shifted(pattern, due_ms[own], numbers[own])
        names = map(name_of, numbers[own].tolist())
        yield from zip(names, states, due_ms[own].tolist(), strict=True)


def not_moved(settings: Settings, redis: Redis, cohort: Cohort, made: list[Pattern]) -> list[str]:
    """Return a text where customers' states don't hold their one move, or their due entries aren't later; else []."""
    wrong = 0
    for begin in range(0, cohort.due_ms.size, _BLOCK):
        due_ms = cohort.due_ms[begin : begin + _BLOCK].tolist()
        rows: list[list[Any]] = [[] for _ in range(settings.partitions)]
        for number, due in enumerate(due_ms, cohort.first + begin):
            rows[murmur2(name_of(number), settings.partitions)].append((number, due))
        for partition, own in enumerate(rows):
            keys = ShardKeys(settings.group, settings.orders_topic, partition)
            names: list[Any] = [name_of(number) for number, _ in own]
            if not names:
                continue
            pipe: Any = redis.pipeline(transaction=False)
            pipe.hmget(keys.states, names)
            pipe.execute_command("ZMSCORE", keys.due, *names)
            states, scores = pipe.execute()
            for (number, due), state, score_ms in zip(own, states, scores, strict=True):
                pattern = made[number % len(made)]
                expected = pattern.target_id, pattern.sequence, due
                later = score_ms is None or float(score_ms) > due
                wrong += state is None or announcement(state) != expected or not later
    return [f"in Redis {wrong:,} customers aren't where their move by silence has put them"] if wrong else []
