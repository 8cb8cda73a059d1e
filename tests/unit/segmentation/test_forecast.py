"""A move to come has the outlook that it will be published with."""

from __future__ import annotations

import numpy as np

from segmentation.decisions import CompiledModel, ScoringContext
from segmentation.entries import DAY_MS, Kind
from segmentation.forecast import moves_ahead
from segmentation.outlook_figures import outlook_figures
from segmentation.rfm import EMPTY, Rules, absorb_bytes, advance_bytes, entry, headers, with_announcement
from tests.support.data.clock_models import clock_model

AT = 20_000 * DAY_MS
RULES = Rules()


def test_a_move_to_come_has_the_outlook_of_its_own_instant() -> None:
    model = clock_model()
    value = EMPTY
    for week in range(30):
        placed = AT - (30 - week) * 7 * DAY_MS
        one = entry(Kind.PLACED, f"{week}", placed, order=f"{week}", amount=400_000)
        value, _ = absorb_bytes(value, one, placed, RULES)
    scoring = ScoringContext.of(CompiledModel.of(model, "g", {}), 0, RULES)
    value = with_announcement(advance_bytes(value, AT, RULES), 1, 1, AT)
    moves = list(moves_ahead([(b"ada", value)], AT, AT + 3_000 * DAY_MS, scoring))
    names = {segment.id: segment.name for segment in model.segments}
    assert [names[move.target] for move in moves][-2:] == ["Cannot Lose", "Lost"]
    for move in moves:
        head = headers([advance_bytes(value, move.at, RULES)])
        (expected,) = outlook_figures(model.outlook, head, np.array([move.at]))
        assert move.outlook == expected is not None
    chances = [move.outlook.chance_90d for move in moves if move.outlook]
    assert chances == sorted(chances, reverse=True)


def test_without_an_outlook_there_is_none() -> None:
    model = clock_model()
    assert outlook_figures(None, headers([EMPTY]), np.array([AT])) == [None]
    assert outlook_figures(model.outlook, headers([EMPTY]), np.array([AT])) == [None]
