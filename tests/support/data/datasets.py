"""Snapshots that tests train on: customers with known segments, without segments, and of a real shop."""

from __future__ import annotations

import csv
import gzip
import time
from typing import TYPE_CHECKING

import numpy as np

from segmentation.entries import DAY_MS
from segmentation.model import FEATURES
from trainer.snapshot.redis import CustomerSnapshot
from trainer.training.learn import Stopwatch, TrainingResult, learn
from trainer.training.naming import Lineage
from trainer.training.plan import TrainingPlan

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

AS_OF = 1_323_475_200_000  # 2011-12-10
# Recency in days, orders, money: far enough apart that every sound method finds them.
KNOWN = ((5.0, 30.0, 4000.0), (20.0, 8.0, 600.0), (90.0, 3.0, 1500.0), (300.0, 1.2, 40.0))


def snapshot(
    recency: NDArray[np.float64], frequency: NDArray[np.float64], monetary: NDArray[np.float64]
) -> CustomerSnapshot:
    """Name the customers by their number; recency in whole milliseconds, as the worker has it."""
    days = np.rint(recency * DAY_MS) / float(DAY_MS) if np.isfinite(recency).all() else recency
    return CustomerSnapshot(tuple(b"%06d" % i for i in range(len(recency))), days, frequency, monetary, AS_OF, 0)


def known_segments(seed: int, each: int = 150) -> tuple[CustomerSnapshot, NDArray[np.int64]]:
    """Return customers of four known segments, and the segment of each, [customers]."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([np.array(center) * rng.lognormal(0.0, 0.18, (each, 3)) for center in KNOWN])
    truth = np.repeat(np.arange(len(KNOWN)), each)
    order = rng.permutation(len(rows))
    recency, frequency, monetary = rows[order].T
    return snapshot(recency, np.maximum(np.rint(frequency), 1.0), np.round(monetary, 2)), truth[order]


def unsegmented_customers(seed: int, customers: int = 600) -> CustomerSnapshot:
    """Return customers without any segments in them, so that borders run through dense regions."""
    rng = np.random.default_rng(seed)
    recency, frequency, monetary = rng.lognormal((3.5, 1.5, 5.0), (1.0, 0.7, 1.0), (customers, 3)).T
    return snapshot(recency, np.rint(frequency) + 1.0, np.round(monetary, 2))


def trained_on(
    customers: CustomerSnapshot, plan: TrainingPlan, lineage: Lineage | None = None, *, force: bool = False
) -> TrainingResult:
    return learn(
        customers,
        plan,
        lineage or Lineage(),
        source="test",
        now_ms=AS_OF,
        watch=Stopwatch(time.perf_counter),
        progress=lambda _what, _done, _total: None,
        force=force,
    )


def following(result: TrainingResult, before: Lineage, number: int) -> Lineage:
    """Return the lineage that the next training finds if this one's model was activated."""
    assert result.trained is not None
    model = result.trained.model
    highest = max(before.highest_id, *(segment.id for segment in model.segments))
    return Lineage(model, number, highest)


def retail_gross(folder: Path) -> CustomerSnapshot:
    """Online Retail's golden customers: gross of cancellations, recency in calendar days."""
    with gzip.open(folder / "online_retail" / "rfm_customers.csv.gz", "rt", newline="") as lines:
        rows = sorted(csv.DictReader(lines), key=lambda row: row["customer_id"])
    recency, frequency, monetary = (np.array([float(row[name]) for row in rows]) for name in FEATURES)
    return CustomerSnapshot(tuple(row["customer_id"].encode() for row in rows), recency, frequency, monetary, AS_OF, 0)
