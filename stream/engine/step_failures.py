"""A step that raises: find the record that makes it raise, and send that record to the dead letters."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import traceback
from collections.abc import Sequence

from segmentation.step import DeadLetter, DueEntry, KafkaRecord, Turn, TurnContext
from stream.engine.flow_control import FlowControl
from stream.engine.ownership import Owned, planned, stepping
from stream.errors import ShardQuarantined, StepFailed

log = logging.getLogger(__name__)


class StepFailures:
    """Counts how often the step raised on each record of a shard, and decides what follows.

    A batch is halved until the record stands alone. Alone it is tried `step_retries` times; then it is a dead letter.
    """

    def __init__(self, flow: FlowControl) -> None:
        """`flow`: the shard's, which makes the next batch smaller."""
        self._flow = flow
        self._attempts: dict[int, int] = {}  # by offset

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

    @staticmethod
    async def _exclude_due(owned: Owned, records: Sequence[KafkaRecord], context: TurnContext, failure: str) -> None:
        """Raise ShardQuarantined where the step survives the record without the due customers: it isn't the record."""
        shard = owned.shard
        plan = await planned(shard, shard.step.plan, records, context)
        values = (await shard.store.load(owned.raw or b"", plan.keys, None, 0)).values
        with contextlib.suppress(StepFailed):
            stepping(shard.step.decide, plan, values, [], False, context)
            raise ShardQuarantined("step_failed", f"a due customer makes the step raise: {failure}.")
