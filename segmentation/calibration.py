"""A forecast corrected by what came of earlier ones: a rising curve through a few points."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class CalibrationCurve(NamedTuple):
    """Points of a curve: a forecast of at[i] meant to[i]. Both rise strictly and begin with 0."""

    at: tuple[float, ...]
    to: tuple[float, ...]


# Forecasts are taken as they are.
UNCHANGED = CalibrationCurve((0.0, 1.0), (0.0, 1.0))


def corrected(curve: CalibrationCurve, forecast: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corrected forecasts, [n], on straight lines between the points; the last line goes on.

    A greater forecast never becomes a smaller one, in floating point either: each line is a monotone function, and ends
    at the latest where the next one begins. So whatever falls in silence does so after the correction too.

    >>> corrected(CalibrationCurve((0.0, 0.5, 1.0), (0.0, 0.25, 1.0)), np.array([0.0, 0.25, 0.5, 0.75])).tolist()
    [0.0, 0.125, 0.25, 0.625]
    """
    at, to = np.array(curve.at), np.array(curve.to)
    line = np.clip(np.searchsorted(at, forecast, side="right") - 1, 0, len(at) - 2)
    slope = (to[1:] - to[:-1]) / (at[1:] - at[:-1])
    risen = to[line] + (forecast - at[line]) * slope[line]
    ceiling = np.append(to[1:-1], np.inf)
    found: NDArray[np.float64] = np.minimum(risen, ceiling[line])
    return found
