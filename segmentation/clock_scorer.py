"""The scorer by each customer's own clock: stages by definition, kinds of steady customers by the nearest centroid.

A customer with few purchase days is *new* or *young*, and by its silence in own gaps *quiet*; one with more is
*steady*, and by the odds of having dropped out *at risk*. Either is *lost* by the odds, a quiet one by a longer
silence, too. Of steady ones the kind is told by the nearest centroid in orders a year and value of an order, both
expected. All of it goes by the whole life; what leaves the window changes nothing. docs/explanation/own-clock.md has
the definitions.

**The decision.** Everything but silence stands still between orders. Silence and the odds only rise
(segmentation/silence.py), so for a customer announced in a, "above the limit" is false … false true … true, and the
first true is found exactly. Limits, like the border of being heavy and the margin between kinds, depend on a alone:
a border is passed further on the way back than on the way there, so nobody goes round in a cycle at one instant.

Same steps and bits for a row alone and in any batch, as in segmentation/scorer.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from segmentation.entries import DAY_MS, HORIZON_MS, NEVER, NONE
from segmentation.money import UNITS
from segmentation.outlook import Purchases, expected_gap, known_of, silence_days, value_of_order
from segmentation.scorer import UNKNOWN, SegmentIndex, standardise
from segmentation.silence import Known, KnownOfOne, all_pass_at, first_past, odds_after, passes_at, recency_days
from segmentation.step import NEVER_DUE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segmentation.model import SegmentModel
    from segmentation.model_parts import Stage

YEAR_DAYS: Final = 365.25
# Up to so many customers one at a time is faster than in columns.
_FEW: Final = 24
# The columns of `rest`: known shape, known rate, odds at the last order, money a month, stage on rhythm, the days of
# silence after which the customer is quiet, and lost (endless for steady ones); then the squared distance to each kind.
_SHAPE, _RATE, _ODDS, _MONEY, _ON_RHYTHM, _QUIET, _GONE, _KINDS = range(8)
_NEW, _YOUNG, _STEADY = 0.0, 1.0, 2.0


def purchases_of_heads(head: NDArray[np.void], at: NDArray[np.int64]) -> Purchases:
    """Return the facts of whole lives at an instant (ms) each, from headers of states, [n]. No order: as if new."""
    days = np.maximum(head["life_days"].astype(np.float64), 1.0)
    ordered = head["last"] != NONE
    last = np.where(ordered, head["last"], at)
    first = np.where(ordered & (head["life_first"] != NEVER), np.minimum(head["life_first"], last), last)
    until_last = np.where(days > 1.0, (last - first) / float(DAY_MS), 0.0)
    silence = recency_days(at, head["last"])
    return Purchases(days - 1.0, until_last, until_last + silence, head["life_money"] / float(UNITS) / days)


class ClockScorer(SegmentIndex):
    """A compiled SegmentModel of format 2, with the interface of `segmentation.scorer.Scorer`.

    `rest` [n, 7 + kinds] is what of a customer stands still between orders.
    """

    by_window: Final = False

    def __init__(self, model: SegmentModel) -> None:
        """Compile. Raises ValueError for a model of format 1."""
        if model.clock is None or model.outlook is None:
            raise ValueError(f"model {model.version} has format {model.format}: it decides by centroids alone")
        super().__init__(model)
        self._clock, self._rates, self._values = model.clock, model.outlook.order_rates(), model.outlook.order_values()
        stages = [segment.stage for segment in model.segments]
        self._kinds: NDArray[np.int64] = np.flatnonzero([stage == "steady" for stage in stages])
        self._kind_of: NDArray[np.int64] = np.full(len(stages), UNKNOWN, dtype=np.int64)
        self._kind_of[self._kinds] = np.arange(self._kinds.size)
        centroids = np.array([model.segments[kind].centroid for kind in self._kinds.tolist()], dtype=np.float64)
        self._pace, self._worth = (np.ascontiguousarray(column) for column in centroids.T[1:])
        self._set_borders(stages)

    def _set_borders(self, stages: list[Stage | None]) -> None:
        """Fix the limits of odds and money by the index of the segment that a customer is in; the last is UNKNOWN."""
        clock = self._clock
        further = clock.hysteresis
        silent: tuple[Stage, ...] = ("lost", "at risk", "at risk, heavy")
        self._lost, self._risk, self._heavy, self._quiet, self._new, self._young = (
            stages.index(stage) for stage in ("lost", "at risk", "at risk, heavy", "quiet", "new", "young")
        )

        def odds_at(level: float, back: bool) -> float:
            chance = clock.chance_back(level) if back else level
            return (1.0 - chance) / chance

        own = [*stages, None]
        self._lost_above = np.array([odds_at(clock.lost, stage == "lost") for stage in own])
        self._risk_above = np.array([odds_at(clock.at_risk, stage in silent) for stage in own])
        known = {"at risk, heavy": clock.heavy / further, "at risk": clock.heavy * further}
        self._heavy_above = np.array([known.get(stage or "", clock.heavy) for stage in own])

    def features(self, purchases: Purchases) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return orders a year and value of an order as expected, [n] each, untransformed."""
        return YEAR_DAYS / expected_gap(self._rates, purchases), value_of_order(self._values, purchases)

    def columns(self, purchases: Purchases) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the three features of customers with an order that stands, [n] each, untransformed."""
        return silence_days(purchases) / expected_gap(self._rates, purchases), *self.features(purchases)

    def rest_of(self, head: NDArray[np.void]) -> NDArray[np.float64]:
        """Return what of each customer stands still between orders, [n, 7 + kinds], from headers that hold."""
        return self.rest_of_purchases(purchases_of_heads(head, head["last"]))

    def rest_of_purchases(self, purchases: Purchases) -> NDArray[np.float64]:
        """Return the same from facts of whole lives."""
        known = known_of(self._rates, purchases)
        gap, value = expected_gap(self._rates, purchases), value_of_order(self._values, purchases)
        pace = YEAR_DAYS / gap
        rest = np.empty((len(pace), _KINDS + self._kinds.size))
        rest[:, _SHAPE], rest[:, _RATE], rest[:, _ODDS] = known.shape, known.rate, known.odds
        rest[:, _MONEY] = pace * value / 12.0
        days = purchases.repeats + 1.0
        rest[:, _ON_RHYTHM] = np.where(days <= 1.0, _NEW, np.where(days < self._clock.few, _YOUNG, _STEADY))
        rest[:, _QUIET] = np.where(days < self._clock.few, self._clock.quiet_gaps * gap, np.inf)
        rest[:, _GONE] = np.where(days < self._clock.few, self._clock.lost_gaps * gap, np.inf)
        _, of_pace, of_value = self.model.features
        dp = standardise(pace, of_pace)[:, None] - self._pace
        dv = standardise(value, of_value)[:, None] - self._worth
        rest[:, _KINDS:] = dp * dp + dv * dv
        return rest

    def odds(self, at: NDArray[np.int64], last: NDArray[np.int64], rest: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the odds of having dropped out at each instant, [n]. Without an order that stands they are endless."""
        return self._odds(recency_days(at, last), last, rest)

    def _odds(
        self, silence: NDArray[np.float64], last: NDArray[np.int64], rest: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return np.where(last == NONE, np.inf, odds_after(_known(rest), self._rates.regularity, silence))

    def place(self, purchases: Purchases, at: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index of each customer's segment at an instant, as if nobody had been in one, [n]."""
        nobody = np.full(len(last), UNKNOWN, dtype=np.int64)
        return self.decide(nobody, at, last, self.rest_of_purchases(purchases))

    def decide(
        self, a: NDArray[np.int64], at: NDArray[np.int64], last: NDArray[np.int64], rest: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Return the index each customer moves to at that instant, or a where they stay.

        From UNKNOWN no border is moved.
        """
        silence = recency_days(at, last)
        odds = self._odds(silence, last, rest)
        risk = odds > self._risk_above[a]
        heavy = np.where(rest[:, _MONEY] > self._heavy_above[a], self._heavy, self._risk)
        steady = np.where(risk, heavy, self._kind(a, rest[:, _KINDS:]))
        gone = odds > self._lost_above[a]
        # Of few orders the odds say little: where most customers buy once, they are high at the first order already.
        is_steady, is_quiet = rest[:, _ON_RHYTHM] == _STEADY, silence > rest[:, _QUIET]
        early = np.where(rest[:, _ON_RHYTHM] == _NEW, self._new, self._young)
        stays = np.where(is_steady, steady, np.where(is_quiet, self._quiet, early))
        return np.where((gone & (is_steady | is_quiet)) | (silence > rest[:, _GONE]), self._lost, stays)

    def _kind(self, a: NDArray[np.int64], apart: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the kind, by index in the model: the nearest, unless the own one is as near within the margin."""
        nearest = np.argmin(apart, axis=1)
        own = np.where(a >= 0, self._kind_of[a], UNKNOWN)
        to_own = np.take_along_axis(apart, np.maximum(own, 0)[:, None], 1)[:, 0]
        least = np.take_along_axis(apart, nearest[:, None], 1)[:, 0]
        kind = np.where((own >= 0) & ~(to_own - least > self.margin), own, nearest)
        return self._kinds[kind]

    def distances(
        self, at: NDArray[np.int64], last: NDArray[np.int64], rest: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return no distances, [n, 0]: stages are no places."""
        del at, last
        return np.empty((len(rest), 0))

    def next_move(
        self,
        a: NDArray[np.int64],
        last: NDArray[np.int64],
        start: NDArray[np.int64],
        rest: NDArray[np.float64],
        until: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first instant in [start, until) at which time moves each customer, and where to, [n].

        NEVER_DUE and a where nothing does; `a` must be known. Where the customer stays at `start`, the only limits
        ahead are those of the next stage: silence and odds rise, and everything else stands still.
        """
        at, to = np.full(a.size, NEVER_DUE, dtype=np.int64), a.copy()
        open_ = start < until
        now = self.decide(a, start, last, rest)
        at_once = open_ & (now != a)
        at[at_once], to[at_once] = start[at_once], now[at_once]
        end = np.minimum(np.maximum(last, -HORIZON_MS) + HORIZON_MS, until - 1)
        waits = np.flatnonzero(open_ & (now == a) & (a != self._lost) & (start < end))
        own, since, still, high = a[waits], last[waits], rest[waits], end[waits]
        next_is_lost = (own == self._risk) | (own == self._heavy) | (own == self._quiet)
        limit = np.where(next_is_lost, self._lost_above[own], self._risk_above[own])
        limit = np.where((own == self._new) | (own == self._young), np.inf, limit)
        found = np.full(waits.size, NEVER_DUE, dtype=np.int64)
        falls = np.flatnonzero(self.odds(high, since, still) > limit)
        found[falls] = self._passes(since[falls], still[falls], limit[falls], start[waits][falls], high[falls])
        silent = since + first_past(np.where(next_is_lost, still[:, _GONE], still[:, _QUIET]))
        found = np.minimum(found, np.where(silent <= high, silent, NEVER_DUE))
        moves = found < NEVER_DUE
        moving = waits[moves]
        at[moving] = found[moves]
        to[moving] = self.decide(a[moving], at[moving], last[moving], rest[moving])
        return at, to

    def _passes(
        self,
        last: NDArray[np.int64],
        rest: NDArray[np.float64],
        limit: NDArray[np.float64],
        low: NDArray[np.int64],
        high: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        regularity = self._rates.regularity
        if low.size > _FEW:
            return all_pass_at(_known(rest), regularity, limit, last, low, high)
        known = [KnownOfOne(*row) for row in rest[:, :_MONEY].tolist()]
        rows = zip(known, limit.tolist(), last.tolist(), low.tolist(), high.tolist(), strict=True)
        return np.array([passes_at(one, regularity, *row) for one, *row in rows], dtype=np.int64)


def _known(rest: NDArray[np.float64]) -> Known:
    return Known(rest[:, _SHAPE], rest[:, _RATE], rest[:, _ODDS])
