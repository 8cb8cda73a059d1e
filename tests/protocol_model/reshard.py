"""The reshard's model: two shards become three, and every state of command, workers, Kafka and Redis on the way.

The shard's own protocol is modelled beside it, so a takeover and a turn are coarse here: a takeover has two steps (the
producer's start; the heads and what follows), a turn too (Kafka; Redis). The command's steps are those of
stream/reshard/command.py. A state of a customer is the number of its orders that were merged, and each merged order is
published as a move: a chain breaks where a shard works on a state that another shard has left behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from tests.protocol_model import whole_search
from tests.protocol_model.whole_search import Result, Violation

OLD: Final = 2
NEW: Final = 3
ROUTES: Final = ((0, 2), (1, 0))  # customer -> (partition of two, of three): one goes to a new shard, one to an old one
ORDERS: Final = (2, 1)  # of each customer; the first is in the log already

FORMER: Final = "worker of two"
LATER: Final = "worker of three"
COMMAND: Final = "command"
ARRIVED: Final = "arrived"  # tokens of a shard that the command is moving
MOVED: Final = "moved"
LAST_TURN: Final = 5  # writes of the command in one shard that are distinguished


class KafkaShard(NamedTuple):
    """A shard's part of Kafka: its input, its head, and who holds its transactional id."""

    log: tuple[int, ...] = ()  # customers, by offset
    offset: int | None = None  # N of the head; None: there is no head
    parts: int = OLD  # partitions, as the head says: NEW in a shard that is sealed or resharded
    holder: str | None = None


Head = tuple[int | None, int, str, int]


class RedisShard(NamedTuple):
    """A shard's part of Redis."""

    parts: int | None = None  # partitions, as the head says; None: there is no head
    offset: int = 0  # R
    token: str = ""  # its owner; or how far the command has moved it
    turn: int = 0  # counts the command's writes
    orders: tuple[int, ...] = (0,) * len(ROUTES)  # customer -> orders merged; 0: no state


Redis = tuple[RedisShard, ...]


class Owner(NamedTuple):
    """A worker on one shard. `turned`: its turn is in Kafka, and not yet in Redis."""

    shard: int
    phase: str  # opening, owning, turned
    head: Head = (None, 0, "", 0)  # the Redis head that it wrote last
    after: RedisShard | None = None  # what it is about to write


class World(NamedTuple):
    """One state of everything."""

    kafka: tuple[KafkaShard, ...]
    redis: Redis
    published: tuple[int, ...]  # moves of each customer
    sent: tuple[int, ...]  # orders of each customer that its producer has sent
    grown: bool = False
    former: Owner | None = None
    later: Owner | None = None
    at: tuple[str, int] | None = None  # the command's next step; None: it doesn't run
    heads: tuple[Head, ...] | None = None  # of Redis, as the command wrote them last
    journal: tuple[int, ...] | None = None  # the sealed offsets, in Kafka
    committed: bool = False  # Kafka's part is done
    done: bool = False
    backup: Redis | None = None
    restored: bool = False
    refused: bool = False  # the command found a Redis that it can't use: `segstream rebuild` is next


@dataclass(frozen=True, slots=True)
class ReshardRules:
    """The ingredients. Each mutant lacks one."""

    seal: bool = True  # a head says that its shard is given up, and a worker of the former count reads it
    guard_new: bool = True  # a shard without any head looks whether the others have the same count
    copy_all_first: bool = True  # no customer is deleted from a former shard before all have been copied
    clean_before_heads: bool = True  # those who left are deleted before the shard can be owned again
    compare_sealed: bool = True  # Redis must stand at the sealed offsets
    compare_heads: bool = True  # each write to Redis compares the head that the command wrote last
    copy_once: bool = True  # nothing is copied once all copies have arrived
    forward: bool = True  # an order that came by the former routing goes on to its customer's shard


@dataclass(frozen=True, slots=True)
class Hazards:
    """The hazards of one world: all of them would be too much for one search."""

    former_worker: bool = False  # one of the former count works on, and may not know yet that the topics grew
    later_worker: bool = True  # one of the new count is started too early
    restore: bool = False  # Redis is saved at some time, and restored at some later one
    late_order: bool = True  # an order comes by the former routing, or by the new one, at any time


Step = tuple[str, World | Violation]  # (what happens, the state after it; or the violation)


def start(hazards: Hazards) -> World:
    """Return the first state: each customer's first order was scored by the shard of the former count."""
    logs: list[tuple[int, ...]] = [(), (), ()]
    orders = [[0] * len(ROUTES) for _ in range(NEW)]
    for customer, (before, _) in enumerate(ROUTES):
        logs[before] += (customer,) * (1 if hazards.late_order else ORDERS[customer])
        orders[before][customer] = 1
    kafka = tuple(KafkaShard(tuple(log), 1 if p < OLD else None) for p, log in enumerate(logs))
    redis = tuple(RedisShard(OLD if p < OLD else None, int(p < OLD), "", 0, tuple(row)) for p, row in enumerate(orders))
    return World(kafka, redis, (1,) * len(ROUTES), (1,) * len(ROUTES) if hazards.late_order else ORDERS)


def search(rules: ReshardRules, hazards: Hazards) -> Result:
    """Search all states, breadth first, up to the first violation; then whether each leads to an end."""
    return whole_search.search(start(hazards), partial(steps, rules, hazards), _resting, _wrong_at_rest)


def steps(rules: ReshardRules, hazards: Hazards, world: World) -> Iterator[Step]:
    """Yield everything that can happen next."""
    yield from _producers(world)
    yield from _workers(rules, hazards, world)
    yield from _command(rules, world)
    if hazards.restore and not world.restored:
        if world.backup is None:
            heads = tuple(_head(shard) for shard in world.redis) if world.at else None
            yield "Redis is saved", world._replace(backup=world.redis, heads=heads)
        else:
            yield "Redis is restored", world._replace(redis=world.backup, backup=None, restored=True)


def _producers(world: World) -> Iterator[Step]:
    """Each sends its last order whenever it likes, by the former routing even after the topics have grown."""
    for customer, routes in enumerate(ROUTES):
        if world.sent[customer] == ORDERS[customer]:
            continue
        for way, partition in zip(("former", "new"), routes, strict=True):
            if way == "new" and not world.grown:
                continue
            text = f"customer {customer} orders, by the {way} routing"
            yield text, _append(world, partition, customer)._replace(sent=_with(world.sent, customer, ORDERS[customer]))


def _append(world: World, partition: int, customer: int) -> World:
    shard = world.kafka[partition]
    return _kafka(world, partition, shard._replace(log=(*shard.log, customer)))


def _kafka(world: World, p: int, shard: KafkaShard) -> World:
    return world._replace(kafka=(*world.kafka[:p], shard, *world.kafka[p + 1 :]))


def _redis(world: World, p: int, shard: RedisShard) -> World:
    return world._replace(redis=(*world.redis[:p], shard, *world.redis[p + 1 :]))


def _with(row: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
    return (*row[:at], value, *row[at + 1 :])


# Workers


def _workers(rules: ReshardRules, hazards: Hazards, world: World) -> Iterator[Step]:
    for name, owner, count in ((FORMER, world.former, OLD), (LATER, world.later, NEW)):
        if owner is None:
            early = hazards.former_worker if count == OLD else hazards.later_worker or world.done
            for p in range(count):
                if (world.grown or count == OLD) and early:
                    opened = _kafka(world, p, world.kafka[p]._replace(holder=name))
                    yield f"a {name} opens shard {p}", _worker(opened, name, Owner(p, "opening"))
            continue
        yield f"the {name} dies", _worker(world, name, None)
        p = owner.shard
        if world.kafka[p].holder != name and owner.phase != "turned":
            continue  # it can only find that it is fenced, and die
        if owner.phase == "opening":
            yield from _take_over(rules, world, name, count, p)
        elif owner.phase == "owning":
            yield from _turn(world, name, count, owner, rules)
        elif owner.after is not None and _head(world.redis[p]) == owner.head:
            after = _redis(world, p, owner.after)
            yield (
                f"the {name} writes shard {p} to Redis",
                _worker(after, name, Owner(p, "owning", _head(owner.after))),
            )


def _worker(world: World, name: str, owner: Owner | None) -> World:
    return world._replace(former=owner) if name == FORMER else world._replace(later=owner)


def _head(shard: RedisShard) -> Head:
    return shard.parts, shard.offset, shard.token, shard.turn


def _take_over(rules: ReshardRules, world: World, name: str, count: int, p: int) -> Iterator[Step]:
    kafka, redis = world.kafka[p], world.redis[p]
    if redis.parts is None:
        others = {shard.parts for shard in world.redis} - {None}
        if kafka.offset is not None or (rules.guard_new and others - {count}):
            return  # quarantined
        redis = RedisShard(count)
    if redis.parts != count or (rules.seal and kafka.offset is not None and kafka.parts != count):
        return  # quarantined
    followed = _follow(redis, kafka, p, count)._replace(token=name)
    if followed.offset > (kafka.offset or 0):
        return  # quarantined
    text = f"the {name} takes shard {p} over"
    yield text, _worker(_redis(world, p, followed), name, Owner(p, "owning", _head(followed)))


def _follow(redis: RedisShard, kafka: KafkaShard, p: int, count: int) -> RedisShard:
    """Merge R..N: what was published before."""
    orders = redis.orders
    for customer in kafka.log[redis.offset : kafka.offset or 0]:
        if orders[customer] or ROUTES[customer][count == NEW] == p:
            orders = _with(orders, customer, orders[customer] + 1)
    return redis._replace(offset=max(redis.offset, kafka.offset or 0), orders=orders)


def _turn(world: World, name: str, count: int, owner: Owner, rules: ReshardRules) -> Iterator[Step]:
    """Take one record: the first half of the turn, which ends with Kafka's commit."""
    p = owner.shard
    kafka, redis = world.kafka[p], world.redis[p]
    offset = kafka.offset or 0
    if _head(redis) != owner.head or offset != redis.offset or offset >= len(kafka.log):
        return
    customer = kafka.log[offset]
    before, after = ROUTES[customer]
    published, orders = world.published, redis.orders
    world = _kafka(world, p, kafka._replace(offset=offset + 1, parts=count))
    if redis.orders[customer] or (after if count == NEW else before) == p:
        text = f"the {name} publishes a move of customer {customer} in shard {p}"
        if orders[customer] != published[customer]:
            yield (
                text,
                Violation(f"chain: move {orders[customer] + 1} of customer {customer} after {published[customer]}"),
            )
            return
        orders = _with(orders, customer, orders[customer] + 1)
        world = world._replace(published=_with(published, customer, published[customer] + 1))
    elif rules.forward and (count == OLD or before == p):
        # A worker of two makes it a dead letter; the operator sends it back, which ends in the same log.
        text = f"the {name} sends an order of customer {customer} on, from shard {p}"
        world = _append(world, after, customer)
    else:
        text = f"the {name} drops an order of customer {customer} in shard {p}"
    written = redis._replace(offset=offset + 1, orders=orders)
    yield text, _worker(world, name, owner._replace(phase="turned", after=written))


# The command


def _command(rules: ReshardRules, world: World) -> Iterator[Step]:
    if world.at is None:
        if not world.done or any(shard.parts != NEW for shard in world.redis):
            if world.refused:
                yield "Redis is rebuilt", _rebuilt(world)
            else:
                yield "the command starts", world._replace(at=("grow", 0))
        return
    yield "the command dies", world._replace(at=None, heads=None)
    name, n = world.at
    yield from STEPS[name](rules, world, n)


def _grow(rules: ReshardRules, world: World, n: int) -> Iterator[Step]:
    del rules, n
    yield "the topics grow", world._replace(grown=True, at=("seal", 0))


def _seal(rules: ReshardRules, world: World, n: int) -> Iterator[Step]:
    """Two steps for each former shard: the producer's start; the takeover with the sealed head."""
    del rules
    p, opened = divmod(n, 2)
    if p == OLD or world.journal is not None:
        yield "the command writes the journal", _journaled(world)
        return
    kafka, redis = world.kafka[p], world.redis[p]
    if not opened:
        yield (
            f"the command opens shard {p}",
            _kafka(world, p, kafka._replace(holder=COMMAND))._replace(at=("seal", n + 1)),
        )
        return
    if kafka.holder != COMMAND:
        yield f"the command is fenced in shard {p}", world._replace(at=("seal", n - 1))
        return
    if redis.parts != OLD or redis.offset > (kafka.offset or 0):
        return
    followed = _follow(redis, kafka, p, OLD)._replace(token=COMMAND)
    world = _kafka(_redis(world, p, followed), p, kafka._replace(parts=NEW))
    yield f"the command seals shard {p}", world._replace(at=("seal", n + 1))


def _journaled(world: World) -> World:
    offsets = tuple(world.kafka[p].offset or 0 for p in range(OLD))
    return world._replace(journal=world.journal or offsets, at=("heads", 0))


def _heads(rules: ReshardRules, world: World, n: int) -> Iterator[Step]:
    """Two steps for each new shard: the producer's start; the head. The others have theirs by the seal."""
    del rules
    if world.committed or n == 2 * (NEW - OLD):
        yield "Kafka's part is committed", world._replace(committed=True, at=("check", 0))
        return
    p, opened = OLD + n // 2, n % 2
    shard = world.kafka[p]
    if not opened:
        opened_ = _kafka(world, p, shard._replace(holder=COMMAND))
        yield f"the command opens shard {p}", opened_._replace(at=("heads", n + 1))
    elif shard.holder != COMMAND:
        yield f"the command is fenced in shard {p}", world._replace(at=("heads", n - 1))
    else:
        written = shard if shard.offset is not None else shard._replace(offset=0, parts=NEW)
        yield f"the command writes the head of shard {p}", _kafka(world, p, written)._replace(at=("heads", n + 1))


def _check(rules: ReshardRules, world: World, n: int) -> Iterator[Step]:
    """Look how far Redis has been moved: every shard says it itself, for a Redis may have been restored."""
    del n
    sealed = world.journal or ()
    if world.backup is not None:  # otherwise nobody else writes, and one head is as good as another
        world = world._replace(heads=tuple(_head(shard) for shard in world.redis))
    waiting = [shard.parts != NEW and shard.token not in {ARRIVED, MOVED} for shard in world.redis]
    begun = any(shard.parts == NEW or shard.token == MOVED for shard in world.redis)
    if not any(waiting) and rules.copy_once:
        yield "the command goes on where all have arrived", world._replace(at=("clean", 0))
    elif rules.compare_sealed and (
        (begun and rules.copy_once)
        or any(world.redis[p].parts != OLD or world.redis[p].offset != sealed[p] for p in range(OLD))
    ):
        yield "the command refuses this Redis", world._replace(at=None, heads=None, refused=True)
    else:
        first = "copy" if rules.clean_before_heads else "heads of redis"
        yield "the command finds Redis at the seals", world._replace(at=(first, 0))


def _written(rules: ReshardRules, world: World, p: int, shard: RedisShard, at: tuple[str, int]) -> World:
    """Return the state after a write to Redis; where another head is there than the last one, back to the check."""
    if world.heads is None:
        return _redis(world, p, shard)._replace(at=at)
    if rules.compare_heads and _head(world.redis[p]) != world.heads[p]:
        return world._replace(at=("check", 0))
    shard = shard._replace(turn=min(shard.turn + 1, LAST_TURN))
    heads = (*world.heads[:p], _head(shard), *world.heads[p + 1 :])
    return _redis(world, p, shard)._replace(heads=heads, at=at)


def _copy(rules: ReshardRules, world: World, n: int) -> Iterator[Step]:
    """Copy each customer, then note in each shard that all its customers have arrived."""
    if n < len(ROUTES):
        before, after = ROUTES[n]
        copied = _customer(world.redis[after], n, world.redis[before].orders[n])
        copied = copied._replace(parts=OLD, token="arriving")
        if not rules.copy_all_first:  # deleted page by page, before all have arrived
            world = _written(rules, world, before, _customer(world.redis[before], n, 0), ("copy", n))
            yield f"the command deletes customer {n}", world._replace(at=None, heads=None)
            if world.at == ("check", 0):
                return
        yield f"the command copies customer {n}", _written(rules, world, after, copied, ("copy", n + 1))
        return
    p = n - len(ROUTES)
    shard = world.redis[p]._replace(parts=OLD, token=ARRIVED)
    after_ = ("copy", n + 1) if p + 1 < NEW else ("clean", 0)
    yield f"all customers of shard {p} have arrived", _written(rules, world, p, shard, after_)


def _customer(shard: RedisShard, customer: int, orders: int) -> RedisShard:
    return shard._replace(orders=_with(shard.orders, customer, orders))


def _clean(rules: ReshardRules, world: World, n: int) -> Iterator[Step]:
    """Delete those who left each shard, then note that it is moved."""
    if n == NEW:
        following = ("heads of redis", 0) if rules.clean_before_heads else ("end", 0)
        yield "all who left are deleted", world._replace(at=following)
        return
    shard, at = world.redis[n], ("clean", n + 1)
    if shard.token == MOVED or (shard.parts == NEW and rules.clean_before_heads):
        yield f"shard {n} was cleaned", world._replace(at=at)
        return
    for customer, (before, _) in enumerate(ROUTES):
        if before == n:
            shard = _customer(shard, customer, 0)
    if rules.clean_before_heads:
        shard = shard._replace(token=MOVED)
    yield f"the command deletes those who left shard {n}", _written(rules, world, n, shard, at)


def _heads_of_redis(rules: ReshardRules, world: World, n: int) -> Iterator[Step]:
    if n == NEW:
        yield "all heads are set", world._replace(at=("end", 0) if rules.clean_before_heads else ("copy", 0))
        return
    assert world.journal is not None
    shard = world.redis[n]
    at = ("heads of redis", n + 1)
    if shard.parts == NEW:
        yield f"shard {n} has its head", world._replace(at=at)
        return
    head = shard._replace(parts=NEW, offset=world.journal[n] if n < OLD else 0, token=COMMAND)
    yield f"the command sets the head of shard {n}", _written(rules, world, n, head, at)


def _end(rules: ReshardRules, world: World, n: int) -> Iterator[Step]:
    del rules, n
    yield "the command is done", world._replace(at=None, heads=None, done=True)


STEPS: Final = {
    "grow": _grow,
    "seal": _seal,
    "heads": _heads,
    "check": _check,
    "copy": _copy,
    "clean": _clean,
    "heads of redis": _heads_of_redis,
    "end": _end,
}


def _rebuilt(world: World) -> World:
    """Return the state after `segstream rebuild`: each record before the seals, merged where its customer lives now."""
    assert world.journal is not None
    rows = [[0] * len(ROUTES) for _ in range(NEW)]
    for p, end in enumerate(world.journal):
        for customer in world.kafka[p].log[:end]:
            if ROUTES[customer][0] == p:
                rows[ROUTES[customer][1]][customer] += 1
    shards = [
        RedisShard(NEW, world.journal[p] if p < OLD else 0, "rebuilt", 0, tuple(row)) for p, row in enumerate(rows)
    ]
    return world._replace(redis=tuple(shards), refused=False)


# What is checked


def _resting(world: World) -> bool:
    """Return whether the reshard is over and every record delivered, in Redis too, with no fault to come."""
    return (
        world.done
        and world.at is None
        and world.sent == ORDERS
        and all(
            kafka.offset == len(kafka.log) == redis.offset
            for kafka, redis in zip(world.kafka, world.redis, strict=True)
        )
        and {shard.parts for shard in world.redis} == {NEW}
    )


def _wrong_at_rest(world: World) -> str | None:
    """Return what is wrong in a state at rest."""
    for customer, (_, shard) in enumerate(ROUTES):
        if world.published[customer] != ORDERS[customer]:
            return f"lost: customer {customer} has {world.published[customer]} moves of {ORDERS[customer]}"
        held = [p for p in range(NEW) if world.redis[p].orders[customer]]
        if held != [shard] or world.redis[shard].orders[customer] != ORDERS[customer]:
            return (
                f"misplaced: customer {customer} is in shards {held}, with {world.redis[shard].orders[customer]} orders"
            )
    return None
