"""Batches that hold the event loop for too long, whether records or due customers do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from segmentation.scoring import ScoringStep
from segmentation.step import DueEntry, Turn, TurnContext, TurnPlan
from stream.settings import Settings
from tests.support.engine.deployment import open_deployment


@pytest.mark.slow
async def test_everything_is_scored_where_each_batch_takes_too_long(
    settings_for: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only due customers do: a turn has one record and one of them then, and all of them come."""
    done: list[tuple[int, int]] = []
    decide = ScoringStep.decide

    def noted(
        step: ScoringStep,
        plan: TurnPlan,
        values: Sequence[bytes | None],
        fired: Sequence[DueEntry],
        more: bool,
        context: TurnContext,
    ) -> Turn:
        turn = decide(step, plan, values, fired, more, context)
        done.append((turn.taken, len(fired) - more))
        return turn

    settings = settings_for(partitions=1, due_slice=16)
    async with open_deployment(settings) as shop:
        await shop.start()
        await shop.order(number=1)
        await shop.settled()
        backup = shop.back_up()
        await shop.order(number=1)
        await shop.settled()
        await shop.stop()
        shop.restore(backup)  # the takeover reads the second orders again: all of their customers are due then
        monkeypatch.setattr("stream.engine.flow_control.HOLD_S", -1.0)
        monkeypatch.setattr(ScoringStep, "decide", noted)
        await shop.start()
        await shop.works()
    assert {(taken > 1, due > 1) for taken, due in done} == {(False, False)}
    assert sum(due for _, due in done) >= len(shop.customers)
