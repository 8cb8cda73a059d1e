"""The scorer of a model: by centroids (format 1) or by each customer's own clock (format 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentation.clock_scorer import ClockScorer
from segmentation.scorer import Scorer

if TYPE_CHECKING:
    from segmentation.model import SegmentModel

AnyScorer = Scorer | ClockScorer


def compile_scorer(model: SegmentModel) -> AnyScorer:
    """Return the scorer that a model asks for."""
    return Scorer(model) if model.format == 1 else ClockScorer(model)
