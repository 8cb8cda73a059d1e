"""The scoring step: orders, states, a model and a clock in; states, moves and due times out.

The order of all moves is TIME 7, a fold over the records of a shard. Record i has the clock C_i. Before it comes what is
due earlier than C_i, by (instant, customer); then the record's own customer is scored at C_i. A turn does a prefix of
that fold for many customers at once: one event of each a round, in columns, sorted at the end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import compress
from typing import Final, NamedTuple, cast

from segmentation.backfills import NONE_OPEN, Backfills
from segmentation.decisions import (
    Asked,
    CompiledModel,
    Customer,
    FoldPosition,
    announce,
    move_by_time,
    score,
    search,
    staying,
)
from segmentation.decoder import Batch, Reader
from segmentation.events import Cause, Reason
from segmentation.moves import NOTE, Move
from segmentation.partitioners import Partitioner
from segmentation.rfm import (
    EMPTY,
    NEVER,
    Kind,
    Outcome,
    Rules,
    absorb_bytes,
    advance_bytes,
    announcement,
    headers,
    is_capped,
    is_erased,
    is_lost,
    is_silent,
    muted_by,
    with_announcement,
    with_mute,
)
from segmentation.scorer import UNKNOWN
from segmentation.step import NEVER_DUE, DeadLetter, DueEntry, KafkaRecord, Scope, Turn, TurnContext, TurnPlan

BY_TIME: Final = 0  # at one place of the fold, what is due comes before the record
BY_RECORD: Final = 1
UNCHANGED: Final = (Outcome.REPEAT, Outcome.ERASED)  # a record that adds nothing is never a reason to score
CAPPED: Final = "capped"  # counted beside an event's outcome, where it takes its customer over the cap


class _Work(NamedTuple):
    """The step's own part of a plan."""

    batch: Batch
    partition: int


def _work(plan: TurnPlan) -> _Work:
    return cast("_Work", plan.work)


def _model(context: TurnContext) -> CompiledModel | None:
    return cast("CompiledModel | None", context.model)


class ScoringStep:
    """Orders -> moves. Pure; the contract is `segmentation.step.Step`."""

    name = "scoring"

    def __init__(
        self,
        reader: Reader,
        rules: Rules,
        *,
        dwell_ms: int = 0,
        partitioner: Partitioner | None = None,
        partitions: int = 1,
    ) -> None:
        """`partitioner` (None: don't check) must put each new customer on the very partition it came from."""
        self._reader = reader
        self._rules = rules
        self._dwell_ms = max(dwell_ms, 1)  # at most one move per customer and instant (TIME 5)
        self._partitioner = partitioner
        self._partitions = partitions
        self._event_time = reader.time == "event"
        self.rescore_first = self._event_time

    # ---- the contract

    def plan(self, records: Sequence[KafkaRecord], partition: int, context: TurnContext) -> TurnPlan:
        """Decode, check, and give each record its clock (PROTOCOL, turn 3)."""
        clock = self._clock(context)
        batch = self._reader.read(records, clock, context.backfills)
        close = batch.close if records else self._silent(context)
        if not batch.clocks and (batch.start or close):
            return TurnPlan(batch.lead, [], clock, start=batch.start, close=close, work=_Work(batch, partition))
        clock = batch.clocks[-1] if batch.clocks else clock
        # Without records the clock of event time stands still: nothing can be due. Without a model nobody moves.
        looks = context.model is not None and (bool(records) or not self._event_time)
        return TurnPlan(
            len(batch.clocks), list(batch.own), clock, clock if looks else None, work=_Work(batch, partition)
        )

    def absorb(self, records: Sequence[KafkaRecord], partition: int, context: TurnContext) -> TurnPlan:
        """As `plan`, for what was delivered before."""
        until = max(context.now, context.clock)
        batch = self._reader.read(records, context.clock, context.backfills, replayed_until=until)
        clock, taken = batch.clocks[-1] if batch.clocks else context.clock, len(batch.clocks)
        return TurnPlan(
            taken,
            list(batch.own),
            clock,
            backfills=batch.registry,
            closed=batch.closed,
            work=_Work(batch, partition),
        )

    def merge(self, plan: TurnPlan, values: Sequence[bytes | None]) -> dict[bytes, bytes]:
        """The states after the plan's records: merged at their clocks, nothing scored."""
        scratch, open_slots = Turn(0, 0), (plan.backfills or NONE_OPEN).open_slots
        changed: dict[bytes, bytes] = {}
        batch = _work(plan).batch
        for customer in self._customers(plan, values, (), scratch):
            for _ in customer.own:
                self._merge(customer, batch, open_slots, scratch)
            if customer.changed and customer.value is not None:
                changed[customer.key] = customer.value
        return changed

    def decide(
        self,
        plan: TurnPlan,
        values: Sequence[bytes | None],
        fired: Sequence[DueEntry],
        more: bool,
        context: TurnContext,
    ) -> Turn:
        """A prefix of the fold: the plan's records, and what is due before them (TIME 7, bounded turn)."""
        batch, model = _work(plan).batch, _model(context)
        bound = (plan.clock, b"")
        if more:
            bound = (fired[-1].at, fired[-1].key)
            fired = fired[:-1]
        # In wall time slices interleave freely: a flood of due customers doesn't hold up the orders.
        taken = bisect_right(batch.clocks, bound[0]) if self._event_time else plan.taken
        turn = Turn(taken, self._clock(context), dead=[d for d in batch.dead if d.position < taken])
        turn.backfills = batch.backfills(taken)
        customers = self._customers(plan, values, fired, turn)
        moves = self._fold(customers, batch, bound, taken, model, context.backfills, turn)
        moves.sort(key=lambda move: move.order)
        last = [batch.clocks[taken - 1]] if taken else []
        turn.clock = max([turn.clock, *last, *(move.at for move in moves)])
        self._finish(turn, customers, moves, context.now, model)
        turn.dead = sorted(d for d in turn.dead if d.position < taken)
        return turn

    def rescore(self, rows: Sequence[tuple[bytes, bytes]], quiet: Sequence[bool], context: TurnContext) -> Turn:
        """Each customer at the clock, under a new model or when a back-fill is over; the quiet ones only get their due time.

        Who is still muted is left alone, and who has lost every order; who was muted by what is over is so no longer.
        """
        clock, model = self._clock(context), _model(context)
        turn = Turn(0, clock)
        rows, quiet = self._without_staying(rows, quiet, context, turn)
        muted = context.backfills.open_slots
        customers, starts, asked = list[Customer](), list[int](), list[Asked]()
        for (key, value), told in zip(rows, quiet, strict=True):
            slot = muted_by(value)
            if slot in muted or not (slot or context.scope is not Scope.RELEASED) or is_lost(value):
                continue
            customer = Customer(key, with_mute(value, 0) if slot else value, changed=bool(slot))
            # What the due index says of the muted is from before, and no instant of theirs may be told any more.
            customer.fired_at = clock if slot else None
            silent = told or not (slot or context.scope is Scope.EVERYONE)
            if not silent:
                # Not of the silent: who is due at this very instant is told with the figures of the one before.
                customer.value = advance_bytes(customer.value or EMPTY, clock, self._rules)
                customer.prior = customer.value if announcement(customer.value)[0] else None
                cause = Cause.BACKFILL if slot else None
                asked.append(Asked(customer, clock, (0, BY_TIME, clock, key), None, cause))
            customers.append(customer)
            # What was told is told up to, not including, the clock: at it, what is due still waits.
            starts.append(clock if silent else clock + 1)
        moves: list[Move] = []
        if model is not None:
            moves = score(asked, model, self._dwell_ms, self._rules)
            search(customers, starts, model, self._dwell_ms, self._rules)
        self._finish(turn, customers, moves, context.now, model)
        return turn

    def _without_staying(
        self, rows: Sequence[tuple[bytes, bytes]], quiet: Sequence[bool], context: TurnContext, turn: Turn
    ) -> tuple[Sequence[tuple[bytes, bytes]], Sequence[bool]]:
        """Leave out whom a new model leaves where they are, quiet or not, with nothing else to be said: the turn gets their due times."""
        model = _model(context)
        if model is None or context.scope is not Scope.EVERYONE or not rows:
            return rows, quiet
        values = [value for _, value in rows]
        head = headers(values)
        plain = (head["flags"] >> 1 == 0) & (head["first"] != NEVER) & (turn.clock < head["next_change"])
        plain &= model.scorer.index_from_ids(head["segment"]) != UNKNOWN
        if not plain.all():
            values, head = list(compress(values, plain.tolist())), head[plain]
        stays, wake = staying(values, head, turn.clock, model, self._dwell_ms, self._rules)
        plain[plain] = stays
        found = zip(compress(rows, plain.tolist()), wake.tolist(), strict=True)
        turn.earlier = {key: at for (key, _), at in found if at < NEVER_DUE}
        others = (~plain).tolist()
        return list(compress(rows, others)), list(compress(quiet, others))

    def patch(self, value: bytes | None, note: bytes) -> bytes:
        """The announced segment and sequence of a published move."""
        return with_announcement(EMPTY if value is None else value, *NOTE.unpack(note))

    def is_erased(self, value: bytes) -> bool:
        """Return whether the erasure is all that is left, and published."""
        return is_erased(value)

    # ---- the fold

    def _silent(self, context: TurnContext) -> tuple[str, ...]:
        """The back-fills of which nothing has come for too long, while no record says how late it is."""
        if self._event_time or not context.backfills.rows:
            return ()
        return tuple(context.backfills.silent_since(context.now - self._reader.backfill_expiry_ms))

    def _clock(self, context: TurnContext) -> int:
        return context.clock if self._event_time else max(context.clock, context.now)

    def _customers(
        self, plan: TurnPlan, values: Sequence[bytes | None], fired: Sequence[DueEntry], turn: Turn
    ) -> list[Customer]:
        """Who takes part: those with records (each on the right partition), and those due."""
        batch, partition = _work(plan)
        parts: dict[bytes, Customer] = {}
        for key, value in zip(plan.keys, values, strict=True):
            if value is None and self._partitioner and (right := self._partitioner(key, self._partitions)) != partition:
                message = f"customer {key.decode()!r} belongs on partition {right}, not {partition}: check the producer's partitioner."
                turn.dead += [DeadLetter(i, Reason.WRONG_PARTITION.value, None, message) for i in batch.own[key]]
            else:
                parts[key] = Customer(key, value, batch.own[key])
        for due in fired:
            if due.value is None:
                turn.idle.append(due.key)
            else:
                parts.setdefault(due.key, Customer(due.key, due.value)).fired_at = due.at
        return list(parts.values())

    def _fold(
        self,
        customers: list[Customer],
        batch: Batch,
        bound: tuple[int, bytes],
        taken: int,
        model: CompiledModel | None,
        backfills: Backfills,
        turn: Turn,
    ) -> list[Move]:
        """Rounds of one event a customer: its next move by time if that comes before its next record, else the record."""
        told: list[Move] = []
        open_slots = (turn.backfills or backfills).open_slots
        if model is not None:
            fired = [c for c in customers if c.fired_at is not None and not self._is_silent(c)]
            search(fired, [c.fired_at or 0 for c in fired], model, self._dwell_ms, self._rules)
        active = customers
        while active:
            due: list[Customer] = []
            arrived: list[Customer] = []
            for c in active:
                place = c.own[c.done] if c.done < len(c.own) and c.own[c.done] < taken else None
                if c.due < NEVER_DUE and (c.due, c.key) < (bound if place is None else (batch.clocks[place], b"")):
                    due.append(c)
                elif place is not None:
                    arrived.append(c)
            asked = [a for c in arrived if (a := self._merge(c, batch, open_slots, turn)) is not None]
            if model is not None:
                told += self._round(due, asked, batch, model)
            active = due + arrived
        return told

    def _round(self, due: list[Customer], asked: list[Asked], batch: Batch, model: CompiledModel) -> list[Move]:
        """The moves of a round, each with its forecast."""
        places: list[FoldPosition] = [(bisect_right(batch.clocks, c.due), BY_TIME, c.due, c.key) for c in due]
        starts = [c.due + 1 for c in due] + [a.at + 1 for a in asked]
        moves = move_by_time(due, places, model, self._dwell_ms, self._rules)
        erased = [a for a in asked if a.arrival and a.arrival.entry[0] & 7 == Kind.ERASED]
        for a in erased:
            moves += self._erase(a)
        if erased:
            gone = {a.customer for a in erased}
            moves += score([a for a in asked if a.customer not in gone], model, self._dwell_ms, self._rules)
        else:
            moves += score(asked, model, self._dwell_ms, self._rules)
        search(due + [a.customer for a in asked], starts, model, self._dwell_ms, self._rules)
        return moves

    @staticmethod
    def _is_silent(c: Customer) -> bool:
        """Whether a customer whose time has come isn't to be told of: what the due index says of it is dropped."""
        if c.value is None or not is_silent(c.value):
            return False
        c.searched = True
        return True

    def _merge(self, c: Customer, batch: Batch, open_slots: frozenset[int], turn: Turn) -> Asked | None:
        """Merge the customer's next record. None: it added nothing, or the customer isn't to be scored."""
        place = c.own[c.done]
        c.done += 1
        arrival, clock = batch.arrivals[place], batch.clocks[place]
        assert arrival is not None
        value, outcome = absorb_bytes(c.value, arrival.entry, clock, self._rules)
        turn.counts[outcome.value] += 1
        if is_capped(value) and not (c.value and is_capped(c.value)):
            turn.counts[CAPPED] += 1
        if outcome in UNCHANGED or (outcome is Outcome.LATE and self._forgotten(c.value, value, clock)):
            return None
        if outcome is Outcome.CONFLICT:
            message = f"event id {arrival.event_id!r} was seen before with other content: the later date counts."
            turn.dead.append(DeadLetter(place, Reason.CONFLICTING_ID.value, "id", message))
        # An erasure is told at once, whatever else is going on.
        erased = arrival.entry[0] & 7 == Kind.ERASED
        if slot := batch.mutes.get(place) or muted_by(value):
            value = with_mute(value, slot if slot in open_slots and not erased else 0)
        c.prior, c.value, c.changed = c.value, value, True
        # Nor is it said what a refund does to orders that are no longer known.
        if not erased and is_silent(value):
            c.due, c.wake, c.searched = NEVER_DUE, NEVER_DUE, True
            return None
        return Asked(c, clock, (place, BY_RECORD, clock, c.key), arrival)

    def _forgotten(self, prior: bytes | None, value: bytes, clock: int) -> bool:
        """Whether a late record only repeats what was folded away long ago."""
        return prior is not None and value == advance_bytes(prior, clock, self._rules)

    def _erase(self, asked: Asked) -> list[Move]:
        """An erasure is a numbered move to nowhere, told where a segment had been told (STATE 5)."""
        customer = asked.customer
        customer.erased = True
        if not announcement(customer.value or EMPTY)[0]:
            return []
        move = announce(customer, 0, asked.at, Cause.ERASURE, asked.place)
        move.causation_id = asked.arrival.event_id if asked.arrival else None
        return [move]

    def _finish(
        self, turn: Turn, customers: list[Customer], moves: list[Move], now: int, model: CompiledModel | None
    ) -> None:
        """What is to be stored and published."""
        for c in customers:
            if c.changed and c.value is not None:
                turn.states[c.key] = c.value
            if not c.searched:
                continue
            if c.fired_at is None and not c.erased:
                if c.wake < NEVER_DUE:
                    turn.earlier[c.key] = c.wake
            elif c.wake < NEVER_DUE:
                turn.due[c.key] = c.wake
            else:
                turn.idle.append(c.key)
        if model is not None and moves:
            turn.outputs = [model.writer.write(move, now) for move in moves]
            turn.counts.update(f"moves_{move.cause.value}" for move in moves)
