"""Customers who could soon be in another segment: near a border today, or across one if they order nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from segmentation.model import MARGIN_FLOOR
from trainer.outcome import SegmentBorder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.prospects.seen import SeenCustomers

SILENT_DAYS: Final = 30
_NOWHERE: Final = -1


def borders(customers: SeenCustomers) -> list[SegmentBorder]:
    """Return one for each segment of the model. Leaving is by silence alone, whatever leaves the window meanwhile."""
    labels, later, beside = customers.labels, customers.later(SILENT_DAYS), _beside(customers)
    found = []
    for index, segment in enumerate(customers.scorer.model.segments):
        inside = labels == index
        leaving, near = later[inside & (later != index)], beside[inside & (beside != _NOWHERE)]
        found.append(
            SegmentBorder(
                near=len(near) if segment.stage in (None, "steady") else None,
                near_to=_most(near),
                leaving=len(leaving),
                leaving_to=_most(leaving),
            )
        )
    return found


def _beside(customers: SeenCustomers) -> NDArray[np.int64]:
    """Return the segment that each customer would stay in as well, having been there before, [customers].

    That is the nearest other one, where it is farther than the own by the margin at most.
    """
    model, labels = customers.scorer.model, customers.labels
    beside = np.full(len(labels), _NOWHERE, dtype=np.int64)
    # By stage a customer's own clock decides, not a centroid.
    deciding = np.flatnonzero([segment.stage in (None, "steady") for segment in model.segments])
    if len(deciding) < 2:
        return beside
    axes = slice(0 if model.format == 1 else 1, None)
    centroids = np.array([model.segments[i].centroid for i in deciding.tolist()])[:, axes]
    rows = np.flatnonzero(np.isin(labels, deciding))
    z = customers.coordinates()[rows][:, axes]
    apart = np.stack([((z - centroid) ** 2).sum(axis=1) for centroid in centroids], axis=1)
    own = np.searchsorted(deciding, labels[rows])
    to_own = apart[np.arange(len(rows)), own]
    apart[np.arange(len(rows)), own] = np.inf
    nearest = apart.argmin(axis=1)
    close = apart[np.arange(len(rows)), nearest] - to_own <= max(model.margin, MARGIN_FLOOR)
    beside[rows[close]] = deciding[nearest[close]]
    return beside


def _most(segments: NDArray[np.int64]) -> int | None:
    """Return the most frequent of them; None of none."""
    return int(np.bincount(segments).argmax()) if len(segments) else None
