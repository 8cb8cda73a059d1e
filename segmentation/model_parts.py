"""The parts of a model that let it see each customer by their own clock: stages and the outlook."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segmentation.calibration import UNCHANGED, CalibrationCurve
from segmentation.outlook import OrderRates, OrderValues

Stage = Literal["lost", "at risk, heavy", "at risk", "quiet", "new", "young", "steady"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
# An odds limit must stay finite, and a level below 1 must stay so after the hysteresis.
HIGHEST_LEVEL: Final = 0.95
MOST_POINTS: Final = 32  # of a calibration curve


class ModelPart(BaseModel):
    """A part of a model: frozen, exact types, nothing unknown, every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Level = Annotated[float, Field(gt=0.0, le=HIGHEST_LEVEL)]
Positive = Annotated[float, Field(gt=0.0, le=1e12)]
Gaps = Annotated[float, Field(gt=0.0, le=1_000.0)]


class OwnClock(ModelPart):
    """The definitions of the stages (docs/explanation/models.md).

    `at_risk` and `lost`: chances to be alive below which a customer is. `few`: purchase days from which a customer is
    steady. `quiet_gaps`, `lost_gaps`: own gaps of silence after which one with fewer is quiet, and lost. `heavy`:
    expected money a month above which one at risk is heavy. `hysteresis`: factor by which a border is passed further on
    the way back than on the way there.
    """

    at_risk: Level
    lost: Level
    few: Annotated[int, Field(ge=2, le=1_000)] = 3
    quiet_gaps: Gaps = 2.0
    lost_gaps: Gaps = 6.0
    heavy: Annotated[float, Field(ge=0.0, le=1e15)]
    hysteresis: Annotated[float, Field(ge=1.0, le=10.0)] = 1.3

    @model_validator(mode="after")
    def _lost_is_beyond_at_risk(self) -> Self:
        if self.lost >= self.at_risk:
            raise ValueError(f"lost is {self.lost:g} and at_risk {self.at_risk:g}: lost must be the smaller chance")
        if self.lost_gaps <= self.quiet_gaps:
            raise ValueError(
                f"lost_gaps is {self.lost_gaps:g} and quiet_gaps {self.quiet_gaps:g}: lost must be the longer silence"
            )
        return self

    def chance_back(self, level: float) -> float:
        """Return the chance above which a customer whose chance fell below a level is back."""
        return min(level * self.hysteresis, 1.0 - (1.0 - level) / 2.0)


class ModelRates(ModelPart):
    """The parameters of segmentation.outlook.OrderRates; days.

    `stand_in`: odds of having dropped out at the last order where the orders don't show who does; None: a and b say it.
    """

    r: Positive
    alpha: Positive
    a: Annotated[float, Field(ge=0.0, le=1e12)]
    b: Positive
    regularity: Annotated[int, Field(ge=1, le=12)] = 1
    stand_in: Positive | None = None


class ModelValues(ModelPart):
    """The parameters of segmentation.outlook.OrderValues; `v` in currency units."""

    p: Positive
    q: Annotated[float, Field(gt=1.0, le=1e12)]
    v: Positive


Point = tuple[float, float]
Curve = Annotated[tuple[Point, ...], Field(min_length=2, max_length=MOST_POINTS)]


class OutlookModel(ModelPart):
    """The fitted outlook. `values` None: no expected value of an order. Curves: (forecast, what came of it), rising."""

    rates: ModelRates
    values: ModelValues | None = None
    chance_curve: Curve | None = None
    orders_curve: Curve | None = None

    @model_validator(mode="after")
    def _curves_rise_from_zero(self) -> Self:
        for name, points in (("chance_curve", self.chance_curve), ("orders_curve", self.orders_curve)):
            if points is None:
                continue
            rises = all(one[0] < other[0] and one[1] < other[1] for one, other in pairwise(points))
            if points[0] != (0.0, 0.0) or not rises:
                raise ValueError(f"{name} is {points}: begin with (0, 0), and let both columns rise")
        return self

    def order_rates(self) -> OrderRates:
        """Return the rates for the formulas."""
        rates = self.rates
        return OrderRates(rates.r, rates.alpha, rates.a, rates.b, rates.regularity, rates.stand_in)

    def order_values(self) -> OrderValues | None:
        """Return the values for the formulas; None: none were fitted."""
        return None if self.values is None else OrderValues(self.values.p, self.values.q, self.values.v)

    def curves(self) -> tuple[CalibrationCurve, CalibrationCurve]:
        """Return the corrections of chance and number of orders."""
        return _curve(self.chance_curve), _curve(self.orders_curve)


def _curve(points: tuple[Point, ...] | None) -> CalibrationCurve:
    return UNCHANGED if points is None else CalibrationCurve(*zip(*points, strict=True))
