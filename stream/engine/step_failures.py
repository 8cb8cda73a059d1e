"""A step that raises: find the record that makes it raise, and send that record to the dead letters."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import traceback
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from segmentation.step import DeadLetter, DueEntry, KafkaRecord, SideRecord, Turn, TurnContext, TurnPlan
from stream.engine.flow_control import FlowControl
from stream.engine.ownership import Owned, planned, stepping
from stream.engine.side_inputs import NO_SIDES, SideBatch
from stream.errors import ShardQuarantined, StepFailed
from stream.storage.output_log import LogRecord

log = logging.getLogger(__name__)


class BatchResult(NamedTuple):
    """The outcome of a batch. `turn` None: the plan needs another turn first, or a smaller batch comes next."""

    plan: TurnPlan
    turn: Turn | None = None
    known: AbstractSet[bytes] = frozenset()  # keys that have a state already
    records: Sequence[LogRecord] = ()  # those of the batch that count
    side: SideBatch = NO_SIDES


class StepFailures:
    """Counts how often the step raised on each record of a shard, and decides what follows.

    A batch is halved until the record stands alone. Alone it is tried `step_retries` times; then it is a dead letter.
    """

    def __init__(self, flow: FlowControl) -> None:
        """`flow`: the shard's, which makes the next batch smaller."""
        self._flow = flow
        self._attempts: dict[int, int] = {}  # by offset
        self._sides_decided = False  # alone, in the last turn: in the next one the input has its turn alone

    async def examine(
        self,
        owned: Owned,
        records: Sequence[KafkaRecord],
        context: TurnContext,
        failure: StepFailed,
        fired: Sequence[DueEntry],
    ) -> Turn | None:
        """Return a turn that makes the record a dead letter; None: try again, with a smaller batch.

        `records`: at least one. Raises ShardQuarantined where a due customer makes the step raise.
        """
        digest = hashlib.sha256("".join(traceback.format_exception(failure)).encode()).hexdigest()[:12]
        self._flow.failed(len(records))
        if len(records) > 1:
            return None
        shard, offset = owned.shard, records[0].offset
        log.error("%s: the step raised on offset %d (traceback %s)", shard, offset, digest, exc_info=failure.__cause__)
        self._attempts[offset] = self._attempts.get(offset, 0) + 1
        if self._attempts[offset] < shard.settings.step_retries:
            return None
        del self._attempts[offset]
        if fired:
            await self._exclude_due(owned, records, context, f"{failure} (traceback {digest})")
        letter = DeadLetter(0, "step_failed", None, f"{failure} (traceback {digest})")
        return Turn(1, context.clock, dead=[letter])

    def pause_sides(self) -> bool:
        """Return whether the next turn is to take nothing of side inputs: the step raised, and not because of them."""
        paused, self._sides_decided = self._sides_decided, False
        return paused

    async def decide_sides(self, owned: Owned, side: SideBatch, context: TurnContext) -> BatchResult:
        """Return a turn of the side records alone; the first one that makes the step raise becomes a dead letter.

        The contract forbids it to, so it isn't tried again, and those behind it wait for the next turn. Raises
        StepFailed where the step raises without any record.
        """
        context = context._replace(behind=True)  # nobody falls due
        try:
            result = await self._decide_first(owned, side.records, context)
        except StepFailed as error:
            failure = error
        else:
            self._sides_decided = True
            return result._replace(side=side)
        result = await self._decide_first(owned, (), context)
        passed, failed = 0, len(side.records)
        while failed - passed > 1:
            count = (passed + failed) // 2
            try:
                result, passed = await self._decide_first(owned, side.records[:count], context), count
            except StepFailed as error:
                failed, failure = count, error
        topic, record = side.taken[passed]
        log.error("%s: the step raised on %s, offset %d", owned.shard, topic, record.offset, exc_info=failure.__cause__)
        assert result.turn
        result.turn.side_dead.append(DeadLetter(passed, "step_failed", None, str(failure)))
        return result._replace(side=owned.sides.first(side, failed))

    @staticmethod
    async def _decide_first(owned: Owned, records: Sequence[SideRecord], context: TurnContext) -> BatchResult:
        shard = owned.shard
        context = context._replace(side=records)
        plan = await planned(shard, shard.step.plan, [], context)
        loaded = await shard.store.load(owned.raw or b"", plan.keys, None, 0)
        turn = stepping(shard.step.decide, plan, loaded.values, [], False, context)
        return BatchResult(plan, turn, loaded.present(plan.keys))

    @staticmethod
    async def _exclude_due(owned: Owned, records: Sequence[KafkaRecord], context: TurnContext, failure: str) -> None:
        """Raise ShardQuarantined where the step survives the record without the due customers: it isn't the record."""
        shard = owned.shard
        plan = await planned(shard, shard.step.plan, records, context)
        values = (await shard.store.load(owned.raw or b"", plan.keys, None, 0)).values
        with contextlib.suppress(StepFailed):
            stepping(shard.step.decide, plan, values, [], False, context)
            raise ShardQuarantined("step_failed", f"a due customer makes the step raise: {failure}.")
