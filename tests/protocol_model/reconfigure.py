"""The model of changed settings: one shard, workers under old and new settings, and `segstream reconfigure`.

The shard's own protocol is modelled beside it, so takeovers and turns are coarse here: a takeover has the producer's
start, then the heads with all that follows from them, then one step for each state that is emptied and each record
that is read again; a turn is one record or one customer of a rescore, in Kafka and then in Redis. The command's steps
are those of stream/repair/reconfigure.py, the following of a change that of stream/engine/agreement.py.

Settings are three numbers, one for each way of going over: `window` (states are read again), `dwell` (customers are
rescored), `limit` (records are judged). A state is the records in it, each with the window that it was merged under: so
a state of two windows is seen. A segment is all that decides it, so each change of anything moves its customer.

Left out: a group's first start, models, backfills, torn transactions, and inputs that have lost records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from tests.protocol_model import whole_search
from tests.protocol_model.whole_search import Result, Violation

LOG: Final = ((0, 0), (1, 1), (0, 1))  # (customer, the least limit under which the record counts)
DELIVERED: Final = 2  # of them, when all begins
CUSTOMERS: Final = 2

COMMAND: Final = "command"
WORKERS: Final = ("a worker", "another worker")


class ModelSettings(NamedTuple):
    """The settings that must agree."""

    window: int = 0
    dwell: int = 0
    limit: int = 0


Segment = tuple[int, int, int]  # records, window, dwell


class HeldCustomer(NamedTuple):
    """A customer's state in Redis."""

    orders: tuple[tuple[int, int], ...] = ()  # (record, window that it was merged under)
    segment: Segment | None = None  # of the last move
    sequence: int = 0
    due: tuple[int, int] | None = None  # the due index's entry: by this dwell, after this move; None: there is none


class KafkaSide(NamedTuple):
    """The shard's logs, the last head, and who holds the transactional id."""

    offset: int = DELIVERED  # N
    agreed: ModelSettings | None = None  # None: an earlier version wrote the head
    judged: tuple[tuple[int, int], ...] = ()  # (until, limit)
    changes: int = 0
    reread: int = 0
    cursor: int | None = None
    moves: tuple[tuple[int, int, Segment], ...] = ((0, 1, (1, 0, 0)),)  # customer, sequence, segment
    holder: str = ""


class RedisSide(NamedTuple):
    """The shard in Redis. Two owners' writes differ by the token; one owner's by what it has written."""

    offset: int = DELIVERED  # R
    number: int = 1  # S
    agreed: ModelSettings | None = None
    changes: int = 0
    cursor: int | None = None
    stripped: int | None = None  # customers that are emptied; None: no emptying is under way
    token: str = ""
    customers: tuple[HeldCustomer, ...] = (
        HeldCustomer(((0, 0),), (1, 0, 0), 1, (0, 1)),
        *[HeldCustomer()] * (CUSTOMERS - 1),
    )


class Holder(NamedTuple):
    """A process on the shard: a worker, or the command."""

    settings: ModelSettings  # of the command: those that it takes the shard over under
    phase: str  # opening, following, owning, turned; of the command also looked
    last: RedisSide | None = None  # Redis, as it wrote it last
    target: KafkaSide | None = None  # Kafka's head, as the takeover found it
    after: RedisSide | None = None  # what it is about to write
    emptied: int = 0  # by a takeover that doesn't note it (a mutant)


class SettingsWorld(NamedTuple):
    """One state of everything."""

    kafka: KafkaSide
    redis: RedisSide
    owners: tuple[Holder | None, ...] = (None,) * len(WORKERS)
    command: Holder | None = None
    done: int = 0  # changes that are in Kafka
    by: tuple[int, ...] = (
        0,
    ) * DELIVERED  # the limit by which each delivered record is to count: nobody reads this but the check
    backup: RedisSide | None = None
    restored: bool = False


@dataclass(frozen=True, slots=True)
class ReconfigureRules:
    """The ingredients. Each mutant lacks one."""

    compare: bool = True  # a takeover compares the worker's settings with the heads
    kafka_decides: bool = True  # the settings that hold are those of Kafka's head, not of Redis'
    fenced: bool = True  # the command reads the head that it changes once it holds the shard
    note_emptied: bool = True  # Redis' head says how far states are emptied, and the settings only after that
    keep_moves: bool = True  # a state that is emptied keeps its customer's last move
    note_judged: bool = True  # Kafka's head says up to where records were judged by other settings
    rescore: bool = True  # a change that moves depend on begins a rescore
    count: bool = True  # both heads count the changes
    reread: bool = True  # Kafka's head says after which change all was read again


@dataclass(frozen=True, slots=True)
class Change:
    """One world: the changes, one after the other, and what may happen to Redis."""

    wanted: tuple[ModelSettings, ...]
    saved: bool = False  # a backup of Redis was made before all this, and is restored at some time
    restore: bool = False  # the backup is made at some time
    earlier_version: bool = False  # the heads, the backup's too, are of a version that knew no settings
    former_worker: bool = True  # a worker under the first settings runs, or is started late


Step = tuple[str, SettingsWorld | Violation]  # (what happens, the state after it; or the broken promise)


def search(rules: ReconfigureRules, change: Change) -> Result:
    """Search all states, breadth first, up to the first violation; then whether each leads to an end."""
    return whole_search.search(
        start(change), partial(steps, rules, change), partial(_resting, change), partial(_wrong_at_rest, change)
    )


def start(change: Change) -> SettingsWorld:
    """Return the first state: a customer has moved, and another one's order didn't count."""
    agreed = None if change.earlier_version else ModelSettings()
    redis = RedisSide(agreed=agreed)
    return SettingsWorld(KafkaSide(agreed=agreed), redis, backup=redis if change.saved else None)


def steps(rules: ReconfigureRules, change: Change, world: SettingsWorld) -> Iterator[Step]:
    """Yield everything that can happen next."""
    for at in range(len(WORKERS)):
        yield from _worker(rules, change, world, at)
    yield from _command(rules, change, world)
    if world.backup is not None:
        yield "Redis is restored", world._replace(redis=world.backup, backup=None, restored=True)
    elif change.restore and not world.restored:
        yield "Redis is saved", world._replace(backup=world.redis)


def _held(kafka: KafkaSide, redis: RedisSide, rules: ReconfigureRules) -> ModelSettings:
    """Return the settings that the shard is under. Where no head has any, the group has those of its first worker."""
    first, second = (kafka.agreed, redis.agreed) if rules.kafka_decides else (redis.agreed, kafka.agreed)
    return first or second or ModelSettings()


# Workers


def _worker(rules: ReconfigureRules, change: Change, world: SettingsWorld, at: int) -> Iterator[Step]:
    """The first worker has the first settings for ever; the other one has those that are wanted."""
    name, owner = WORKERS[at], world.owners[at]
    if owner is None and at == 0 and not change.former_worker:
        return
    if owner is None:
        for settings in dict.fromkeys([ModelSettings()] if at == 0 else change.wanted):
            opened = world._replace(kafka=world.kafka._replace(holder=name))
            yield f"{name} with {tuple(settings)} starts", _put(opened, at, Holder(settings, "opening"))
        return
    yield f"{name} dies", _put(world, at, None)
    if owner.phase == "opening":
        if world.kafka.holder == name and (not rules.compare or owner.settings == _held(*world[:2], rules)):
            yield from _take_over(rules, world, at, owner)
    elif world.redis != owner.last:
        return  # it can only find that it has lost the shard, and die
    elif owner.phase == "following":
        yield from _follow_on(rules, world, at, owner)
    elif owner.phase == "turned":
        assert owner.after is not None
        after = world._replace(redis=owner.after)
        yield f"{name} writes its turn to Redis", _put(after, at, _next(owner, "owning", owner.after))
    elif world.kafka.holder == name:
        yield from _turn(world, at, owner)


def _put(world: SettingsWorld, at: int, owner: Holder | None) -> SettingsWorld:
    return world._replace(owners=(*world.owners[:at], owner, *world.owners[at + 1 :]))


def _next(owner: Holder, phase: str, redis: RedisSide) -> Holder:
    return owner._replace(phase=phase, last=redis, after=None)


def _take_over(rules: ReconfigureRules, world: SettingsWorld, at: int, owner: Holder) -> Iterator[Step]:
    name, kafka, redis = WORKERS[at], world.kafka, world.redis
    if redis.offset > kafka.offset:
        yield f"{name} takes the shard over", Violation("stopped: Redis is ahead of Kafka")
        return
    redis = _followed(rules, kafka, redis, owner.settings)._replace(token=name)
    owner = Holder(owner.settings, "following", redis, kafka)
    yield f"{name} takes the shard over", _put(world._replace(redis=redis), at, owner)


def _followed(rules: ReconfigureRules, kafka: KafkaSide, redis: RedisSide, settings: ModelSettings) -> RedisSide:
    """Perform steps 4 and 5: the published moves; and the settings, where the states may stay."""
    for customer, sequence, segment in kafka.moves[redis.number :]:
        redis = _with(redis, customer, redis.customers[customer]._replace(segment=segment, sequence=sequence))
    redis = redis._replace(number=len(kafka.moves))
    way = _way(rules, kafka, redis, settings)
    if way == "read again":
        return redis
    redis = redis._replace(agreed=settings, changes=kafka.changes)
    rescored = way == "rescore" or (redis.cursor is None and kafka.cursor is not None)
    return redis._replace(cursor=0) if rescored and rules.rescore else redis


def _way(rules: ReconfigureRules, kafka: KafkaSide, redis: RedisSide, settings: ModelSettings) -> str | None:
    """Return how Redis follows the changes that it hasn't seen."""
    if redis.stripped is not None or (rules.count and rules.reread and redis.changes < kafka.reread):
        return "read again"
    missed = kafka.changes - redis.changes if rules.count else 0
    if redis.agreed is None:
        return "rescore" if missed else None
    way = _between(redis.agreed, settings)
    return "rescore" if missed > 1 and way != "read again" else way


def _between(held: ModelSettings, wanted: ModelSettings) -> str | None:
    if held.window != wanted.window:
        return "read again"
    if held.dwell != wanted.dwell:
        return "rescore"
    return None if held == wanted else "adopt"


def _with(redis: RedisSide, at: int, customer: HeldCustomer) -> RedisSide:
    return redis._replace(customers=(*redis.customers[:at], customer, *redis.customers[at + 1 :]))


def _follow_on(rules: ReconfigureRules, world: SettingsWorld, at: int, owner: Holder) -> Iterator[Step]:
    """Perform one part of steps 5b and 6: empty a state, or absorb a record. The fence isn't asked for."""
    name, redis, kafka = WORKERS[at], world.redis, owner.target
    assert kafka is not None
    if _way(rules, kafka, redis, owner.settings) == "read again" or owner.emptied:
        number = owner.emptied or redis.stripped or 0
        redis, emptied = _emptied(rules, kafka, redis, owner.settings, number)
        text = f"{name} empties customer {number}"
    elif redis.offset < kafka.offset:
        customer, least = LOG[redis.offset]
        limit = next((limit for until, limit in kafka.judged if redis.offset < until), owner.settings.limit)
        found, emptied = redis.customers[customer], 0
        if least <= limit:
            merged = (*found.orders, (redis.offset, owner.settings.window))
            due = owner.settings.dwell, found.sequence
            redis = _with(redis, customer, found._replace(orders=merged, due=due))
        text = f"{name} absorbs record {redis.offset}"
        redis = redis._replace(offset=redis.offset + 1)
    else:
        yield f"{name} has caught up", _put(world, at, _next(owner, "owning", redis))
        return
    owner = _next(owner, "following", redis)._replace(emptied=emptied)
    yield text, _put(world._replace(redis=redis), at, owner)


def _emptied(
    rules: ReconfigureRules, kafka: KafkaSide, redis: RedisSide, settings: ModelSettings, number: int
) -> tuple[RedisSide, int]:
    """Return (Redis without this customer's orders, how many are emptied, where only the owner knows it)."""
    found = redis.customers[number]
    bare = HeldCustomer((), found.segment, found.sequence) if rules.keep_moves else HeldCustomer()
    redis, last = _with(redis, number, bare), number + 1 == CUSTOMERS
    if last:
        redis = redis._replace(agreed=settings, changes=kafka.changes, offset=0, cursor=0, stripped=None)
    elif rules.note_emptied:
        redis = redis._replace(agreed=settings, stripped=number + 1)
    else:
        redis = redis._replace(agreed=settings, changes=kafka.changes)
    return redis, 0 if last or rules.note_emptied else number + 1


def _turn(world: SettingsWorld, at: int, owner: Holder) -> Iterator[Step]:
    """Take one customer of the rescore, or one record: the first half of the turn, which ends with Kafka's commit."""
    kafka, redis, settings = world.kafka, world.redis, owner.settings
    target = owner.target
    assert target is not None
    if redis.cursor is not None:
        number, text = redis.cursor, f"{WORKERS[at]} rescores customer {redis.cursor}"
        cursor = None if number + 1 == CUSTOMERS else number + 1
        found = redis.customers[number]
        redis = redis._replace(cursor=cursor)
    elif redis.offset < len(LOG):
        (number, least), text = LOG[redis.offset], f"{WORKERS[at]} takes record {redis.offset}"
        found = redis.customers[number]
        if least <= settings.limit:
            found = found._replace(orders=(*found.orders, (redis.offset, settings.window)))
        world = world._replace(by=(*world.by[: redis.offset], settings.limit))
        redis = redis._replace(offset=redis.offset + 1)
    else:
        return
    if (kafka.agreed or ModelSettings()) != settings:
        yield text, Violation(f"judged: under {tuple(settings)}, and the head names {kafka.agreed}")
        return
    segment, moves = (len(found.orders), settings.window, settings.dwell), kafka.moves
    if found.orders or found.segment:
        if segment != found.segment:
            last = max((sequence for customer, sequence, _ in moves if customer == number), default=0)
            if found.sequence != last:
                yield text, Violation(f"chain: move {found.sequence + 1} of customer {number} after {last}")
                return
            moves = (*moves, (number, last + 1, segment))
            found = found._replace(segment=segment, sequence=last + 1)
        found = found._replace(due=(settings.dwell, found.sequence))
    redis = _with(redis, number, found)._replace(number=len(moves))
    if redis.offset < kafka.offset:
        yield text, Violation(f"back: from offset {kafka.offset} to {redis.offset}")
        return
    kafka = kafka._replace(
        offset=redis.offset, agreed=settings, judged=target.judged, changes=redis.changes, reread=target.reread,
        cursor=redis.cursor, moves=moves,
    )  # fmt: skip
    yield text, _put(world._replace(kafka=kafka), at, owner._replace(phase="turned", last=world.redis, after=redis))


# The command


def _command(rules: ReconfigureRules, change: Change, world: SettingsWorld) -> Iterator[Step]:
    """It looks, takes the shard over under the settings that hold, and commits a head."""
    command, kafka = world.command, world.kafka
    if command is None:
        if world.done < len(change.wanted):
            looked = Holder(_held(kafka, world.redis, rules), "looked", target=kafka)
            yield "the command looks", world._replace(command=looked)
        return
    yield "the command dies", world._replace(command=None)
    if not rules.fenced:
        yield _changed(rules, change, world, command)
    elif command.phase == "looked":
        opened = world._replace(kafka=kafka._replace(holder=COMMAND), command=command._replace(phase="opening"))
        yield "the command opens the shard", opened
    elif kafka.holder != COMMAND:
        yield "the command is fenced", world._replace(command=command._replace(phase="looked"))
    elif command.phase == "opening":
        if command.settings != _held(kafka, world.redis, rules) or world.redis.offset > kafka.offset:
            return
        redis = _followed(rules, kafka, world.redis, command.settings)._replace(token=COMMAND)
        owner = command._replace(phase="owning", last=redis, target=kafka)
        yield "the command takes the shard over", world._replace(redis=redis, command=owner)
    else:
        yield _changed(rules, change, world, command)


def _changed(rules: ReconfigureRules, change: Change, world: SettingsWorld, command: Holder) -> Step:
    """Commit the head with other settings."""
    kafka, held, wanted = command.target, command.settings, change.wanted[world.done]
    assert kafka is not None
    way, by = _between(held, wanted), world.by
    judged = (*kafka.judged, (kafka.offset, held.limit)) if rules.note_judged else ()
    number, reread = kafka.changes + 1, kafka.reread
    if way == "read again":
        judged, reread, by = (), number, (wanted.limit,) * kafka.offset
    text = f"the command changes the settings to {tuple(wanted)}"
    if kafka.offset < world.kafka.offset:
        return text, Violation(f"back: from offset {world.kafka.offset} to {kafka.offset}")
    rescored = rules.rescore and way != "adopt"
    after = world.kafka._replace(
        offset=kafka.offset, agreed=wanted, judged=judged, changes=number, reread=reread,
        cursor=0 if rescored else kafka.cursor,
    )  # fmt: skip
    return text, world._replace(kafka=after, command=None, done=world.done + 1, by=by)


# What is checked


def _resting(change: Change, world: SettingsWorld) -> bool:
    """Return whether all changes are made and followed, and every record is delivered, in Redis too."""
    kafka, redis = world.kafka, world.redis
    return (
        world.done == len(change.wanted)
        and world.command is None
        and kafka.offset == len(LOG) == redis.offset
        and kafka.cursor is redis.cursor is redis.stripped is None
        and redis.number == len(kafka.moves)
        and any(
            owner and owner.phase == "owning" and owner.last == redis and kafka.holder == name
            for owner, name in zip(world.owners, WORKERS, strict=True)
        )
    )


def _wrong_at_rest(change: Change, world: SettingsWorld) -> str | None:
    """Return what differs from a fresh replay under the settings that hold."""
    settings = change.wanted[-1]
    if world.kafka.agreed != settings or world.redis.agreed != settings:
        return f"settings: the heads name {world.kafka.agreed} and {world.redis.agreed}"
    if world.redis.changes != world.kafka.changes:
        return f"settings: the heads count {world.kafka.changes} and {world.redis.changes} changes"
    for number, found in enumerate(world.redis.customers):
        counted = [
            offset for offset, (customer, least) in enumerate(LOG) if customer == number and least <= world.by[offset]
        ]
        if found.orders != (orders := tuple((offset, settings.window) for offset in counted)):
            return f"states: customer {number} has the records {found.orders}, a fresh replay {orders}"
        if not (orders or found.segment):
            continue
        if found.segment != (segment := (len(orders), settings.window, settings.dwell)):
            return f"moves: customer {number} is in {found.segment}, not in {segment}"
        if found.due != (settings.dwell, found.sequence):
            return f"due: customer {number} is looked at by (dwell, move) {found.due}, after move {found.sequence}"
    return None
