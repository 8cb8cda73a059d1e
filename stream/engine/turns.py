"""A shard's turns, one after the other: the work of a shard's owner while nothing fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol, Unpack

from segmentation.events import Reason
from segmentation.step import (
    Activation,
    BatchTooLong,
    DeadLetter,
    DueEntry,
    Scope,
    Turn,
    TurnContext,
)
from stream.engine.flow_control import FlowControl, TurnSlots, deadline
from stream.engine.ownership import Owned, ShardContext, planned, rewrite_former, stepping
from stream.engine.rescoring import is_empty, is_limited, rescored
from stream.engine.side_inputs import NO_SIDES, SideBatch
from stream.engine.step_failures import BatchResult, StepFailures
from stream.engine.store import Writes
from stream.errors import ShardLost, StepFailed
from stream.metrics import Metrics
from stream.status.board import StatusBoard
from stream.status.held_back import InputDisplay
from stream.storage.heads import Fingerprint, HeadChange, KafkaHead
from stream.storage.output_log import LogRecord

log = logging.getLogger(__name__)


class Models(Protocol):
    """The segment models, as far as a shard needs them."""

    def latest(self) -> Activation:
        """Return the newest activation on the topic."""

    def compiled(self, version: str) -> object | None:
        """Return the model of that version in the step's own form; None: it isn't loaded (yet)."""

    def refuses(self, version: str) -> bool:
        """Return whether a model of that version was read and can't be used."""


class Turns:
    """Runs the turns of one shard: batches with their transactions, starts of models, ends of backfills."""

    def __init__(
        self,
        shard: ShardContext,
        models: Models | None,
        metrics: Metrics,
        board: StatusBoard,
        slots: TurnSlots,
        now_ms: Callable[[], int],
        stopping: asyncio.Event,
    ) -> None:
        """`models` None: the step uses none. `slots`: limits the turns at one time. `now_ms`: the wall clock."""
        self.shard = shard
        self.offset: int | None = None  # N of the last turn published; None: not taken over yet
        self._models = models
        self._metrics = metrics
        self._board = board
        self._slots = slots
        self._now_ms = now_ms
        self._stopping = stopping
        self._pending: list[LogRecord] = []  # fetched, not yet in a turn
        self._flow = FlowControl(shard.settings, slots)
        self._failures = StepFailures(self._flow)
        self._input = InputDisplay(shard, shard.step.name, metrics, board)
        self._rescored = False  # the last turn was a slice of a rescore
        self._wait_until: float | None = None  # how long to wait for a model that a record names
        self._next_due: int | None = None  # the earliest entry of the due index (wall time, ms); None: it is empty
        self._doubt = ""  # why the shard must be taken over afresh

    def begin(self, owned: Owned) -> None:
        """Start from the head of a shard that was just taken over."""
        self.offset = owned.head.offset
        self._pending, self._wait_until, self._next_due = [], None, None
        self._doubt = ""

    def doubt(self, cause: str) -> None:
        """Let the shard be taken over afresh before its next turn: what a takeover checks may have changed."""
        self._doubt = cause

    async def turn(self, owned: Owned) -> None:
        """Run one turn (docs/explanation/exactly-once.md, section 3).

        1. One bounded batch: the next records with the customers due before them; or due customers alone; or a slice of
           a rescore; or the start of an activation, alone. Beside it what has come on side inputs (section 16); after a
           takeover that alone, until it was read as far as it went.
        2. One atomic load under the head that this owner wrote last. (Else it would work on another owner's states.)
        3. The step: pure. An activation older than M never scores.
        4. One Kafka transaction, with or without outputs: outputs acknowledged, then the head, then commit. (Every
           turn: else an owner that still has Redis but has lost Kafka never notices.)
        5. One compare-and-set in Redis. (Kafka before Redis: else a move could be noted as published that never was.)
        6. When idle, the head is compared on every poll, also when nothing is due. (Else a rollback goes unseen.)
        """
        if self._doubt:
            raise ShardLost(self._doubt, f"{self.shard} is to be looked at again.")
        context = await self._context(owned)
        if context is None:
            return
        rescoring = owned.head.cursor is not None
        if not rescoring or not self._flow.rescores_now(limited=is_limited(context)):
            await self._wait_for_records(owned)
        async with self._slots:
            before = owned.head.turn
            await self._turn_in_slot(owned, context, rescoring=rescoring)
            await rewrite_former(owned, idle=owned.head.turn == before)

    async def _turn_in_slot(self, owned: Owned, context: TurnContext, *, rescoring: bool) -> None:
        if (newer := self._newer(owned)) is not None:
            await self._start(owned, newer, owned.head.offset)
            return
        if rescoring and (self.shard.step.rescore_first or self._may_rescore(context)):
            self._rescored = True
            await self._rescore(owned, context)
            return
        self._rescored = False
        fetched, position = await self._take(owned)
        side = await self._take_sides(owned, fetched, position)
        began = time.monotonic()
        context = context._replace(now=self._now_ms())
        plan, turn, known, records, side = await self._decide(owned, [] if side.alone else fetched, side, context)
        if plan.start is not None:
            await self._start_record(owned, plan.start, records)
            return
        if plan.close:
            await self._end_backfills(owned, plan.close, records[: plan.taken])
            return
        behind = self._pending[0].offset if self._pending else position
        stays = not records and (behind == owned.head.offset or side.alone)
        if turn is None or (stays and is_empty(turn) and not owned.sides.must_store(side)):
            self.shard.store.keep(turn.held if turn else {})
            if turn is not None:
                owned.sides.done(side, stored=False)
            return
        taken = turn.taken
        del self._pending[:taken]
        offset = self._pending[0].offset if self._pending else position
        await self._publish(owned, turn, records[:taken], offset, known, side)
        seconds = time.monotonic() - began
        self._flow.done(max(taken, len(side.taken)), len(turn.due) + len(turn.idle), seconds)
        self._metrics.turn_seconds.labels(self.shard.step.name).observe(seconds)
        kind = "records" if taken else "sides" if side.taken else "due"
        self._metrics.turns.labels(self.shard.step.name, kind).inc()

    async def _context(self, owned: Owned) -> TurnContext | None:
        """Return the state of the shard as the turn begins; None while its model isn't loaded."""
        head = owned.head
        model = None
        if head.activation and self._models and (model := self._models.compiled(head.version)) is None:
            await self._wait_for_model(owned, head.version)
            return None
        scoring = Activation(head.activation, head.version), model
        return TurnContext(head.clock, self._now_ms(), *scoring, head.backfills, head.scope, former=head.former)

    def _newer(self, owned: Owned) -> Activation | None:
        """Return the activation to start now, in wall time. In event time a record of the input starts it."""
        if self._models is None or self.shard.step.rescore_first:
            return None
        latest = self._models.latest()
        ready = latest.number > owned.head.activation and self._models.compiled(latest.version) is not None
        return latest if ready else None

    async def _wait_for_records(self, owned: Owned) -> None:
        """Wait until there are records, or a customer is due."""
        settings = self.shard.settings
        await owned.sides.wait()
        if self._wait_until is not None:
            await self._pause(0.1)
        elif not self._pending:
            await self._flow.keep_distance()
            self._pending = await owned.reader.read(settings.turn_max_orders, self._until_due_ms(owned))

    def _until_due_ms(self, owned: Owned) -> int:
        """Return how long to wait for records (ms): until the next customer is due, at most a poll.

        In event time customers only become due by a record. No time at all while states are being rewritten.
        """
        poll_ms = 0 if owned.head.rewritten is not None else self.shard.settings.due_poll_ms
        if (pause_ms := owned.sides.pause_ms()) is not None:
            poll_ms = min(poll_ms, pause_ms)
        if self._next_due is None or self.shard.step.rescore_first:
            return poll_ms
        # A customer due at T is looked at once the clock has passed T.
        return min(poll_ms, max(self._next_due + 1 - self._now_ms(), 0))

    async def _take(self, owned: Owned) -> tuple[list[LogRecord], int]:
        """Return (the next records within the bounds, the reader's position behind all that was fetched)."""
        settings = self.shard.settings
        if (room := settings.turn_max_orders - len(self._pending)) > 0:
            # Records that came while other shards had their turns.
            self._pending += await owned.reader.read(room, 0)
        self._flow.begin()
        self._input.show(owned.reader.known_bounds(), owned.head.offset)
        self._input.show_sides(owned.sides.lags)
        position = await owned.reader.position()
        size = 0
        for count, record in enumerate(self._pending[: self._flow.limit]):
            size += len(record.value or b"")
            if size > settings.turn_max_bytes and count:
                return self._pending[:count], position
        return self._pending[: self._flow.limit], position

    async def _take_sides(self, owned: Owned, records: Sequence[LogRecord], position: int) -> SideBatch:
        """Return what the turn takes of the side inputs. `records`: the turn's. `position`: behind all fetched."""
        if not owned.sides:
            return NO_SIDES
        owned.sides.note_answer(owned.reader.answered_at())
        known = owned.reader.known_bounds()
        drained = len(records) == len(self._pending) and known is not None and position >= known[1]
        limit = 0 if self._failures.pause_sides() else self._flow.limit
        return await owned.sides.take(limit, records[-1].timestamp if records else None, drained=drained)

    async def _decide(
        self, owned: Owned, records: Sequence[LogRecord], side: SideBatch, context: TurnContext
    ) -> BatchResult:
        """Let the step decide a batch. Raises StepFailed where the step raises without a record."""
        shard, slice_ = self.shard, self._flow.due_slice
        context = context._replace(side=side.records, behind=side.behind)
        assert owned.raw is not None
        fired, due = list[DueEntry](), 0
        try:
            plan = await planned(shard, shard.step.plan, records, context)
            if plan.start is not None or plan.close:
                return BatchResult(plan, records=records)
            loaded = await shard.store.load(owned.raw, plan.keys, plan.horizon, slice_ + 1, shard.step.hold)
            fired, due = loaded.fired, min(len(loaded.fired), slice_)
            self._next_due = fired[-1].at if len(fired) > slice_ else loaded.next_due
            timed = context._replace(overdue=deadline()) if max(len(records), len(side.records), due) > 1 else context
            turn = stepping(shard.step.decide, plan, loaded.values, fired, len(fired) > slice_, timed)
        except BatchTooLong:
            self._flow.too_long(max(len(records), len(side.records)), due)
            self._next_due = fired[0].at if fired else self._next_due  # they are still to come
            return BatchResult(plan)
        except StepFailed as failure:
            if side.records:
                return await self._failures.decide_sides(owned, side, context)
            if not records:
                raise
            nothing = stepping(shard.step.plan, [], shard.partition, context)
            examined = await self._failures.examine(owned, records, context, failure, fired)
            return BatchResult(nothing, examined, records=records)
        known = loaded.present(plan.keys)
        known.update(due.key for due in fired)
        return BatchResult(plan, turn, known, records, side)

    async def _publish(
        self,
        owned: Owned,
        turn: Turn,
        records: Sequence[LogRecord],
        next_offset: int,
        known: AbstractSet[bytes],
        side: SideBatch = NO_SIDES,
        **change: Unpack[HeadChange],
    ) -> None:
        """Perform steps 4 and 5 of a turn. `next_offset`: N after it. `known`: keys that have a state already."""
        shard, head = self.shard, owned.head
        kafka = KafkaHead(
            offset=next_offset,
            count=head.count + len(turn.outputs),
            clock=turn.clock,
            activation=change.get("activation", head.activation),
            version=change.get("version", head.version),
            cursor=change.get("cursor", head.cursor),
            scope=change.get("scope", head.scope),
            era=head.era,
            agreed=shard.step.agreed,
            judged=owned.judged,
            partitions=shard.settings.partitions,
            changes=head.changes,
            reread=owned.reread,
        )
        created = [key for key in turn.states if key not in known]
        writes = Writes(
            turn.states, held=turn.held, created=created, earlier=turn.earlier, due=turn.due, idle=turn.idle
        )
        writes = shard.store.with_tombstones(writes, shard.step)
        publication = await owned.publication(kafka, turn.outputs, turn, records, writes, self._now_ms(), side.taken)
        published = await owned.ledger.publish(publication)
        if published:
            await owned.check_alone(published.written)
            change |= {"position": published.position, "written": published.last}
        if turn.backfills is not None:
            change["backfills"] = turn.backfills
        if records:
            last = records[-1]
            change["read"] = Fingerprint.of(last.offset, last.timestamp, last.key, last.value)
        side = owned.sides.after(side)
        change |= {"offset": next_offset, "count": kafka.count, "clock": turn.clock, "merge_clock": turn.clock}
        change["sides"] = side.offsets
        await owned.commit(writes, **change)
        owned.sides.done(side, stored=True)
        if not shard.step.rescore_first:  # in event time `_next_due` isn't used
            soonest = (self._next_due, *turn.earlier.values(), *turn.due.values())
            self._next_due = min((at for at in soonest if at is not None), default=None)
        self._count(owned, turn, len(records))

    async def _start_record(self, owned: Owned, start: Activation, records: Sequence[LogRecord]) -> None:
        """Start a model by a record of the input (event time): a turn with this record alone."""
        turn = Turn(1, owned.head.clock)
        newer = self._models is not None and start.number > owned.head.activation
        if newer and self._models is not None and self._models.compiled(start.version) is None:
            if await self._keeps_waiting(owned, start.version):
                return
            # The model in use stays: an order must not wait for a model that never comes.
            message = f"activation {start.number} names model {start.version!r}, which was refused or never published."
            turn.dead.append(DeadLetter(0, Reason.UNKNOWN_MODEL.value, "version", message))
            newer = False
        self._wait_until = None
        offset = records[0].offset + 1
        if newer:
            await self._start(owned, start, offset, records[:1])
        else:
            await self._publish(owned, turn, records[:1], offset, frozenset())
        del self._pending[:1]

    async def _start(self, owned: Owned, start: Activation, offset: int, records: Sequence[LogRecord] = ()) -> None:
        log.info("%s: model %s starts (activation %d)", self.shard, start.version, start.number)
        turn = Turn(len(records), owned.head.clock)
        await self._publish(
            owned, turn, records, offset, frozenset(),
            activation=start.number, version=start.version, cursor="", quiet="", scope=Scope.EVERYONE,
        )  # fmt: skip
        self._metrics.turns.labels(self.shard.step.name, "start").inc()

    async def _end_backfills(self, owned: Owned, names: tuple[str, ...], records: Sequence[LogRecord]) -> None:
        """End backfills, by a record or because they expired: a turn by itself, and a rescore begins."""
        head = owned.head
        why = "finished" if records else "expired: no record of it came for too long"
        log.info("%s: backfill %s %s", self.shard, ", ".join(names), why)
        turn = Turn(len(records), head.clock, backfills=head.backfills.close(names))
        offset = records[-1].offset + 1 if records else head.offset
        scope = head.scope_with_released()
        await self._publish(owned, turn, records, offset, frozenset(), cursor="", quiet="", scope=scope)
        del self._pending[: len(records)]
        self._metrics.turns.labels(self.shard.step.name, "start").inc()

    def _may_rescore(self, context: TurnContext) -> bool:
        """Return whether a slice may come now. In wall time slices alternate with records; a limit may delay them."""
        return not self._rescored and self._flow.rescores_now(limited=is_limited(context))

    async def _rescore(self, owned: Owned, context: TurnContext) -> None:
        turn, change = await rescored(owned, context, self._flow)
        await self._publish(owned, turn, (), owned.head.offset, set(turn.states), **change)
        self._flow.rescored(len(turn.outputs))
        self._metrics.turns.labels(self.shard.step.name, "rescore").inc()

    async def _keeps_waiting(self, owned: Owned, version: str) -> bool:
        """Return whether to wait longer for a model that a record names: not if it was refused, and not for ever."""
        if self._wait_until is None:
            self._wait_until = time.monotonic() + self.shard.settings.commit_timeout_s
        if time.monotonic() > self._wait_until or (self._models is not None and self._models.refuses(version)):
            return False
        await self._board.put(self.shard, "waiting for model", owned.head, reason="model_unknown", detail=version)
        return True

    async def _wait_for_model(self, owned: Owned, version: str) -> None:
        await self._board.put(self.shard, "waiting for model", owned.head, reason="model_unknown", detail=version)
        await asyncio.sleep(0.1)

    def _count(self, owned: Owned, turn: Turn, taken: int) -> None:
        metrics, labels = self._metrics, (self.shard.step.name, str(self.shard.partition))
        self.offset = owned.head.offset
        metrics.clock.labels(*labels).set(owned.head.clock / 1000)
        metrics.activation.labels(*labels).set(owned.head.activation)
        metrics.rescoring.labels(*labels).set(owned.head.cursor is not None)
        metrics.count_turn(self.shard.step.name, self.shard.partition, turn, taken)
        self._board.note(self.shard, owned.head)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
