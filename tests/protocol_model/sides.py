"""The model of side inputs: one shard, one customer, whose consent and orders come beside the input that counts.

A shard's own protocol is modelled beside it, so a turn is coarse here: one transaction, whole or torn, and then its
write to Redis, which may never come. A takeover is one step, but for the ends that it asks for. The input has
questions: one is answered at once, one after a wait, unless an order came meanwhile. All that is appended anywhere has
a timestamp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from tests.protocol_model import whole_search
from tests.protocol_model.whole_search import Result, Violation

NOW, LATER = "now", "later"
View = tuple[int, bool]  # a date, and whether it says no
UNKNOWN: View = (0, False)


@dataclass(frozen=True, slots=True)
class SideRules:
    """The protocol's ingredients. Each can be taken out."""

    ends_after_fence: bool = True  # the ends of the side inputs are asked for once the predecessor can't publish
    profiles_first: bool = True  # nothing is decided before profiles are read up to that end
    orders_before_due: bool = True  # nothing falls due before orders are read up to theirs
    with_states: bool = True  # a side input's offset is stored with the states, not before them
    store_effects: bool = True  # a turn that changes a state is stored, not only its offset kept in memory
    set_back_too: bool = True  # the next owner begins at the offset that Redis has, not where the last one was
    profiles_from_start: bool = True  # of a Redis that was made anew
    orders_from_start: bool = True  # of a Redis that was made anew
    in_time: bool = True  # an order never comes before an earlier record of the input
    high_watermark: bool = True  # and the input is drained only where no open transaction has more
    join_by_date: bool = True  # the latest consent holds, whatever is read last
    orders_by_date: bool = True  # an order from before the question doesn't count
    whole_note: bool = True  # an output's note has all that was decided


@dataclass(frozen=True, slots=True)
class SideHazards:
    """The events of a world, and the faults."""

    questions: tuple[str, ...] = (LATER, NOW)
    profiles: tuple[View, ...] = ((2, True), (1, False))
    orders: int = 1
    torn: int = 0  # how many transactions may be torn
    restores: bool = False  # Redis may go back to a state of before, once
    loses: bool = False  # Redis may be lost and rebuilt, once
    crashes: int = 2


class Question(NamedTuple):
    """A record of the input."""

    kind: str
    at: int


class DecisionPart(NamedTuple):
    """The part of a state that changes only together with an output."""

    number: int = 0
    since: int = 0  # when the question that waits was asked; 0: none waits


class Answer(NamedTuple):
    """An output, with its note and its mark."""

    word: str
    asked: int  # which question
    decided: DecisionPart
    offset: int  # N of its turn


class SideRedis(NamedTuple):
    """The shard's part of Redis. An offset of None: Redis doesn't know the topic."""

    offset: int = 0  # R
    number: int = 0  # S
    profiles: int | None = 0
    orders: int | None = 0
    view: View = UNKNOWN
    decided: DecisionPart = DecisionPart()


class SideOwner(NamedTuple):
    """The owner: its places in the side inputs, and the ends that it must reach first."""

    profiles: int
    orders: int
    profiles_end: int
    orders_end: int
    true_end: int  # the profiles that a predecessor may have read
    true_orders: int


class SideWorld(NamedTuple):
    """One state of everything."""

    redis: SideRedis
    owner: SideOwner | None
    input: tuple[Question, ...] = ()
    hidden: bool = False  # the last question's transaction is open
    profiles: int = 0  # how many have come
    orders: tuple[int, ...] = ()  # timestamps
    answers: tuple[Answer, ...] = ()
    offset: int = 0  # N
    number: int = 0  # S
    time: int = 1  # the next timestamp
    late: bool = False  # the wait is over
    torn: int = 0
    crashes: int = 0
    saved: SideRedis | None = None
    set_back: bool = False
    asked: tuple[int, int] | None = None  # ends that the next owner asked for too early
    reached: tuple[int, int] = (0, 0)  # where the last owner was, in memory

    @property
    def stable(self) -> int:
        """The end of the input, as far as transactions have ended."""
        return len(self.input) - self.hidden


Step = tuple[str, SideWorld | Violation]


def search(rules: SideRules, hazards: SideHazards) -> Result:
    """Search all states, breadth first, up to the first violation; then whether each leads to an end."""
    first = SideWorld(SideRedis(), SideOwner(0, 0, 0, 0, 0, 0), torn=hazards.torn, crashes=hazards.crashes)
    return whole_search.search(
        first, partial(steps, rules, hazards), partial(_resting, hazards), partial(_wrong_at_rest, hazards)
    )


def steps(rules: SideRules, hazards: SideHazards, world: SideWorld) -> Iterator[Step]:
    """Yield everything that can happen next."""
    yield from _arrivals(hazards, world)
    yield from _faults(rules, hazards, world)
    if world.owner is None:
        yield from _takeovers(rules, hazards, world)
    else:
        for batch in _batches(rules, world, world.owner):
            yield from _turn(rules, hazards, world, world.owner, batch)


def _arrivals(hazards: SideHazards, world: SideWorld) -> Iterator[Step]:
    if world.hidden:
        yield "the question's transaction ends", world._replace(hidden=False)
    elif len(world.input) < len(hazards.questions):
        question = Question(hazards.questions[len(world.input)], world.time)
        asked = world._replace(input=(*world.input, question), hidden=True, time=world.time + 1)
        yield f"a question ({question.kind}) is appended", asked
    if world.profiles < len(hazards.profiles):
        yield f"profile {world.profiles} is appended", world._replace(profiles=world.profiles + 1)
    if len(world.orders) < hazards.orders:
        yield "an order is appended", world._replace(orders=(*world.orders, world.time), time=world.time + 1)
    if not world.late:
        yield "the wait is over", world._replace(late=True)


def _faults(rules: SideRules, hazards: SideHazards, world: SideWorld) -> Iterator[Step]:
    if world.owner and not rules.ends_after_fence and world.asked is None:
        yield "a successor asks for the ends", world._replace(asked=(world.profiles, len(world.orders)))
    if world.owner and world.crashes:
        yield "the owner dies", _dead(world)._replace(crashes=world.crashes - 1)
    if hazards.restores and not world.set_back:
        if world.saved is None:
            yield "Redis is saved", world._replace(saved=world.redis)
        elif world.saved != world.redis:
            back = _dead(world)._replace(redis=world.saved, saved=None, set_back=True)
            yield "Redis is restored", back
    if hazards.loses and not world.set_back and world.offset:  # before its first turn a shard is new
        yield (
            "Redis is lost, and made anew",
            _dead(world)._replace(redis=SideRedis(profiles=None, orders=None), set_back=True),
        )


def _dead(world: SideWorld) -> SideWorld:
    reached = (world.owner.profiles, world.owner.orders) if world.owner else world.reached
    return world._replace(owner=None, reached=reached)


def _takeovers(rules: SideRules, hazards: SideHazards, world: SideWorld) -> Iterator[Step]:
    """Take the shard over: cover a torn turn, follow the outputs, absorb the input up to N."""
    del hazards
    number = len(world.answers)
    offset = max([world.offset, *(answer.offset for answer in world.answers[world.number :])])
    redis, begun = world.redis, world.offset > 0
    decided = redis.decided
    for answer in world.answers[redis.number :]:
        if answer.decided.number > decided.number:
            decided = answer.decided if rules.whole_note else decided._replace(number=answer.decided.number)
    profiles = redis.profiles
    if profiles is None:
        profiles = 0 if rules.profiles_from_start else world.profiles
    orders = redis.orders
    if orders is None:
        orders = 0 if rules.orders_from_start and begun else len(world.orders)
    if not rules.set_back_too:
        profiles, orders = max(profiles, world.reached[0]), max(orders, world.reached[1])
    ends = (world.profiles, len(world.orders))
    profiles_end, orders_end = world.asked or ends
    owner = SideOwner(profiles, orders, profiles_end, orders_end, *ends)
    redis = SideRedis(offset, number, profiles, orders, redis.view, decided)
    yield (
        "a worker takes the shard over",
        world._replace(redis=redis, owner=owner, offset=offset, number=number, asked=None, reached=(0, 0)),
    )


# Turns


class TakenTogether(NamedTuple):
    """The part of the logs that a turn takes: numbers of records, and whether what is due is looked at."""

    questions: int
    profiles: int
    orders: int
    due: bool


def _batches(rules: SideRules, world: SideWorld, owner: SideOwner) -> Iterator[TakenTogether]:
    """Yield what the owner's next turn may take: what its fetches have brought by then."""
    for profiles in range(world.profiles - owner.profiles + 1):
        alone = rules.profiles_first and owner.profiles + profiles < owner.profiles_end
        if alone:
            if profiles:
                yield TakenTogether(0, profiles, 0, due=False)
            continue
        for questions in range(world.stable - world.offset + 1):
            for orders in range(_orders_in_time(rules, world, owner, questions) + 1):
                behind = rules.orders_before_due and owner.orders + orders < owner.orders_end
                if profiles or questions or orders:
                    yield TakenTogether(questions, profiles, orders, due=False)
                if world.late and not behind:
                    yield TakenTogether(questions, profiles, orders, due=True)


def _orders_in_time(rules: SideRules, world: SideWorld, owner: SideOwner, questions: int) -> int:
    """Return how many orders a turn with so many questions may take."""
    there = world.orders[owner.orders :]
    if not rules.in_time:
        return len(there)
    offset = world.offset + questions
    if offset == (len(world.input) if rules.high_watermark else world.stable):
        return len(there)
    until = world.input[offset - 1].at if questions else 0
    return sum(at <= until for at in there)


def _turn(
    rules: SideRules, hazards: SideHazards, world: SideWorld, owner: SideOwner, batch: TakenTogether
) -> Iterator[Step]:
    redis = world.redis
    view, decided, answers = redis.view, redis.decided, list[Answer]()
    offset = world.offset + batch.questions
    profiles, orders = owner.profiles + batch.profiles, owner.orders + batch.orders

    def answer(word: str, asked: int, since: int) -> None:
        nonlocal decided
        decided = DecisionPart(decided.number + 1, since)
        answers.append(Answer(word, asked, decided, offset))

    for known in hazards.profiles[owner.profiles : profiles]:
        view = max(view, known) if rules.join_by_date else known
    text = f"a turn takes {batch}"
    floor = max([UNKNOWN, *hazards.profiles[: owner.true_end]])
    for at in range(world.offset, offset):
        question = world.input[at]
        if question.kind == LATER:
            answer("later", at, question.at)
            continue
        if view < floor:
            yield text, Violation(f"consent: question {at} is answered by {view}, though {floor} was known")
            return
        answer("no" if view[1] else "yes", at, decided.since)
    waiting = next((at for at, q in enumerate(world.input) if q.kind == LATER), 0)
    for ordered_at in world.orders[owner.orders : orders]:
        if decided.since and (ordered_at > decided.since or not rules.orders_by_date):
            if ordered_at < decided.since:
                yield text, Violation("order: one from before the question counts")
                return
            answer("ordered", waiting, 0)
    if batch.due and decided.since:
        if any(at > decided.since for at in world.orders[: owner.true_orders]):
            yield text, Violation("order: one that was there before the takeover doesn't count")
            return
        answer("no" if view[1] else "yes", waiting, 0)
    yield from _committed(
        rules,
        world,
        owner,
        answers,
        SideRedis(offset, world.number + len(answers), profiles, orders, view, decided),
        text,
    )


def _committed(
    rules: SideRules, world: SideWorld, owner: SideOwner, answers: list[Answer], after: SideRedis, text: str
) -> Iterator[Step]:
    """Yield what may become of a turn: nothing to be stored; stored; died before Redis; torn."""
    now = owner._replace(profiles=after.profiles or 0, orders=after.orders or 0)
    effect = answers or after.offset > world.offset
    effect = effect or ((after.view, after.decided) != (world.redis.view, world.redis.decided) and rules.store_effects)
    if not effect:
        yield f"{text}, in memory", world._replace(owner=now)
    published = world._replace(
        answers=(*world.answers, *answers), offset=after.offset, number=world.number + len(answers)
    )
    yield text, published._replace(redis=after, owner=now)
    if world.crashes:
        fewer = published._replace(crashes=world.crashes - 1)
        if not rules.with_states:
            stored = world.redis._replace(profiles=after.profiles, orders=after.orders)
            yield f"{text}, and dies before the states", _dead(fewer)._replace(redis=stored)
        yield f"{text}, and dies before Redis", _dead(fewer)
    if world.torn and answers:
        torn = world._replace(answers=published.answers, torn=world.torn - 1)
        yield f"{text}, torn: without its head", _dead(torn)


# What is checked


def _resting(hazards: SideHazards, world: SideWorld) -> bool:
    owner, redis = world.owner, world.redis
    return bool(
        owner
        and world.profiles == owner.profiles == redis.profiles == len(hazards.profiles)
        and len(world.orders) == owner.orders == redis.orders == hazards.orders
        and world.offset == redis.offset == len(world.input) == len(hazards.questions)
        and not world.hidden
        and not (world.late and redis.decided.since)
    )


def _wrong_at_rest(hazards: SideHazards, world: SideWorld) -> str | None:
    """Return what is wrong in a state at rest, before the wait is over or after it."""
    redis = world.redis
    if redis.view != max([UNKNOWN, *hazards.profiles]):
        return f"view: {redis.view} is known, of {hazards.profiles}"
    for at, question in enumerate(world.input):
        words = [answer.word for answer in world.answers if answer.asked == at]
        ends = [word for word in words if word != "later"]
        waits = question.kind == LATER and redis.decided.since == question.at
        if len(ends) != (0 if waits else 1) or words.count("later") != (question.kind == LATER):
            return f"answers: question {at} has {words}"
        if waits and any(ordered > question.at for ordered in world.orders):
            return f"forgotten: the order after question {at} has stopped nothing"
    if [answer.decided.number for answer in world.answers] != list(range(1, len(world.answers) + 1)):
        return "chain: the answers aren't numbered"
    return None
