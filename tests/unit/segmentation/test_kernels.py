"""The kernels against 40 decimal digits, and their bits against a recorded digest."""

import hashlib

import numpy as np
import pytest

from segmentation.kernels import expm1, expm1_of_one, log1p, log1p_of_one
from tests.support.oracles.time_checks import arguments_of_expm1, arguments_of_log1p, expm1_is_exact, log1p_is_exact

RECORDED = "3796b8d74959ba79cfe2e14bb43c9f2df04a13fedc53b30d2419f8334a14fd80"


def test_log1p_is_within_0_8_units_in_the_last_place() -> None:
    log1p_is_exact(5_000)


def test_expm1_is_within_1_6_units_in_the_last_place() -> None:
    expm1_is_exact(5_000)


def test_one_at_a_time_the_same_bits() -> None:
    x = np.concatenate([arguments_of_log1p(20_000), [1e-300, 1e300, 5e-324]])
    y = np.concatenate([arguments_of_expm1(20_000), [-0.0, 1e-300, -800.0, np.inf, -np.inf]])
    assert np.array([log1p_of_one(value) for value in x.tolist()]).tobytes() == log1p(x).tobytes()
    assert np.array([expm1_of_one(value) for value in y.tolist()]).tobytes() == expm1(y).tobytes()


def test_zero_stays_zero() -> None:
    assert log1p(np.zeros(1)).tobytes() == expm1(np.zeros(1)).tobytes() == np.zeros(1).tobytes()


@pytest.mark.parametrize("y", [701.0, 1e6, np.inf])
def test_expm1_is_held_at_its_limits(y: float) -> None:
    high, low = expm1(np.array([y, -y])).tolist()
    assert high == expm1(np.array([700.0]))[0] < np.inf
    assert low == -1.0


def test_bits_are_those_recorded() -> None:
    """On every CPU, system and NumPy; the arguments come from integers, so that they are the same everywhere too."""
    k = np.arange(100_000, dtype=np.int64)
    scattered = (k * 2_654_435_761) % 2**32
    # Divided by 3 all 53 bits are in use, and 1 + x loses some.
    x = scattered / 3.0 / 2.0**20 * np.ldexp(1.0, -(k % 40).astype(np.int32))
    y = (scattered - 2**31) / 3.0 / 2.0**24
    bits = np.concatenate([log1p(x), expm1(y)]).astype("<f8").tobytes()
    assert hashlib.sha256(bits).hexdigest() == RECORDED
