"""The campaign step: moves in, decisions out, by a table of rules.

A customer's state makes each decision happen once: it holds the sequence of the last move handled, and all that was
decided. Profiles, orders, erasures and merges come from side inputs, and are joined to the state: reading them again
changes nothing (docs/adr/0041-side-inputs.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from segmentation.agreed import Agreed
from segmentation.campaign_budget import BudgetBook, BudgetState, budget_key, is_budget
from segmentation.campaign_deciding import Decider, Target
from segmentation.campaign_inputs import (
    LearnedFacts,
    ReadMove,
    SeenOrder,
    forwarded,
    read_move,
    read_order_record,
    read_profile,
)
from segmentation.campaign_judging import RuleBook
from segmentation.campaign_rules import Rule, RulesError, RuleTable, default_rules, parse_rules
from segmentation.campaign_state import Act, CampaignFormatError, CampaignState, Facts, is_gone
from segmentation.campaign_writing import DecisionWriter
from segmentation.events import RejectedEvent
from segmentation.output_events import Cause
from segmentation.routing import EVERYWHERE, Routing
from segmentation.step import (
    NEVER_DUE,
    BatchTooLong,
    DeadLetter,
    DueEntry,
    KafkaRecord,
    SidePackage,
    Turn,
    TurnContext,
    TurnPlan,
)

if TYPE_CHECKING:
    from segmentation.step import SideRecord

__all__ = [
    "CampaignFormatError",
    "CampaignState",
    "CampaignStep",
    "Rule",
    "RuleTable",
    "RulesError",
    "default_rules",
    "parse_rules",
]

PROFILES: Final = "profiles"  # the side inputs
ORDERS: Final = "orders"
_ADOPTED: Final = frozenset({Cause.MODEL, Cause.SETTINGS})  # the shop changed its mind, not the customer
_CHECKED: Final = 64  # customers between two looks at the time


class _CampaignWork(NamedTuple):
    """The step's own part of a plan."""

    moves: list[ReadMove]
    dead: list[DeadLetter]
    learned: list[LearnedFacts]  # by profiles first
    orders: list[SeenOrder]
    side_dead: list[DeadLetter]
    elsewhere: list[SidePackage]  # profiles of customers of other partitions
    partition: int
    book: RuleBook  # of the whole turn: the rules may change while its states are loaded


def _work(plan: TurnPlan) -> _CampaignWork:
    return cast("_CampaignWork", plan.work)


class CampaignStep:
    """Moves -> decisions. Pure; the contract is `segmentation.step.Step`. There is no model."""

    name = "campaigns"
    sides: tuple[str, ...] = (PROFILES, ORDERS)
    rescore_first = False
    agreed: Agreed | None = None  # rules may change at any time: they judge later moves

    def __init__(
        self,
        table: RuleTable,
        group: str,
        *,
        adopted: bool = False,
        event_time: bool = False,
        routing: Routing = EVERYWHERE,
        tolerance_ms: int = 300_000,
    ) -> None:
        """Fix the deployment. `group` names it, and is part of the ids of decisions.

        `adopted`: moves by a new model or by changed settings set off no action. `event_time`: decisions go by the time
        that the moves have reached, else by the present. `tolerance_ms`: by how much an event beside the moves may be
        later than its record.
        """
        self.table = table
        self.rescore_first = event_time
        self._adopted = _ADOPTED if adopted else frozenset[Cause]()
        self._event_time = event_time
        self._routing = routing
        self._tolerance_ms = tolerance_ms
        self._writer = DecisionWriter(group)

    @property
    def table(self) -> RuleTable:
        """The rules. Another table decides from the next turn on, also about what was held back before."""
        return self._book.table

    @table.setter
    def table(self, table: RuleTable) -> None:
        self._book = RuleBook(table)

    def warnings(self) -> list[str]:
        """Return a sentence on each rule that never acts."""
        return self.table.warnings()

    def plan(self, records: Sequence[KafkaRecord], partition: int, context: TurnContext) -> TurnPlan:
        """Decode and check the records. In event time the clock is the latest move's, else the present."""
        work = self._read(records, partition, context)
        clock = self._clock(context)
        for move in work.moves if self._event_time else ():
            clock = max(clock, move.at)
        keys = dict.fromkeys(move.customer for move in work.moves)
        keys |= dict.fromkeys(learned.customer for learned in work.learned)
        keys |= dict.fromkeys(order.customer for order in work.orders)
        if work.book.budgets:
            keys[budget_key(partition)] = None
        # In event time the clock stands still without records.
        looks = not context.behind and (bool(records) or not self._event_time)
        return TurnPlan(len(records), list(keys), clock, clock if looks else None, work=work)

    def absorb(self, records: Sequence[KafkaRecord], partition: int, context: TurnContext) -> TurnPlan:
        """Decode moves that were delivered before, at the clocks of their first delivery as far as that is known."""
        work = self._read(records, partition, context)
        clock = context.clock
        for move in work.moves:
            clock = max(clock, move.at)
        return TurnPlan(len(records), list(dict.fromkeys(move.customer for move in work.moves)), clock, work=work)

    def merge(self, plan: TurnPlan, values: Sequence[bytes | None]) -> Turn:
        """Return the states after the plan's moves. What was decided on them is published: `patch` reads it."""
        work = _work(plan)
        targets = _targets(zip(plan.keys, values, strict=True))
        for move in work.moves:
            target = targets[move.customer]
            if move.change.sequence > target.state.sequence:
                target.state = target.state.handled(move.change.sequence, move.change.to)
        states = _changed(targets)
        # What is held back says itself when it falls due; else time moves nobody.
        return Turn(plan.taken, plan.clock, states, due=dict.fromkeys(states, NEVER_DUE), dead=list(work.dead))

    def decide(
        self,
        plan: TurnPlan,
        values: Sequence[bytes | None],
        fired: Sequence[DueEntry],
        more: bool,
        context: TurnContext,
    ) -> Turn:
        """Decide on each move that hasn't been handled yet, and on what was held back until now."""
        work, fired = _work(plan), fired[:-1] if more else fired
        stored = dict(zip(plan.keys, values, strict=True))
        budget = BudgetBook(stored.pop(budget_key(work.partition), None), work.partition, self._routing.partitions)
        turn = Turn(plan.taken, plan.clock, dead=list(work.dead), side_dead=list(work.side_dead))
        turn.side_packages += work.elsewhere
        stored |= {due.key: cast("bytes", due.value) for due in fired if due.value is not None}
        targets = _targets(stored.items())
        decider = Decider(work.book, self._writer, budget, self._adopted, self._event_time, turn.outputs, turn.counts)
        for learned in work.learned:
            self._learn(targets[learned.customer], learned.facts, turn)
        self._take(work, targets, decider, turn, context)
        if not context.behind:
            waiting = [target for target in targets.values() if target.state.decided.pendings]
            for target in sorted(waiting, key=_by_due_time):  # the first due spends of the budgets first
                decider.release(target, plan.clock)
        turn.states = _changed(targets)
        _set_due(turn, targets, fired)
        self._spend(turn, budget, work)
        return turn

    def _take(
        self, work: _CampaignWork, targets: Mapping[bytes, Target], decider: Decider, turn: Turn, context: TurnContext
    ) -> None:
        """Decide on moves and orders: in event time by their dates, else on the moves first, and all as of now."""
        clock = context.clock if self._event_time else turn.clock
        orders = deque(sorted(work.orders, key=_date) if self._event_time else work.orders)
        for index, move in enumerate(work.moves):
            if not index % _CHECKED and context.overdue():
                raise BatchTooLong
            if self._event_time:
                clock = max(clock, move.at)
                while orders and orders[0].at < clock:
                    self._take_order(orders.popleft(), targets, decider, context, clock)
                if not context.behind:
                    decider.release(targets[move.customer], clock)
            target = targets[move.customer]
            new = move.change.sequence > target.state.sequence
            acts = target.state.lasting_acts if move.change.merged_into and new else ()  # the move voids them
            decider.on_move(target, move, clock)
            if move.change.merged_into and acts:
                self._hand_on(target, move.change.merged_into, Facts(), acts, turn)
        for order in orders:
            self._take_order(order, targets, decider, context, turn.clock)

    def _take_order(
        self, order: SeenOrder, targets: Mapping[bytes, Target], decider: Decider, context: TurnContext, clock: int
    ) -> None:
        if self._event_time:
            clock = order.at
            if not context.behind:
                decider.release(targets[order.customer], clock)
        decider.on_order(targets[order.customer], order, clock)

    def rescore(self, rows: Sequence[tuple[bytes, bytes]], quiet: Sequence[bool], context: TurnContext) -> Turn:
        """Return an empty turn: there is no model here."""
        del rows, quiet  # the contract asks for them
        return Turn(0, context.clock)

    def patch(self, value: bytes | None, note: bytes) -> bytes:
        """Return the state with its own last published decision written in."""
        if is_budget(note):
            return max(BudgetState.unpack(value), BudgetState.unpack(note), key=_counter).pack()
        return CampaignState.unpack(value).join(CampaignState.unpack(note)).pack()

    def due(self, value: bytes) -> int | None:
        """Return when the first candidate that is held back must be looked at."""
        return None if is_budget(value) else CampaignState.unpack(value).due

    def latest(self, value: bytes, note: bytes) -> None:
        """Return None: decisions have no compacted topic."""
        del value, note  # the contract asks for them

    def is_gone(self, value: bytes) -> bool:
        """Return whether nothing but an erasure, or the merge into another id, is known of the customer."""
        return not is_budget(value) and is_gone(value)

    def rank(self, value: bytes) -> int | None:
        """Return the instant (ms) of the merge that it knows of; None: of none, and the state names no other id."""
        merged = CampaignState.unpack(value).facts.merged
        return None if merged is None else merged.at

    def current(self, value: bytes) -> bytes:
        """Return the state itself: states of former formats are read as they are."""
        return value

    def under(self, agreed: Agreed) -> CampaignStep:
        """Return the step itself: it has no such settings."""
        del agreed  # the contract asks for it
        return self

    def unmuted(self, value: bytes, slots: frozenset[int]) -> bytes:  # noqa: ARG002 - no backfill mutes an action
        """Return the state: no backfill mutes it."""
        return value

    def hold(self, value: bytes) -> None:
        """Return None: no state is large."""

    def bare(self, value: bytes) -> bytes | None:
        """Return the state: it holds nothing else."""
        return value

    def _clock(self, context: TurnContext) -> int:
        return context.clock if self._event_time else max(context.clock, context.now)

    def _read(self, records: Sequence[KafkaRecord], partition: int, context: TurnContext) -> _CampaignWork:
        """Decode the records of all inputs. What can't be read becomes a dead letter."""
        work = _CampaignWork([], [], [], [], [], [], partition, self._book)
        for position, record in enumerate(records):
            try:
                work.moves.append(read_move(record))
            except RejectedEvent as why:
                work.dead.append(DeadLetter(position, why.reason.value, why.field, why.message))
        from_orders = list[LearnedFacts]()
        for position, record in enumerate(context.side):
            if record.source == PROFILES:
                self._read_profile(position, record, work)
                continue
            event = read_order_record(record, self._tolerance_ms, orders=work.book.orders)
            if event and context.former and (right := self._elsewhere(event.customer, partition)) is not None:
                # An order counts where the scoring step sends it on to; or it did, before the partitions became more.
                if isinstance(event, LearnedFacts) and record.value is not None:
                    work.elsewhere.append(SidePackage(right, record.value))
                continue
            if isinstance(event, SeenOrder):
                work.orders.append(event)
            elif event is not None:
                from_orders.append(event)
        work.learned.extend(from_orders)
        return work

    def _read_profile(self, position: int, record: SideRecord, work: _CampaignWork) -> None:
        try:
            learned = read_profile(record, self._tolerance_ms)
        except RejectedEvent as why:
            work.side_dead.append(DeadLetter(position, why.reason.value, why.field, why.message))
            return
        right = self._elsewhere(learned.customer, work.partition)
        if right is None:
            work.learned.append(learned)
        else:
            assert record.value is not None  # it was decoded
            work.elsewhere.append(SidePackage(right, record.value))

    def _elsewhere(self, customer: bytes, partition: int) -> int | None:
        """Return the partition of a customer who belongs on another one than this."""
        right = self._routing.partition_of(customer)
        return None if right == partition else right

    def _learn(self, target: Target, facts: Facts, turn: Turn) -> None:
        """Join facts to a customer's state. What is new of a merged id is handed on to the one that it belongs to."""
        known = target.state.facts
        joined = known.join(facts)
        turn.counts["learned" if joined != known else "repeat"] += 1
        if joined == known:
            return
        target.state = target.state._replace(facts=joined)
        if joined.merged is not None:
            self._hand_on(target, joined.merged.into, joined, joined.handed_on, turn)

    def _hand_on(self, target: Target, into: str, facts: Facts, acts: tuple[Act, ...], turn: Turn) -> None:
        partition = self._routing.partition_of(into.encode())
        if partition is not None and (any(facts.profile) or acts):
            event_id = f"{target.key.decode()}:{into}:{target.state.sequence}"
            turn.side_packages.append(SidePackage(partition, forwarded(event_id, into, facts, acts)))

    def _spend(self, turn: Turn, budget: BudgetBook, work: _CampaignWork) -> None:
        """Publish the budgets that the turn has used, and store them."""
        after = budget.after(work.book.budgets)
        if after is not None:
            turn.outputs.append(self._writer.budget(work.partition, after, turn.clock))
            turn.states[budget_key(work.partition)] = after.pack()


def _date(order: SeenOrder) -> int:
    return order.at


def _counter(state: BudgetState) -> int:
    return state.counter


def _by_due_time(target: Target) -> tuple[int, bytes]:
    due = target.state.due
    assert due is not None  # something is held back
    return due, target.key


def _targets(rows: Iterable[tuple[bytes, bytes | None]]) -> dict[bytes, Target]:
    return {key: Target(key, state := CampaignState.unpack(value), state) for key, value in rows}


def _changed(targets: Mapping[bytes, Target]) -> dict[bytes, bytes]:
    return {key: t.packed() for key, t in targets.items() if t.state is not t.before and t.state != t.before}


def _set_due(turn: Turn, targets: Mapping[bytes, Target], fired: Sequence[DueEntry]) -> None:
    """Give each customer the due time of what is held back."""
    asked = {due.key for due in fired}
    turn.idle += [due.key for due in fired if due.key not in targets]
    for key, target in targets.items():
        at = target.state.due
        if key in asked:
            if at is None:
                turn.idle.append(key)
            else:
                turn.due[key] = at
        elif at is not None and target.state != target.before:
            turn.earlier[key] = at
