"""The model of merges: two shards whose customers are merged, and so talk to each other.

A shard's own protocol is modelled beside it, so a turn is coarse here: one transaction, whole or torn, and then its
write to Redis, which may never come. All that a takeover does is in its steps: follow the outputs, cover a torn turn,
absorb the records one by one. Time is the offset in the shard's input. An order is one bit, a folded one is a count,
which a second package would raise. All orders are folded when they are handed on: the worst that can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

from tests.protocol_model import whole_search
from tests.protocol_model.merge_members import (
    ORDER,
    Member,
    MergeHazards,
    MergeRules,
    Merging,
    ModelRecord,
    counted,
    known_edges,
    remains_of,
    root_of,
    wanted,
)
from tests.protocol_model.whole_search import Result, Violation


class MergeMove(NamedTuple):
    """One move, with the mark of its turn."""

    customer: int
    after: int
    sequence: int
    number: int
    offset: int


class Remains(NamedTuple):
    """The last record of a customer on the compacted topic."""

    place: tuple[int, int]  # (N, S) of its turn's head
    value: Member
    before: Member | None


class MergeRedis(NamedTuple):
    """A shard's part of Redis."""

    offset: int  # R
    number: int  # S: of the last move followed
    members: tuple[Member | None, ...]


class ShardWorld(NamedTuple):
    """A shard: its logs, its Kafka head, its part of Redis."""

    log: tuple[ModelRecord, ...]
    offset: int  # N
    number: int  # S
    outputs: tuple[MergeMove, ...]
    remains: tuple[Remains | None, ...]
    redis: MergeRedis
    sent: int = 0  # records of its producers that have come
    lost: MergeRedis | None = None  # what Redis had when it was lost, at N


class MergeWorld(NamedTuple):
    """One state of everything."""

    shards: tuple[ShardWorld, ShardWorld]
    torn: int  # how many transactions may still be torn
    set_back: bool = False  # Redis was set back, or lost: it happens once
    saved: tuple[int, MergeRedis] | None = None


Step = tuple[str, MergeWorld | Violation]


# Turns


class Sent(NamedTuple):
    """All that one transaction sends."""

    outputs: tuple[MergeMove, ...]
    packages: tuple[tuple[int, ModelRecord], ...]
    remains: tuple[tuple[int, Remains], ...]
    offset: int
    number: int
    redis: MergeRedis | None  # what Redis gets after it


def turns(rules: MergeRules, hazards: MergeHazards, shard: ShardWorld) -> Iterator[Sent]:
    """Yield the turns that the owner may take: of one record or more, or of customers who are due."""
    due = [
        c for c, m in enumerate(shard.redis.members) if m and m.announced != wanted(hazards, c, m) and rules.publish_due
    ]
    left = len(shard.log) - shard.offset
    for size in range(0 if due else 1, min(hazards.batch, left) + 1):
        fold = Merging(rules, hazards, shard.redis.members, replay=False)
        outputs: list[MergeMove] = []
        offset = shard.offset + size
        for c in due:
            _publish(fold, c, outputs, shard.number, offset)
        for at in range(shard.offset, offset):
            fold.take(shard.log[at], at)
            _publish(fold, shard.log[at].customer, outputs, shard.number, offset)
        yield _sent(fold, shard, outputs, offset, shard.number + len(outputs), stored=True)


def _publish(fold: Merging, c: int, outputs: list[MergeMove], number: int, offset: int) -> None:
    member = fold.members[c]
    if member and (after := wanted(fold.hazards, c, member)) != member.announced:
        member = member._replace(announced=after, sequence=member.sequence + 1)
        outputs.append(MergeMove(c, after, member.sequence, number + len(outputs) + 1, offset))
        fold.members[c] = member


def _sent(
    fold: Merging, shard: ShardWorld, outputs: Sequence[MergeMove], offset: int, number: int, *, stored: bool
) -> Sent:
    remains = []
    for c, (before, after) in enumerate(zip(shard.redis.members, fold.members, strict=True)):
        former = remains_of(fold.hazards, c, before, fold.rules)
        now = remains_of(fold.hazards, c, after, fold.rules)
        if now is not None and now != former:
            remains.append((c, Remains((offset, number), now, former if fold.rules.carry_former else None)))
    redis = MergeRedis(offset, number, tuple(fold.members)) if stored else None
    return Sent(tuple(outputs), tuple(fold.packages), tuple(remains), offset, number, redis)


def cover(rules: MergeRules, hazards: MergeHazards, shard: ShardWorld) -> Sent:
    """Return step 4b's transaction. Redis stands at N."""
    torn = shard.outputs[shard.number :]
    fold = Merging(rules, hazards, _patched(hazards, shard.redis.members, torn), replay=True)
    for at in range(shard.offset, torn[-1].offset):
        fold.take(shard.log[at], at)
    if not rules.cover_packages:
        fold.packages = []
    return _sent(fold, shard, (), max(shard.offset, torn[-1].offset), torn[-1].number, stored=False)


def _patched(
    hazards: MergeHazards, members: Sequence[Member | None], outputs: Sequence[MergeMove]
) -> list[Member | None]:
    now = list(members)
    for move in outputs:
        known = now[move.customer] or hazards.nobody()
        now[move.customer] = known._replace(announced=move.after, sequence=move.sequence)
    return now


# The world


def search(rules: MergeRules, hazards: MergeHazards) -> Result:
    """Search all states, breadth first, up to the first violation; then whether each leads to an end."""
    return whole_search.search(
        start(hazards), partial(steps, rules, hazards), partial(_resting, hazards), partial(_wrong_at_rest, hazards)
    )


def start(hazards: MergeHazards) -> MergeWorld:
    """Return the first state: nothing was sent."""
    nobody = (None,) * len(hazards.homes)
    shard = ShardWorld((), 0, 0, (), nobody, MergeRedis(0, 0, nobody))
    return MergeWorld((shard, shard), hazards.torn)


def steps(rules: MergeRules, hazards: MergeHazards, world: MergeWorld) -> Iterator[Step]:
    """Yield everything that can happen next."""
    for p, shard in enumerate(world.shards):
        if shard.sent < len(hazards.sent[p]):
            record = hazards.sent[p][shard.sent]
            sent = shard._replace(log=(*shard.log, record), sent=shard.sent + 1)
            yield f"shard {p} gets {record.kind} {record.what} of {record.customer}", _with(world, p, sent)
        torn = len(shard.outputs) > shard.number
        if shard.redis.number < shard.number:
            patched = _patched(hazards, shard.redis.members, shard.outputs[shard.redis.number : shard.number])
            redis = shard.redis._replace(number=shard.number, members=tuple(patched))
            yield f"shard {p} follows its outputs", _settled(world, p, shard._replace(redis=redis))
        elif shard.redis.offset < shard.offset:
            at = shard.redis.offset
            fold = Merging(rules, hazards, shard.redis.members, replay=True)
            fold.take(shard.log[at], at)
            redis = MergeRedis(at + 1, shard.number, tuple(fold.members))
            yield f"shard {p} absorbs record {at}", _settled(world, p, shard._replace(redis=redis))
        elif torn:
            yield from _committed(rules, world, p, cover(rules, hazards, shard), "covers its torn turn")
        else:
            if wrong := _wrong_remains(hazards, shard):
                yield "the shard is looked at", Violation(wrong)
                return
            for sent_ in turns(rules, hazards, shard):
                text = f"takes records {shard.offset}..{sent_.offset}, hands on {len(sent_.packages)}"
                yield from _committed(rules, world, p, sent_, text)
        yield from _faults(hazards, world, p)


def _committed(rules: MergeRules, world: MergeWorld, p: int, sent: Sent, text: str) -> Iterator[Step]:
    """Yield what may become of a transaction: it is committed, with or without Redis; or a part of it is torn off."""
    before = world.shards[p]
    wrong = _wrong_chain(before, sent.outputs)
    if wrong:
        yield f"shard {p} {text}", Violation(wrong)
        return
    after = _with(world, p, before._replace(lost=None))
    whole = _appended(after, p, sent.outputs, sent.packages, sent.remains)
    headed = whole.shards[p]._replace(offset=sent.offset, number=sent.number)
    if sent.redis is not None:
        yield f"shard {p} {text}", _with(whole, p, headed._replace(redis=sent.redis))
    if not rules.in_transaction:
        whole = _appended(after, p, sent.outputs, (), sent.remains)
    headed = whole.shards[p]._replace(offset=sent.offset, number=sent.number)
    yield f"shard {p} {text}, and dies before Redis", _with(whole, p, headed)
    if not world.torn:
        return
    ways = product(
        range(len(sent.outputs) + 1),
        *(range(sum(to == q for to, _ in sent.packages) + 1) for q in range(2)),
        range(bool(sent.remains) + 1),
    )
    for moves, here, there, left in ways:
        if not (moves or here or there or left):
            continue
        packages = [[x for x in sent.packages if x[0] == q][:n] for q, n in enumerate((here, there))]
        part = _appended(
            after._replace(torn=world.torn - 1), p, sent.outputs[:moves], (*packages[0], *packages[1]),
            sent.remains if left else (),
        )  # fmt: skip
        yield f"shard {p} {text}, torn: {moves} moves, {here}+{there} packages, remains {left}", part


def _appended(
    world: MergeWorld,
    p: int,
    outputs: Sequence[MergeMove],
    packages: Sequence[tuple[int, ModelRecord]],
    remains: Sequence[tuple[int, Remains]],
) -> MergeWorld:
    shard = world.shards[p]
    left = list(shard.remains)
    for c, record in remains:
        left[c] = record
    world = _with(world, p, shard._replace(outputs=(*shard.outputs, *outputs), remains=tuple(left)))
    for to, package in packages:
        world = _with(world, to, world.shards[to]._replace(log=(*world.shards[to].log, package)))
    return world


def _faults(hazards: MergeHazards, world: MergeWorld, p: int) -> Iterator[Step]:
    shard = world.shards[p]
    if world.set_back:
        return
    if hazards.restores:
        if world.saved is None:
            yield f"Redis of shard {p} is saved", world._replace(saved=(p, shard.redis))
        elif world.saved[0] == p and world.saved[1] != shard.redis:
            back = _with(world, p, shard._replace(redis=world.saved[1]))
            yield f"Redis of shard {p} is restored", back._replace(saved=None, set_back=True)
    if hazards.loses:
        place = shard.offset, shard.number
        empty = MergeRedis(0, 0, tuple(r and _as_of(r, place) for r in shard.remains))
        whole = shard.redis.offset == shard.offset and len(shard.outputs) == shard.number == shard.redis.number
        lost = shard._replace(redis=empty, lost=shard.redis if whole else None)
        yield f"Redis of shard {p} is lost, and made anew", _with(world, p, lost)._replace(set_back=True)


def _as_of(record: Remains, place: tuple[int, int]) -> Member | None:
    return record.value if record.place <= place else record.before


def _settled(world: MergeWorld, p: int, shard: ShardWorld) -> MergeWorld | Violation:
    """Return the state after a step of a takeover. Where Redis was lost at N, it must be as before."""
    if shard.lost is not None and shard.redis.offset == shard.offset and shard.redis.number == shard.number:
        if shard.lost != shard.redis:
            return Violation(f"rebuilt: {shard.redis.members} instead of {shard.lost.members}")
        shard = shard._replace(lost=None)
    return _with(world, p, shard)


def _with(world: MergeWorld, p: int, shard: ShardWorld) -> MergeWorld:
    first, second = world.shards
    return world._replace(shards=(shard, second) if p == 0 else (first, shard))


# What is checked


def _wrong_chain(shard: ShardWorld, outputs: Sequence[MergeMove]) -> str | None:
    last = {move.customer: move for move in shard.outputs}
    for move in outputs:
        before = last.get(move.customer)
        if move.sequence != (before.sequence if before else 0) + 1 or move.after == (before.after if before else 0):
            return f"chain: {move} after {before}"
        last[move.customer] = move
    return None


def _wrong_remains(hazards: MergeHazards, shard: ShardWorld) -> str | None:
    """Return what the compacted topic lacks of a shard whose Redis stands at N."""
    for c, (member, record) in enumerate(zip(shard.redis.members, shard.remains, strict=True)):
        want, place = remains_of(hazards, c, member, MergeRules()), (shard.offset, shard.number)
        found = record and _as_of(record, place)
        if want != found:
            return f"remains: of customer {c} there is {found}, instead of {want}"
    return None


def _resting(hazards: MergeHazards, world: MergeWorld) -> bool:
    return all(
        shard.sent == len(sent)
        and shard.redis.offset == shard.offset == len(shard.log)
        and shard.redis.number == shard.number == len(shard.outputs)
        and all(m is None or m.announced == wanted(hazards, c, m) for c, m in enumerate(shard.redis.members))
        for shard, sent in zip(world.shards, hazards.sent, strict=True)
    )


def _wrong_at_rest(hazards: MergeHazards, world: MergeWorld) -> str | None:
    """Return what is wrong in a state at rest."""
    everything = (1 << len(hazards.edges)) - 1
    want = [[0] * hazards.orders for _ in hazards.homes]
    for record in (*hazards.sent[0], *hazards.sent[1]):
        if record.kind == ORDER:
            want[root_of(hazards.edges, everything, record.customer)][record.what] = 1
    for c, home in enumerate(hazards.homes):
        member = world.shards[home].redis.members[c] or hazards.nobody()
        if counted(member) != tuple(want[c]):
            return f"counted: customer {c} has {counted(member)} of {want[c]}"
        root = root_of(hazards.edges, everything, c)
        mine = sum(1 << at for at, e in enumerate(hazards.edges) if root_of(hazards.edges, everything, e[0]) == c)
        if root == c and known_edges(member.learned) != mine:
            return f"edges: customer {c} knows {known_edges(member.learned):b} of {mine:b}"
        if member.announced != int(any(want[c])):
            return f"announced: customer {c} is in segment {member.announced}"
    return None
