"""The moves that a model would make if it started now. Nothing of them is published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segmentation.decisions import ScoringContext
from segmentation.rfm import NONE, advance_bytes, headers
from segmentation.scorer import UNKNOWN
from segmentation.state_bytes import silent


class Verdict(NamedTuple):
    """One customer under a model that may not score it yet. Segments by id, 0: none; monetary in ten-thousandths."""

    key: bytes
    announced: int
    segment: int  # where the model would put it: its own, if it would stay
    monetary: int


def verdicts(rows: Sequence[tuple[bytes, bytes]], at: int, scoring: ScoringContext) -> list[Verdict]:
    """Return where each customer (key, state) would be if the model started at an instant (ms), by the worker's rule.

    Margin and dwell count if the announced segment is one of the model's. A customer with neither a segment nor an
    order that stands gets none; one that isn't scored (muted, or every order lost) stays. Raises StateFormatError.
    """
    if not rows:
        return []
    model, dwell_ms, rules = scoring
    head = headers([advance_bytes(value, at, rules) for _, value in rows])
    scorer = model.scorer
    source = scorer.index_from_ids(head["segment"])
    target = scorer.decide(source, np.full(len(rows), at, dtype=np.int64), head["last"], scorer.rest_of(head))
    known = source != UNKNOWN
    may = np.where(known, head["moved_at"] <= at - dwell_ms, (head["last"] != NONE) | (head["segment"] != 0))
    may &= ~silent(head)
    after = np.where(may, scorer.ids[target], head["segment"])
    return [
        Verdict(key, announced, segment, monetary)
        for (key, _), announced, segment, monetary in zip(
            rows, head["segment"].tolist(), after.tolist(), head["monetary"].tolist(), strict=True
        )
    ]
