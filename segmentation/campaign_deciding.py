"""The decisions about one customer: on a move, on an order, and when what was held back is due."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from segmentation.campaign_judging import Postponed, RuleBook, Suppressed
from segmentation.campaign_state import (
    NO_FACTS,
    Act,
    CampaignState,
    Candidate,
    Decided,
    GoalWatch,
    Pending,
    kept,
    name_key,
)
from segmentation.campaign_writing import DecisionWriter, candidate_variables
from segmentation.entries import DAY_MS
from segmentation.output_events import Cause, Withheld

if TYPE_CHECKING:
    from segmentation.campaign_budget import BudgetBook
    from segmentation.campaign_inputs import ChangedEvent, ReadMove, SeenOrder
    from segmentation.campaign_rules import Rule
    from segmentation.output_events import CampaignDecision
    from segmentation.step import Output

LATEST_ORDER_MS: Final = 7 * DAY_MS  # how late an order may come and still reach a goal
MOST_WATCHES: Final = 100  # of a customer: one order reaches them all, and each conversion carries those still left


@dataclass(slots=True)
class Target:
    """A customer in a turn. `outputs`: of the turn, to which its decisions are added."""

    key: bytes
    before: CampaignState
    state: CampaignState
    noted: CampaignState | None = None  # the state after its last decision, and that decision's note
    note: bytes = b""

    def packed(self) -> bytes:
        """Return the bytes of the state: the last note, where nothing has come since and there are no facts."""
        return self.note if self.noted is self.state and self.state.facts == NO_FACTS else self.state.pack()


@dataclass(slots=True)
class Decider:
    """Decides under one rule table, in one turn."""

    book: RuleBook
    writer: DecisionWriter
    budget: BudgetBook
    adopted: frozenset[Cause]  # causes of moves that set off no action
    event_time: bool
    outputs: list[Output] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def on_move(self, customer: Target, move: ReadMove, at: int) -> None:
        """Take a move at an instant (ms): each group of rules decides once at most."""
        change, state = move.change, customer.state
        if change.sequence <= state.sequence:
            self.counts["repeat"] += 1
            return
        if change.to is None:
            self._on_leaving(customer, change, at)
            return
        customer.state = state.handled(change.sequence, change.to)
        if change.cause in self.adopted:
            self.counts["adopted"] += 1
            return
        matched = False
        for group in self.book.groups_for(change):
            for rule in group:
                if rule.when.accepts(move) and self.book.is_valid(rule, at):
                    matched = True
                    if self._decide(customer, rule, _candidate(rule, move), at):
                        break
        if not matched:
            self.counts["no_rule"] += 1

    def _on_leaving(self, customer: Target, change: ChangedEvent, at: int) -> None:
        """Take a move to nowhere. Of an erased customer nothing is published; a merged one has become another."""
        merged = change.cause is Cause.MERGED
        for pending in customer.state.decided.pendings if merged else ():
            why = Suppressed(Withheld.MERGED, "the id was merged into another")
            self._withhold(customer, pending.candidate, why, at, pending)
        customer.state = customer.state.handled(change.sequence, None)
        self.counts["merged" if merged else "erased"] += 1

    def on_order(self, customer: Target, order: SeenOrder, at: int) -> None:
        """Take an order: what waits for none is withheld, and goals are reached."""
        for pending in customer.state.decided.pendings:
            rule = self.book.rules.get(pending.candidate.campaign)
            if rule is not None and rule.unless == "order" and order.at > pending.candidate.moved_at:
                why = Suppressed(Withheld.ORDERED, f"the customer has placed order {order.order_id}")
                self._withhold(customer, pending.candidate, why, at, pending)
        for watch in customer.state.decided.watches:
            if watch.acted_at < order.at <= watch.until:
                decided = customer.state.decided
                left = tuple(other for other in decided.watches if other != watch)
                event = self.writer.converted(customer.key, watch, order, at, self.book.digest)
                self._publish(customer, event, decided._replace(watches=left))
                self.counts["converted"] += 1

    def release(self, customer: Target, at: int) -> None:
        """Decide on what was held back until before an instant (ms): the first due first, of those the first in rank.

        Quiet hours hold back all of a night until the same instant, and a cap may leave room for one of them.
        In event time each is decided as of the first millisecond after its wait, however late its clock has passed it.
        """
        while pendings := customer.state.decided.pendings:
            pending = min(pendings, key=self._precedence)
            if pending.until >= at:
                return
            self._release(customer, pending, pending.until + 1 if self.event_time else at)

    def _precedence(self, pending: Pending) -> tuple[int, int]:
        return pending.until, self.book.rank(pending.candidate.campaign)

    def _release(self, customer: Target, pending: Pending, at: int) -> None:
        candidate = pending.candidate
        rule = self.book.rules.get(candidate.campaign)
        if (why := self._outdated(customer.state, rule, candidate, at)) is not None:
            self._withhold(customer, candidate, why, at, pending)
            return
        assert rule is not None  # else it is outdated
        self._decide(customer, rule, candidate, at, pending)

    def _outdated(self, state: CampaignState, rule: Rule | None, candidate: Candidate, at: int) -> Suppressed | None:
        """Return why a candidate that was held back isn't wanted any more."""
        if rule is None:
            return Suppressed(Withheld.RULE_REMOVED, "the rules have no such campaign any more")
        if not self.book.is_valid(rule, at):
            return Suppressed(Withheld.NOT_VALID, "the campaign isn't valid on this day")
        if rule.if_still and state.segment != name_key(candidate.segment):
            return Suppressed(Withheld.MOVED_ON, f"the customer isn't in {candidate.segment} any more")
        return None

    def _decide(
        self, customer: Target, rule: Rule, candidate: Candidate, at: int, pending: Pending | None = None
    ) -> bool:
        """Decide on a rule that matches. Return whether its group is done with the move.

        `pending`: the candidate was held back, and its delay is over.
        """
        book = self.book
        if pending is None:
            self._give_up_outdated(customer, rule, at)
        state = customer.state if pending is None else _without(customer.state, pending)
        why = book.too_old(rule, candidate.moved_at, at) if pending is None else None
        why = why or book.had_lately(rule, state, at) or book.refused(rule, state, candidate.channel)
        if why is None and (held := self._held_back(rule, state, candidate, at, pending)) is not None:
            decided = state.decided._replace(pendings=(*state.decided.pendings, held))
            self._publish(customer, self.writer.scheduled(customer.key, held, at, book.digest), decided)
            self.counts["scheduled"] += 1
            return True
        why = why or book.capped(rule, state, at) or book.over_budget(rule, self.budget, at)
        if why is not None:
            self._withhold(customer, candidate, why, at, pending)
            return False
        if (why := book.held_out(rule, customer.key, at)) is not None:
            self._withhold(customer, candidate, why, at, pending, rule)
            return True
        book.spend(rule, self.budget, at)
        event = self.writer.action(customer.key, candidate, rule.tags, state, at, book.digest)
        self._publish(customer, event, self._acted(state.decided, rule, candidate, at, sent=True))
        self.counts["action"] += 1
        return True

    def _give_up_outdated(self, customer: Target, rule: Rule, at: int) -> None:
        """Withhold what the rule holds back for a segment that the customer has left: a later move takes its place."""
        pending = customer.state.decided.pending_of(rule.name)
        if pending is not None and (why := self._outdated(customer.state, rule, pending.candidate, at)) is not None:
            self._withhold(customer, pending.candidate, why, at, pending)

    def _held_back(
        self, rule: Rule, state: CampaignState, candidate: Candidate, at: int, pending: Pending | None
    ) -> Pending | None:
        """Return the candidate as it is held back; None: it may be sent now."""
        # A move may be dated ahead, by a worker's wrong clock: without a delay nothing waits for its date.
        if pending is None and rule.delay is not None and (until := candidate.moved_at + rule.delay) > at:
            return Pending(candidate, until, "delay")
        quiet, unknown = self.book.quiet(rule, state, at)
        if unknown:
            self.counts["invalid_zone"] += 1
        return Pending(candidate, quiet.until, "quiet_hours") if isinstance(quiet, Postponed) else None

    def _withhold(
        self,
        customer: Target,
        candidate: Candidate,
        why: Suppressed,
        at: int,
        pending: Pending | None = None,
        acted: Rule | None = None,
    ) -> None:
        """Publish that an action isn't sent. `acted`: the rule whose control group the customer belongs to."""
        state = customer.state if pending is None else _without(customer.state, pending)
        decided = state.decided if acted is None else self._acted(state.decided, acted, candidate, at, sent=False)
        self._publish(customer, self.writer.withheld(customer.key, candidate, why, at, self.book.digest), decided)
        self.counts[why.reason.value] += 1

    def _acted(self, decided: Decided, rule: Rule, candidate: Candidate, at: int, *, sent: bool) -> Decided:
        upto = min((pending.until for pending in decided.pendings), default=None)
        acts = kept((*decided.acts, Act(name_key(rule.name), at, sent)), upto)
        watches = tuple(watch for watch in decided.watches if watch.until + LATEST_ORDER_MS >= at)
        if rule.goal is not None:
            until = at + rule.goal.order_within
            watch = GoalWatch(candidate._replace(variables=b""), self.writer.id_of(candidate), at, until, not sent)
            watches = (*watches, watch)[-MOST_WATCHES:]
        return Decided(decided.counter, decided.since, acts, decided.pendings, watches)

    def _publish(self, customer: Target, event: CampaignDecision, decided: Decided) -> None:
        """Add a decision to the turn, and make the customer's state the one after it."""
        state = customer.state
        after = Decided(decided.counter + 1, state.since, decided.acts, decided.pendings, decided.watches)
        customer.state = customer.noted = CampaignState(state.sequence, state.segment, state.since, state.facts, after)
        customer.note = customer.state.note()
        self.outputs.append(self.writer.record(customer.key, event, customer.note))


def _candidate(rule: Rule, move: ReadMove) -> Candidate:
    change, then = move.change, rule.then
    assert change.to is not None
    reason = f"{change.from_ or 'no segment'} → {change.to} ({change.cause.value})"
    return Candidate(
        change.id,
        rule.name,
        change.to,
        then.action,
        then.channel,
        f"{reason}: {then.reason}" if then.reason else reason,
        move.at,
        candidate_variables(rule, change),
    )


def _without(state: CampaignState, pending: Pending) -> CampaignState:
    decided = state.decided
    left = tuple(other for other in decided.pendings if other != pending)
    return state._replace(decided=decided._replace(pendings=left))
