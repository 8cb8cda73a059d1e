"""A model judged by what it is for: how customers would have moved under it, and whether its segments foretell orders.

Everything is measured on orders after those that the model was made from: train as of an instant, replay what came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import numpy as np

from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.lift import auc, captured
from segmentation.outlook_figures import OUTLOOK_DAYS, outlook_columns
from stream.rehearsal.columns import ReplaySpan
from stream.rehearsal.moves import MoveTally, add_moves
from stream.rehearsal.replay import HistoryReplay
from trainer.errors import FitError
from trainer.outcome import CalibrationGroup, LaterWorth, RankingWorth
from trainer.training.choose import gate
from trainer.training.outlook_fit import purchases_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from segmentation.entries import Entry
    from segmentation.model import SegmentModel
    from stream.rehearsal.replay import GroupReplay
    from trainer.outcome import Gate
    from trainer.snapshot.orders import OrderBook
    from trainer.snapshot.redis import CustomerSnapshot

    Column = NDArray[np.float64]

HORIZON_MS: Final = int(OUTLOOK_DAYS) * DAY_MS
MOST_CUSTOMERS: Final = 50_000  # replayed: a sample by the hash of the id; shares of it are off by 0.5 % at most
MOST_MOVES: Final = 4.0  # a customer and year: one in a season
MOST_BACK: Final = 0.1  # within 14 days
# An AUC over some thousand customers is off by about so much, by chance alone; less isn't "worse".
AUC_NOISE: Final = 0.01
_GROUPS: Final = 10


class LaterOrders(NamedTuple):
    """The purchase days and the money of customers after an instant, [n]."""

    orders: Column
    money: Column


class WorthFigures(NamedTuple):
    """The worth of a model on later orders. `by_cause`: shares of the moves.

    `recency_cut`: the AUC of recency cut into as many groups as there are segments. None: not measured.
    """

    later: LaterWorth
    by_cause: dict[str, float]
    recency_cut: float | None

    def ranking(self, by: str) -> float | None:
        """Return the AUC of a way to rank the customers."""
        return next((ranking.auc for ranking in self.later.rankings if ranking.by == by), None)


def replayed_figures(book: OrderBook, model: SegmentModel, start: int, end: int, *, dwell_ms: int = 0) -> WorthFigures:
    """Replay the orders in [start, end) (ms) under a model that was trained as of `start`, and judge what comes of it.

    The customers are ranked 90 days before the end: by segments, by what those in each did from the start up to then.
    Raises FitError where less than 90 days and one lie between start and end.
    """
    judged = end - HORIZON_MS
    if judged - start < DAY_MS:
        raise FitError(f"{(end - start) / DAY_MS:.0f} days can't be replayed, expected {OUTLOOK_DAYS + 1:.0f} or more.")
    histories = sample_of(book.histories(end), MOST_CUSTOMERS)
    tally, at_start, at_judged = MoveTally(), dict[bytes, int](), dict[bytes, int]()
    replay = HistoryReplay(model, book.rules, dwell_ms=dwell_ms)
    for group in replay.run(histories, ReplaySpan(start, end)):
        add_moves(group, start, end, tally)
        at_start |= segments_at(group, start)
        at_judged |= segments_at(group, judged)
    snapshots = [book.of(histories, at) for at in (start, judged, end)]
    before, after = later_orders(*snapshots[:2]), later_orders(*snapshots[1:])
    segments = np.array([at_judged.get(name, 0) for name in snapshots[1].customers], dtype=np.int64)
    placed = np.array([at_start.get(name, 0) for name in snapshots[0].customers], dtype=np.int64)
    rankings = _rankings(snapshots[1], model, segments, segment_values(placed, before))
    came = after.orders > 0
    cut = groups_of(-snapshots[1].recency_days, len(model.segments))
    return WorthFigures(
        LaterWorth(
            since=iso(start),
            until=iso(end),
            customers=tally.customers,
            moves_per_year=tally.moves_per_year,
            back_14=tally.share_back(14),
            back_30=tally.share_back(30),
            rankings=tuple(
                RankingWorth(by=name, auc=_known(auc(by, came)), top_tenth=_known(captured(worth, after.money)))
                for name, (by, worth) in rankings.items()
            ),
            calibration=_calibration(snapshots[1], model, came),
        ),
        tally.causes(),
        _known(auc(cut, came)),
    )


def worth_gates(figures: WorthFigures) -> tuple[Gate, ...]:
    """Judge a model by its worth on later orders."""
    later = figures.later
    gates = [
        gate("moves a year", later.moves_per_year, MOST_MOVES, "most"),
        gate("back in 14 days", later.back_14, MOST_BACK, "most"),
    ]
    # Without anybody who ordered, or didn't, no ranking is better than another.
    if figures.recency_cut is not None:
        gates.append(
            gate("lift over recency", _above(figures.ranking("segments"), figures.recency_cut), -AUC_NOISE, "least")
        )
    recency, outlook = figures.ranking("recency"), figures.ranking("outlook")
    if recency is not None and outlook is not None:
        gates.append(gate("outlook over recency", outlook - recency, -AUC_NOISE, "least"))
    return tuple(gates)


def sample_of(histories: Mapping[bytes, list[Entry]], most: int) -> Mapping[bytes, list[Entry]]:
    """Return about `most` of the customers, the same each time; all where they are no more."""
    if len(histories) <= most:
        return histories
    below = most / len(histories) * 2**32
    return {name: own for name, own in histories.items() if crc32(name) < below}


def segments_at(group: GroupReplay, at: int) -> dict[bytes, int]:
    """Return the segment id of each customer at an instant (ms): as the last move up to it left it."""
    found: dict[bytes, int] = {}
    moves = group.moves
    for customer, when, target in zip(moves.customer.tolist(), moves.at.tolist(), moves.target.tolist(), strict=True):
        if when <= at:
            found[group.customers[customer]] = target
    return found


def later_orders(then: CustomerSnapshot, later: CustomerSnapshot) -> LaterOrders:
    """Return purchase days and money between two snapshots, of the customers of the first."""
    assert then.life is not None
    assert later.life is not None
    place = {name: i for i, name in enumerate(later.customers)}
    rows = np.array([place.get(name, -1) for name in then.customers], dtype=np.int64)
    known = rows >= 0
    orders = np.where(known, later.life.purchase_days[rows] - then.life.purchase_days, 0).astype(np.float64)
    money = np.where(known, later.life.monetary[rows] - then.life.monetary, 0.0)
    return LaterOrders(np.maximum(orders, 0.0), np.maximum(money, 0.0))


def segment_values(segments: NDArray[np.int64], outcome: LaterOrders) -> dict[int, tuple[float, float]]:
    """Return each segment's share that ordered, and its money a customer, by segment id."""
    return {
        i: (float((outcome.orders[segments == i] > 0).mean()), float(outcome.money[segments == i].mean()))
        for i in np.unique(segments).tolist()
    }


def groups_of(score: Column, groups: int) -> Column:
    """Return a score cut into so many groups of equal size.

    >>> groups_of(np.array([5.0, 1.0, 3.0, 4.0]), 2).tolist()
    [1.0, 0.0, 0.0, 1.0]
    """
    borders = np.quantile(score, np.arange(1, groups) / groups)
    return np.searchsorted(borders, score).astype(np.float64)


def _rankings(
    snapshot: CustomerSnapshot,
    model: SegmentModel,
    segments: NDArray[np.int64],
    values: Mapping[int, tuple[float, float]],
) -> dict[str, tuple[Column, Column]]:
    """Return the ways to rank customers: a column for who orders, and one for how much."""
    assert snapshot.life is not None
    nothing = (0.0, 0.0)
    by_segment = np.array([values.get(i, nothing) for i in segments.tolist()]).reshape(len(segments), 2)
    found = {
        "segments": (by_segment[:, 0], by_segment[:, 1]),
        "recency": (-snapshot.recency_days, -snapshot.recency_days),
        "spend": (snapshot.life.monetary, snapshot.life.monetary),
    }
    if model.outlook is not None:
        outlook = outlook_columns(model.outlook, purchases_of(snapshot))
        found["outlook"] = (outlook.chance_90d, outlook.spend_90d)
    return found


def _calibration(
    snapshot: CustomerSnapshot, model: SegmentModel, came: NDArray[np.bool_]
) -> tuple[CalibrationGroup, ...]:
    if model.outlook is None:
        return ()
    chance = outlook_columns(model.outlook, purchases_of(snapshot)).chance_90d
    groups = [group for group in np.array_split(np.argsort(chance, kind="stable"), _GROUPS) if len(group)]
    return tuple(
        CalibrationGroup(customers=len(group), chance=float(chance[group].mean()), ordered=float(came[group].mean()))
        for group in groups
    )


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _above(value: float | None, other: float) -> float | None:
    return None if value is None else value - other
