"""What a model would do to customers if it started now: nothing is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segmentation.decisions import CompiledModel, rest_of
from segmentation.rfm import NONE, Rules, advance_bytes, headers, is_silent
from segmentation.scorer import UNKNOWN


class Verdict(NamedTuple):
    """One customer under a model that may not be its own. Segments by lasting id, 0: none; monetary in ten-thousandths."""

    key: bytes
    announced: int
    segment: int  # where the model would put it: its own, if it would stay
    monetary: int


def verdicts(
    rows: Sequence[tuple[bytes, bytes]], at: int, model: CompiledModel, *, dwell_ms: int, rules: Rules
) -> list[Verdict]:
    """Say where each customer (key, state) would be after a start of this model at an instant (ms): the worker's own rule.

    Margin and dwell count where the announced segment is one of the model's. Who has no order that stands and no segment gets
    none; who isn't scored (muted, or every order lost) stays. Raises StateFormatError.
    """
    if not rows:
        return []
    head = headers([advance_bytes(value, at, rules) for _, value in rows])
    scorer = model.scorer
    source = scorer.index_from_ids(head["segment"])
    target = scorer.decide(source, np.full(len(rows), at, dtype=np.int64), head["last"], rest_of(head, scorer))
    known = source != UNKNOWN
    may = np.where(known, head["moved_at"] <= at - max(dwell_ms, 1), (head["last"] != NONE) | (head["segment"] != 0))
    may &= np.array([not is_silent(value) for _, value in rows])
    after = np.where(may, scorer.ids[target], head["segment"])
    return [
        Verdict(key, announced, segment, monetary)
        for (key, _), announced, segment, monetary in zip(
            rows, head["segment"].tolist(), after.tolist(), head["monetary"].tolist(), strict=True
        )
    ]
