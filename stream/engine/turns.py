"""A shard's turns, one after the other: what the owner of a shard does while nothing fails."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from segmentation.events import Reason
from segmentation.step import Activation, DeadLetter, DueEntry, Scope, Turn, TurnContext
from stream.dead_letters.records import HEADER_ROOM, dead_record
from stream.engine.flow_control import FlowControl, TurnSlots
from stream.engine.ledger import Publication
from stream.engine.ownership import Owned, ShardContext, stepping
from stream.engine.status_board import StatusBoard
from stream.engine.store import Writes
from stream.errors import ShardQuarantined, StepFailed
from stream.metrics import Metrics
from stream.storage.heads import Fingerprint, KafkaHead

log = logging.getLogger(__name__)


class Models(Protocol):
    """What a shard must know of segment models."""

    def latest(self) -> Activation:
        """The newest activation on the topic."""

    def compiled(self, version: str) -> Any | None:
        """The model of that version in the step's form; None: not at hand (yet)."""

    def refuses(self, version: str) -> bool:
        """Whether a model of that version was there and can't be used."""


class Turns:
    """Works one shard for its owner: batches, their transactions, models, the ends of back-fills."""

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
        """`models` None: the step has none. `slots`: of the worker's turns under way at once. `now_ms`: the wall clock."""
        self.shard = shard
        self.offset: int | None = None  # N of the last turn told; None: not taken over yet
        self._models = models
        self._metrics = metrics
        self._board = board
        self._slots = slots
        self._now_ms = now_ms
        self._stopping = stopping
        self._pending: list[Any] = []  # fetched, not yet taken
        self._pace = FlowControl(shard.settings, slots)
        self._failures: dict[int, int] = {}  # offset -> how often the step raised on it
        self._rescored = False
        self._patience: float | None = None  # until when a model is waited for
        self._next_due: int | None = None  # when to look at the due index again (wall time, ms); None: nobody is in it
        self._labels = (shard.step.name, str(shard.partition))

    def begin(self, owned: Owned) -> None:
        """The shard was taken over afresh."""
        self.offset = owned.head.offset
        self._pending, self._patience, self._next_due = [], None, None

    async def turn(self, owned: Owned) -> None:
        """One turn (PROTOCOL, "Turn").

        1. One bounded batch: the next records with the customers due before them; or due customers alone; or a slice of
           the rescore; or the start of an activation, alone.
        2. One atomic load under the head that this owner wrote last. (Else work on foreign states.)
        3. The step: pure. An activation older than M never scores.
        4. One Kafka transaction, with or without outputs: outputs acknowledged, then the head, then commit. (Every turn:
           else an owner of Redis that has lost Kafka never notices.)
        5. One compare-and-set in Redis. (Kafka before Redis... never the other way: a move would be announced, not told.)
        6. Idle: the head is compared on every poll, also when nothing is due. (Else a rollback goes unseen.)
        """
        frame = await self._frame(owned)
        if frame is None:
            return
        rescoring = owned.head.cursor is not None
        if not rescoring or not self._pace.rescores_now(limited=self._is_limited(frame)):
            await self._wait_for_records(owned)
        async with self._slots:
            await self._turn_in_slot(owned, frame, rescoring=rescoring)

    async def _turn_in_slot(self, owned: Owned, frame: TurnContext, *, rescoring: bool) -> None:
        if (newer := self._newer(owned)) is not None:
            await self._start(owned, newer, owned.head.offset)
            return
        if rescoring and (self.shard.step.rescore_first or self._may_rescore(frame)):
            self._rescored = True
            await self._rescore(owned, frame)
            return
        self._rescored = False
        records, position = await self._take(owned)
        began = time.monotonic()
        frame = frame._replace(now=self._now_ms())
        plan, turn, known = await self._decide(owned, records, frame)
        if plan.start is not None:
            await self._start_record(owned, plan.start, records)
            return
        if plan.close:
            await self._end_backfills(owned, plan.close, records[: plan.taken])
            return
        behind = self._pending[0].offset if self._pending else position
        if turn is None or (not records and behind == owned.head.offset and self._nothing(turn)):
            return
        taken = turn.taken
        del self._pending[:taken]
        offset = self._pending[0].offset if self._pending else position
        await self._publish(owned, turn, records[:taken], offset, known)
        seconds = time.monotonic() - began
        self._pace.done(taken, len(turn.due) + len(turn.idle), seconds)
        self._metrics.turn_seconds.labels(self.shard.step.name).observe(seconds)
        self._metrics.turns.labels(self.shard.step.name, "records" if taken else "due").inc()

    async def _frame(self, owned: Owned) -> TurnContext | None:
        """Where the shard stands; None while the model it must score under isn't at hand."""
        head = owned.head
        model = None
        if head.activation and self._models:
            model = self._models.compiled(head.version)
            if model is None:
                await self._wait_for_model(owned, head.version)
                return None
        activation = Activation(head.activation, head.version)
        return TurnContext(head.clock, self._now_ms(), activation, model, head.backfills, head.scope)

    def _newer(self, owned: Owned) -> Activation | None:
        """The activation to be started now (wall time; in event time a record of the input says when)."""
        if self._models is None or self.shard.step.rescore_first:
            return None
        latest = self._models.latest()
        ready = latest.number > owned.head.activation and self._models.compiled(latest.version) is not None
        return latest if ready else None

    async def _wait_for_records(self, owned: Owned) -> None:
        """Until there are some, or it is time to look at what is due."""
        settings = self.shard.settings
        if self._patience is not None:
            await self._pause(0.1)
        elif not self._pending:
            await self._pace.keep_distance()
            self._pending = await owned.reader.read(settings.turn_max_orders, self._until_due_ms())

    def _until_due_ms(self) -> int:
        """How long to wait for records: no longer than until somebody is due. In event time nobody is without a record."""
        poll_ms = self.shard.settings.due_poll_ms
        if self._next_due is None or self.shard.step.rescore_first:
            return poll_ms
        # Who is due at T is told when the clock has passed T.
        return min(poll_ms, max(self._next_due + 1 - self._now_ms(), 0))

    async def _take(self, owned: Owned) -> tuple[list[Any], int]:
        """(the next records within the bounds, the reader's position behind all that was fetched)."""
        settings = self.shard.settings
        if (room := settings.turn_max_orders - len(self._pending)) > 0:
            # What has come while others had their turns.
            self._pending += await owned.reader.read(room, 0)
        self._pace.begin()
        if (end := owned.reader.known_end()) is not None:
            self._metrics.lag.labels(*self._labels).set(max(end - owned.head.offset, 0))
        position = await owned.reader.position()
        size = 0
        for count, record in enumerate(self._pending[: self._pace.limit]):
            size += len(record.value or b"")
            if size > settings.turn_max_bytes and count:
                return self._pending[:count], position
        return self._pending[: self._pace.limit], position

    async def _decide(
        self, owned: Owned, records: list[Any], frame: TurnContext
    ) -> tuple[Any, Turn | None, set[bytes]]:
        """(plan, turn, keys that have a state already).

        A step that raises gets half the batch the next time; alone, a record is tried `step_retries` times and then
        goes to the dead letters.
        """
        shard, slice_ = self.shard, self._pace.due_slice
        assert owned.raw is not None
        fired: list[DueEntry] = []
        try:
            plan = stepping(shard.step.plan, records, shard.partition, frame)
            if plan.start is not None or plan.close:
                return plan, None, set()
            loaded = await shard.store.load(owned.raw, plan.keys, plan.horizon, slice_ + 1)
            fired = loaded.fired
            self._next_due = fired[-1].at if len(fired) > slice_ else loaded.next_due
            turn = stepping(shard.step.decide, plan, loaded.values, fired, len(fired) > slice_, frame)
        except StepFailed as fault:
            return await self._failed(owned, records, frame, fault, fired)
        known = loaded.present(plan.keys)
        known.update(due.key for due in fired)
        return plan, turn, known

    async def _failed(
        self, owned: Owned, records: list[Any], frame: TurnContext, fault: StepFailed, fired: Sequence[DueEntry]
    ) -> tuple[Any, Turn | None, set[bytes]]:
        """Find out who is to blame. Raises StepFailed where it is no record."""
        digest = hashlib.sha256("".join(traceback.format_exception(fault)).encode()).hexdigest()[:12]
        shard = self.shard
        if not records:
            raise fault
        nothing = stepping(shard.step.plan, [], shard.partition, frame)
        self._pace.failed(len(records))
        if len(records) > 1:
            return nothing, None, set()
        offset = records[0].offset
        log.error("%s: the step raised on offset %d (traceback %s)", shard, offset, digest, exc_info=fault.__cause__)
        self._failures[offset] = self._failures.get(offset, 0) + 1
        if self._failures[offset] < shard.settings.step_retries:
            return nothing, None, set()
        del self._failures[offset]
        if fired:
            # Without those who are due: if that goes well, the record isn't what the step can't survive.
            alone = stepping(shard.step.plan, records, shard.partition, frame)
            values = (await shard.store.load(owned.raw or b"", alone.keys, None, 0)).values
            with contextlib.suppress(StepFailed):
                stepping(shard.step.decide, alone, values, [], False, frame)
                raise ShardQuarantined(
                    "step_failed", f"a due customer makes the step raise: {fault} (traceback {digest})."
                )
        letter = DeadLetter(0, "step_failed", None, f"{fault} (traceback {digest})")
        return nothing, Turn(1, frame.clock, dead=[letter]), set()

    @staticmethod
    def _nothing(turn: Turn) -> bool:
        return not (turn.outputs or turn.states or turn.due or turn.idle or turn.earlier)

    async def _publish(
        self, owned: Owned, turn: Turn, records: Sequence[Any], offset: int, known: set[bytes], **changes: Any
    ) -> None:
        """Steps 4 and 5 for whatever was decided."""
        shard, head = self.shard, owned.head
        kafka = KafkaHead(
            offset=offset,
            count=head.count + len(turn.outputs),
            clock=turn.clock,
            activation=changes.get("activation", head.activation),
            version=changes.get("version", head.version),
            cursor=changes.get("cursor", head.cursor),
            scope=changes.get("scope", head.scope),
        )
        limit = shard.settings.max_event_bytes + HEADER_ROOM // 2
        dead = [
            dead_record(
                records[d.position], d, shard.streams.input, shard.partition, now_ms=self._now_ms(), max_bytes=limit
            )
            for d in turn.dead
        ]
        writes = Writes(
            turn.states,
            created=[key for key in turn.states if key not in known],
            earlier=turn.earlier,
            due=turn.due,
            idle=turn.idle,
        )
        writes = shard.store.with_tombstones(writes, shard.step.is_erased)
        published = await owned.ledger.publish(Publication(kafka, turn.outputs, dead, writes.tombstones))
        if published:
            changes |= {"position": published.position, "written": published.last}
        if turn.backfills is not None:
            changes["backfills"] = turn.backfills
        if records:
            last = records[-1]
            changes["read"] = Fingerprint.of(last.offset, last.timestamp, last.key, last.value)
        await owned.commit(
            writes,
            offset=offset,
            count=kafka.count,
            clock=turn.clock,
            merge_clock=turn.clock,
            **changes,
        )
        if not shard.step.rescore_first:  # in event time nobody asks
            soonest = (self._next_due, *turn.earlier.values(), *turn.due.values())
            self._next_due = min((at for at in soonest if at is not None), default=None)
        self._count(owned, turn, len(records))

    # ---- models

    async def _start_record(self, owned: Owned, start: Activation, records: list[Any]) -> None:
        """A record of the input starts a model (event time): a turn of its own."""
        turn = Turn(1, owned.head.clock)
        newer = self._models is not None and start.number > owned.head.activation
        if newer and self._models is not None and self._models.compiled(start.version) is None:
            if await self._be_patient(owned, start.version):
                return
            # The last good one stays (MODELS): an order must not wait for a model that never comes.
            message = f"activation {start.number} names model {start.version!r}, which was refused or never published."
            turn.dead.append(DeadLetter(0, Reason.UNKNOWN_MODEL.value, "version", message))
            newer = False
        self._patience = None
        offset = records[0].offset + 1
        if newer:
            await self._start(owned, start, offset, records[:1])
        else:
            await self._publish(owned, turn, records[:1], offset, set())
        del self._pending[:1]

    async def _start(self, owned: Owned, start: Activation, offset: int, records: Sequence[Any] = ()) -> None:
        log.info("%s: model %s starts (activation %d)", self.shard, start.version, start.number)
        turn = Turn(len(records), owned.head.clock)
        await self._publish(
            owned, turn, records, offset, set(),
            activation=start.number, version=start.version, cursor="", quiet="", scope=Scope.EVERYONE,
        )  # fmt: skip
        self._metrics.turns.labels(self.shard.step.name, "start").inc()

    async def _end_backfills(self, owned: Owned, names: tuple[str, ...], records: Sequence[Any]) -> None:
        """Back-fills are over, by a record of the input or by a long silence: a turn of its own, and a rescore begins."""
        head = owned.head
        why = "finished" if records else "expired: nothing has come of it for too long"
        log.info("%s: back-fill %s %s", self.shard, ", ".join(names), why)
        turn = Turn(len(records), head.clock, backfills=head.backfills.close(names))
        offset = records[-1].offset + 1 if records else head.offset
        await self._publish(owned, turn, records, offset, set(), cursor="", quiet="", scope=head.scope_with_released())
        del self._pending[: len(records)]
        self._metrics.turns.labels(self.shard.step.name, "start").inc()

    def _may_rescore(self, frame: TurnContext) -> bool:
        """In wall time slices take turns with records, and a new model's may have to wait."""
        return not self._rescored and self._pace.rescores_now(limited=self._is_limited(frame))

    @staticmethod
    def _is_limited(frame: TurnContext) -> bool:
        return frame.scope is Scope.EVERYONE

    async def _rescore(self, owned: Owned, frame: TurnContext) -> None:
        head, limited = owned.head, self._is_limited(frame)
        assert owned.raw is not None
        assert head.cursor is not None
        cursor: str | None = head.cursor
        size, most = self._pace.rescore_size(limited=limited), self._pace.rescore_slices(limited=limited)
        told_until = None if head.quiet is None else head.quiet.encode()
        until = time.monotonic() + self.shard.settings.turn_max_ms / 1000
        turn = Turn(0, head.clock)
        while cursor is not None:
            rows, found, last = await self.shard.store.load_slice(owned.raw, cursor, size)
            quiet = [told_until is None or key <= told_until for key, _ in rows]
            looked_at = stepping(self.shard.step.rescore, rows, quiet, frame)
            turn.add(looked_at)
            cursor = None if found < size else last.decode()
            # A transaction costs the same for however many. What changes nothing isn't worth any.
            most -= not self._nothing(looked_at)
            if most <= 0 or len(turn.outputs) >= self.shard.settings.turn_max_orders or time.monotonic() > until:
                break
        changes: dict[str, Any] = {}
        if cursor is None:
            changes = {"quiet": "", "scope": Scope.EVERYONE}
            turn.backfills = head.backfills.without_closed()
        await self._publish(owned, turn, (), head.offset, set(turn.states), cursor=cursor, **changes)
        self._pace.rescored(len(turn.outputs))
        self._metrics.turns.labels(self.shard.step.name, "rescore").inc()

    async def _be_patient(self, owned: Owned, version: str) -> bool:
        """Whether to go on waiting for a model that a record names: not if it was refused, and not for ever."""
        if self._patience is None:
            self._patience = time.monotonic() + self.shard.settings.commit_timeout_s
        if time.monotonic() > self._patience or (self._models is not None and self._models.refuses(version)):
            return False
        await self._board.put(self.shard, "waiting for model", owned, reason="model_unknown", detail=version)
        return True

    async def _wait_for_model(self, owned: Owned, version: str) -> None:
        await self._board.put(self.shard, "waiting for model", owned, reason="model_unknown", detail=version)
        await asyncio.sleep(0.1)

    def _count(self, owned: Owned, turn: Turn, taken: int) -> None:
        metrics, step = self._metrics, self.shard.step.name
        self.offset = owned.head.offset
        metrics.records.labels(*self._labels).inc(taken)
        metrics.clock.labels(*self._labels).set(owned.head.clock / 1000)
        metrics.activation.labels(*self._labels).set(owned.head.activation)
        metrics.rescoring.labels(*self._labels).set(owned.head.cursor is not None)
        metrics.outputs.labels(step).inc(len(turn.outputs))
        for outcome, count in turn.counts.items():
            metrics.events.labels(step, outcome).inc(count)
        for letter in turn.dead:
            metrics.dead_letters.labels(step, letter.reason).inc()
        self._board.note(self.shard, owned)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
