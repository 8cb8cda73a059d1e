"""The scoring step: orders, states, a model and a clock go in; states, moves and due times come out.

The order of all moves is a fold over the records of a shard (docs/explanation/time.md, section 9). Record i has the
clock C_i. Before it come the moves due earlier than C_i, by (instant, customer); then the record's own customer is
scored at C_i. A turn does a prefix of that fold for many customers at once: one event of each per round, in columns,
sorted at the end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Final, NamedTuple, cast

from segmentation.agreed import Agreed
from segmentation.aliases import add_remnants, last_moves, note_links, rank_of
from segmentation.backfills import NONE_OPEN
from segmentation.customers import (
    Customer,
    erase_customer,
    is_due,
    score_customers,
    search_customers,
    search_fired,
    write_customers,
)
from segmentation.decisions import BY_TIME, CompiledModel, DueMove, ScoreRequest, ScoringContext, move_by_time, staying
from segmentation.decoder import Batch, Reader
from segmentation.entries import ERASED, Rules
from segmentation.merging import Fold, close_runs, merge_all, merge_ending, merge_next, merge_open, merge_run, next_run
from segmentation.moves import NOTE, Move, due_of, latest_of
from segmentation.open_state import WORTH_HOLDING, OpenState
from segmentation.output_events import Cause
from segmentation.partitioners import PARTITIONERS, Partitioner
from segmentation.rfm import (
    EMPTY,
    advance_bytes,
    announcement,
    headers,
    is_lost,
    muted_by,
    with_announcement,
    with_mute,
)
from segmentation.routing import Routing
from segmentation.scorer import UNKNOWN
from segmentation.state_bytes import bare, is_gone, is_linked, silent
from segmentation.state_former import current, is_former_erased
from segmentation.step import (
    NEVER_DUE,
    DueEntry,
    Held,
    KafkaRecord,
    Scope,
    Turn,
    TurnContext,
    TurnPlan,
)

ALL: Final = (Scope.EVERYONE, Scope.SETTINGS)  # rescores that may move every customer
CAUSES: Final = {Scope.SETTINGS: Cause.SETTINGS}  # of all moves of a rescore; else the model's or the first


class _Work(NamedTuple):
    """The step's own part of a plan."""

    batch: Batch
    partition: int
    overdue: Callable[[], bool]
    former: int  # partitions before they became more; 0: they never did


def _work(plan: TurnPlan) -> _Work:
    return cast("_Work", plan.work)


def _model(context: TurnContext) -> CompiledModel | None:
    return cast("CompiledModel | None", context.model)


class ScoringStep:
    """Orders -> moves. Pure; the contract is `segmentation.step.Step`."""

    name = "scoring"
    sides: tuple[str, ...] = ()
    latest = staticmethod(latest_of)
    due = staticmethod(due_of)
    rank = staticmethod(rank_of)

    def __init__(
        self,
        reader: Reader,
        rules: Rules,
        *,
        dwell_ms: int = 0,
        partitioner: Partitioner | None = None,
        partitions: int = 1,
        agreed: Agreed | None = None,
    ) -> None:
        """Fix the deployment's rules. `of` takes them from the settings.

        `partitioner` must put each new customer on the partition that its records came from; None: no check.
        """
        self.agreed = agreed
        self._reader = reader
        self._rules = rules
        self._dwell_ms = dwell_ms
        self._routing = Routing(partitioner, partitions)
        self._event_time = reader.time == "event"
        self.rescore_first = self._event_time

    @classmethod
    def of(cls, agreed: Agreed, partitions: int) -> ScoringStep:
        """Return the step under a deployment's settings."""
        partitioner = PARTITIONERS[agreed.partitioner]
        return cls(
            Reader.under(agreed), agreed.rules, dwell_ms=agreed.dwell_ms, partitioner=partitioner,
            partitions=partitions, agreed=agreed,
        )  # fmt: skip

    def under(self, agreed: Agreed) -> ScoringStep:
        """Return the step under other settings."""
        return ScoringStep.of(agreed, self._routing.partitions)

    def plan(self, records: Sequence[KafkaRecord], partition: int, context: TurnContext) -> TurnPlan:
        """Decode and check the records, and give each its clock (docs/explanation/exactly-once.md, section 3)."""
        clock = self._clock(context)
        batch = self._reader.read(records, clock, context.backfills, rates=context.rates)
        close = batch.close if records else self._expired(context)
        work = _Work(batch, partition, context.overdue, context.former)
        if not batch.clocks and (batch.start or close):
            return TurnPlan(batch.turn_records, [], clock, start=batch.start, close=close, work=work)
        clock = batch.clocks[-1] if batch.clocks else clock
        # Without records the clock of event time stands still: nothing can be due. Without a model nobody moves.
        looks = context.model is not None and (bool(records) or not self._event_time)
        until = clock if looks else None
        return TurnPlan(len(batch.clocks), list(batch.own), clock, until, no_rate=batch.no_rate, work=work)

    def absorb(self, records: Sequence[KafkaRecord], partition: int, context: TurnContext) -> TurnPlan:
        """Decode records that were delivered before, as `plan` does, at the clocks of their first delivery."""
        until = max(context.now, context.clock)
        batch = self._reader.read(records, context.clock, context.backfills, replayed_until=until, rates=context.rates)
        clock, taken = batch.clocks[-1] if batch.clocks else context.clock, len(batch.clocks)
        return TurnPlan(
            taken,
            list(batch.own),
            clock,
            backfills=batch.registry,
            closed=batch.closed,
            full=batch.full,
            no_rate=batch.no_rate,
            work=_Work(batch, partition, context.overdue, context.former),
        )

    def merge(self, plan: TurnPlan, values: Sequence[bytes | None]) -> Turn:
        """Return the states after the plan's records, merged at their clocks, nothing scored; and the dead letters."""
        batch, _, overdue, _ = _work(plan)
        turn = Turn(plan.taken, plan.clock, dead=list(batch.dead))
        open_slots = (plan.backfills or NONE_OPEN).open_slots
        fold = Fold(
            batch, plan.taken, (0, b""), None, open_slots, turn, self._rules, overdue, self._routing, replayed=True
        )
        customers = self._customers(plan, values, (), turn)
        for customer in customers:
            fold.check_time()
            if plan.closed:
                merge_ending(customer, fold, event_time=self._event_time)
            else:
                merge_all(customer, fold)
            if customer.changed and customer.value is not None:
                turn.states[customer.key] = customer.value
        turn.packages.sort(key=lambda package: package.position)
        add_remnants(turn, customers, self._rules)
        return turn

    def decide(
        self,
        plan: TurnPlan,
        values: Sequence[bytes | Held | None],
        fired: Sequence[DueEntry],
        more: bool,
        context: TurnContext,
    ) -> Turn:
        """Do a prefix of the fold (docs/explanation/time.md, section 9): the plan's records, and moves due before."""
        batch = _work(plan).batch
        bound = (plan.clock, b"")
        if more:
            bound = (fired[-1].at, fired[-1].key)
            fired = fired[:-1]
        # In wall time slices interleave freely: many due customers don't hold up the orders.
        taken = bisect_right(batch.clocks, bound[0]) if self._event_time else plan.taken
        turn = Turn(taken, self._clock(context), dead=[d for d in batch.dead if d.position < taken])
        turn.backfills = batch.backfills(taken)
        customers = self._customers(plan, values, fired, turn)
        scoring, open_slots = self._scoring(context), (turn.backfills or context.backfills).open_slots
        fold = Fold(batch, taken, bound, scoring, open_slots, turn, self._rules, context.overdue, self._routing)
        moves = self._fold(customers, fold)
        moves.sort(key=lambda move: move.order)
        last = [batch.clocks[taken - 1]] if taken else []
        turn.clock = max([turn.clock, *last, *(move.at for move in moves)])
        self._finish(turn, customers, moves, context)
        turn.dead = sorted(d for d in turn.dead if d.position < taken)
        turn.forwards = sorted(f for f in turn.forwards if f.position < taken)
        turn.packages.sort(key=lambda package: package.position)
        return turn

    def rescore(self, rows: Sequence[tuple[bytes, bytes]], quiet: Sequence[bool], context: TurnContext) -> Turn:
        """Score each customer at the clock: a new model, new settings, or a backfill's end. Quiet ones get a due time.

        Skips the customers that are still muted or have lost every order, and unmutes those whose backfill is over.
        """
        clock, scoring = self._clock(context), self._scoring(context)
        turn = Turn(0, clock)
        rows = [(key, current(value, self._rules)) for key, value in rows]
        rows, quiet = self._without_staying(rows, quiet, context, turn)
        muted = context.backfills.open_slots
        customers, starts = list[Customer](), list[int]()
        scored, requests = list[Customer](), list[ScoreRequest]()
        for (key, value), already in zip(rows, quiet, strict=True):
            slot = muted_by(value)
            if slot in muted or not (slot or context.scope is not Scope.RELEASED) or is_lost(value):
                continue
            customer = Customer(key, with_mute(value, 0) if slot else value, changed=bool(slot))
            # The due index's entry of a muted customer is from before: no instant up to now may be published any more.
            customer.fired_at = clock if slot else None
            silent = already or not (slot or context.scope in ALL)
            if not silent:
                # Not for the silent: a move due at this very instant is published with the figures of the one before.
                now = customer.value = advance_bytes(customer.value or EMPTY, clock, self._rules)
                prior = now if announcement(now)[0] else None
                cause = Cause.BACKFILL if slot else CAUSES.get(context.scope)
                scored.append(customer)
                requests.append(ScoreRequest(key, now, prior, clock, (0, BY_TIME, clock, key), None, cause))
            customers.append(customer)
            # Moves are published up to, not including, the shard's clock: a move due at it is still to come.
            starts.append(context.clock if silent else clock + 1)
        if not scored:
            turn.clock = context.clock
        moves: list[Move] = []
        if scoring is not None:
            moves = score_customers(scored, requests, scoring)
            search_customers(customers, starts, scoring)
        self._finish(turn, customers, moves, context)
        return turn

    def _without_staying(
        self, rows: Sequence[tuple[bytes, bytes]], quiet: Sequence[bool], context: TurnContext, turn: Turn
    ) -> tuple[Sequence[tuple[bytes, bytes]], Sequence[bool]]:
        """Return the customers without those that need only a due time under a new model; the turn gets that time."""
        scoring = self._scoring(context)
        if scoring is None or context.scope not in ALL or not rows:
            return rows, quiet
        values = [value for _, value in rows]
        head = headers(values)
        plain = ~silent(head) & (turn.clock < head["next_change"])
        plain &= scoring.model.scorer.index_from_ids(head["segment"]) != UNKNOWN
        if not plain.all():
            values, head = list(compress(values, plain.tolist())), head[plain]
        stays, wake = staying(values, head, turn.clock, scoring)
        plain[plain] = stays
        found = zip(compress(rows, plain.tolist()), wake.tolist(), strict=True)
        turn.earlier = {key: at for (key, _), at in found if at < NEVER_DUE}
        others = (~plain).tolist()
        return list(compress(rows, others)), list(compress(quiet, others))

    def patch(self, value: bytes | None, note: bytes) -> bytes:
        """Return the state with the segment and sequence of a published move written in."""
        return with_announcement(EMPTY if value is None else value, *NOTE.unpack(note))

    def is_gone(self, value: bytes) -> bool:
        """Return whether nothing is left but an erasure or merges, and the last move is published."""
        return is_gone(value) or is_former_erased(value)

    def unmuted(self, value: bytes, slots: frozenset[int]) -> bytes:
        """Return the state without the mute of a backfill of these slots; `value` itself where it has none."""
        return with_mute(value, 0) if muted_by(value) in slots else value

    def current(self, value: bytes) -> bytes:
        """Return a state in the present format; `value` itself where it is in that. Raises StateFormatError."""
        return current(value, self._rules)

    def hold(self, value: bytes) -> OpenState | None:
        """Open a state for many turns, where that is worth it; None: it is small. Raises StateFormatError."""
        return OpenState(value, self._rules) if len(value) >= WORTH_HOLDING and not is_linked(value) else None

    def bare(self, value: bytes) -> bytes | None:
        """Return the state without any event, with its last published move alone; None: none was published."""
        return bare(value)

    def _expired(self, context: TurnContext) -> tuple[str, ...]:
        """Return the backfills without a record for too long, for a turn without records."""
        if self._event_time or not context.backfills.rows:
            return ()
        return tuple(context.backfills.silent_since(context.now - self._reader.backfill_expiry_ms))

    def _clock(self, context: TurnContext) -> int:
        return context.clock if self._event_time else max(context.clock, context.now)

    def _scoring(self, context: TurnContext) -> ScoringContext | None:
        model = _model(context)
        return None if model is None else ScoringContext.of(model, self._dwell_ms, self._rules)

    def _customers(
        self, plan: TurnPlan, values: Sequence[bytes | Held | None], fired: Sequence[DueEntry], turn: Turn
    ) -> list[Customer]:
        """Return the customers that take part: those with records, each on the right partition, and those due."""
        batch, partition, _, former = _work(plan)
        parts: dict[bytes, Customer] = {}
        for key, stored in zip(plan.keys, values, strict=True):
            c = Customer.of(key, stored, self._rules, batch.own[key])
            # An erased customer's remains may lie in several shards after a reshard: they show no right partition.
            unseen = c.held is None and (c.whole is None or is_gone(c.whole))
            if unseen and not self._routing.is_here(key, partition, batch.own[key], turn, former):
                continue
            parts[key] = c
            note_links(c, batch.linked)
        for due in fired:
            if due.value is None:
                turn.idle.append(due.key)
            else:
                c = parts.setdefault(due.key, Customer.of(due.key, due.value, self._rules))
                c.fired_at = due.at
                note_links(c, batch.linked)
        return list(parts.values())

    def _fold(self, customers: list[Customer], fold: Fold) -> list[Move]:
        """Do rounds of one event a customer: its next move by time if that comes first, else its next record."""
        moves: list[Move] = []
        batch, taken, bound, scoring = fold.batch, fold.taken, fold.bound, fold.scoring
        fold.check_time()
        if scoring is not None:
            moves += last_moves(customers, fold.turn.clock)
            fired = [c for c in customers if c.fired_at is not None and not c.drops_silently()]
            search_fired(fired, fold.turn.clock if self._event_time else 0, scoring)
        active = customers
        while active:
            due: list[Customer] = []
            arrived: list[Customer] = []
            for c in active:
                position = c.next_record(taken)
                end = bound if position is None else (batch.clocks[position], b"")
                if is_due(c, end, scoring):
                    due.append(c)
                elif position is not None:
                    arrived.append(c)
            fold.check_time()
            active = due + arrived
            requests, arrived = merge_open(arrived, fold)
            runs = [merge_run(c, run, fold) for c in arrived if (run := next_run(c, fold))]
            requests += [(run.customer, run.request) for run in runs if run.request is not None]
            at_once = {id(run.customer) for run in runs}
            one_by_one = (c for c in arrived if id(c) not in at_once) if runs else arrived
            requests += [(c, r) for c in one_by_one if (r := merge_next(c, fold)) is not None]
            if scoring is not None:
                moves += self._round(due, [c for c, _ in requests], [r for _, r in requests], batch, scoring)
            close_runs(runs, batch, scoring)
        return moves

    def _round(
        self,
        due: list[Customer],
        scored: list[Customer],
        requests: list[ScoreRequest],
        batch: Batch,
        scoring: ScoringContext,
    ) -> list[Move]:
        """Return the moves of a round, each with its forecast. `requests[i]` is about `scored[i]`."""
        starts = [c.due + 1 for c in due] + [r.at + 1 for r in requests]
        moves = move_by_time(
            [
                DueMove(
                    c.key, c.value or EMPTY, c.due, c.target, (bisect_right(batch.clocks, c.due), BY_TIME, c.due, c.key)
                )
                for c in due
            ],
            scoring,
        )
        for c, move in zip(due, moves, strict=True):
            c.take(move)
        searched = due + scored
        erased = [(r.event is not None and r.event.entry.kind == ERASED) or r.cause is Cause.MERGED for r in requests]
        if any(erased):
            for c, r in zip(compress(scored, erased), compress(requests, erased), strict=True):
                moves += erase_customer(c, r)
            kept = [not is_ for is_ in erased]
            scored, requests = list(compress(scored, kept)), list(compress(requests, kept))
        moves += score_customers(scored, requests, scoring)
        search_customers(searched, starts, scoring)
        return moves

    def _finish(self, turn: Turn, customers: list[Customer], moves: list[Move], context: TurnContext) -> None:
        """Write into the turn what is to be stored and published."""
        write_customers(customers, turn)
        add_remnants(turn, customers, self._rules)
        model = _model(context)
        if model is not None and moves:
            turn.outputs = [model.writer.write(move, context.now, self._rules) for move in moves]
            turn.counts.update(f"moves_{move.cause.value}" for move in moves)
