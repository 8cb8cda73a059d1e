"""log1p and expm1 with the same bits on every machine: the fdlibm kernels, branch-free, on float64 arrays.

NumPy's own differ by one unit in the last place between AVX-512 and AVX2 for about 2 % of arguments, so two workers
could publish different figures for one customer. These use only IEEE-754 ``+ - * /``, comparison, ``rint`` and exact
scaling, one ufunc at a time in the order written: the bits are the same alone, in any batch, on any CPU. Reordering
or merging any of the steps changes bits, and with them published moves. `log1p_of_one` and `expm1_of_one` take the
same steps on a Python float: below some twenty numbers that is faster than thirty ufuncs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# ln 2 in two parts; the low 32 bits of the first are zero, so k * _LN2_HI is exact for |k| < 2**11 (fdlibm e_exp.c).
_LN2_HI: Final = 6.93147180369123816490e-01
_LN2_LO: Final = 1.90821492927058770002e-10
_INV_LN2: Final = 1.44269504088896338700e00
_SQRT_HALF: Final = 0.70710678118654752
# Remez coefficients of (log(1 + f) - f) in s = f / (2 + f): Lg1 to Lg7 of fdlibm e_log.c.
_LG: Final = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)
# Remez coefficients of r * (exp(r) + 1) / (exp(r) - 1): P1 to P5 of fdlibm e_exp.c.
_EP: Final = (
    1.66666666666666019037e-01,
    -2.77777777770155933842e-03,
    6.61375632143793436117e-05,
    -1.65339022054652515390e-06,
    4.13813679705723846039e-08,
)
# exp(700) is about 1e304: past it the result is held, finite, so that no difference of two of them is NaN.
_EXP_LIMIT: Final = 700.0


def log1p(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(1 + x) for finite x >= 0, of the same shape, to within 0.8 units in the last place.

    Source: fdlibm s_log1p.c and e_log.c (Sun Microsystems, 1993), without their branches.

    >>> log1p(np.array([0.0, 1.0, 1e-300])).tolist()
    [0.0, 0.6931471805599453, 1e-300]
    """
    u = 1.0 + x
    # The rounding error of 1 + x, relative to u; which operand is the larger decides how to recover it exactly.
    lost = np.where(x < 1.0, x - (u - 1.0), 1.0 - (u - x)) / u
    mantissa, exponent = np.frexp(u)
    low_half = mantissa < _SQRT_HALF
    k = (exponent - low_half).astype(np.float64)
    f = np.where(low_half, mantissa + mantissa, mantissa) - 1.0
    # Near zero nothing is lost when x itself is taken, where 1 + x has no bits of it left.
    f = np.where(k == 0.0, x, f)
    lost = np.where(k == 0.0, 0.0, lost)
    s = f / (2.0 + f)
    w = s * s
    p = _LG[6] * w
    for coefficient in _LG[5:0:-1]:
        p = (p + coefficient) * w
    p = (p + _LG[0]) * w
    h = 0.5 * f * f
    result: NDArray[np.float64] = k * _LN2_HI - ((h - (s * (h + p) + (k * _LN2_LO + lost))) - f)
    return result


def log1p_of_one(x: float) -> float:
    """Return log(1 + x) for one finite x >= 0: the bits of `log1p`.

    >>> log1p_of_one(1.0)
    0.6931471805599453
    """
    u = 1.0 + x
    mantissa, exponent = math.frexp(u)
    if mantissa < _SQRT_HALF:
        mantissa, exponent = mantissa + mantissa, exponent - 1
    k = float(exponent)
    if exponent == 0:
        f, lost = x, 0.0
    else:
        f, lost = mantissa - 1.0, (x - (u - 1.0) if x < 1.0 else 1.0 - (u - x)) / u
    s = f / (2.0 + f)
    w = s * s
    p = _LG[6] * w
    p = (p + _LG[5]) * w
    p = (p + _LG[4]) * w
    p = (p + _LG[3]) * w
    p = (p + _LG[2]) * w
    p = (p + _LG[1]) * w
    p = (p + _LG[0]) * w
    h = 0.5 * f * f
    return k * _LN2_HI - ((h - (s * (h + p) + (k * _LN2_LO + lost))) - f)


def expm1(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return exp(y) - 1 for y (clipped to ±700), of the same shape, to within 1.6 units in the last place.

    Computed as 2**k * e + (2**k - 1) with e = exp(r) - 1, |r| <= ln(2) / 2. The one rounding that counts is the last:
    an error of e weighs no more than its share in the sum, which keeps the transforms monotone on whole milliseconds.
    Source: fdlibm e_exp.c (Sun Microsystems, 1993).

    >>> expm1(np.array([0.0, 1.0, -1e-300, -800.0])).tolist()
    [0.0, 1.7182818284590453, -1e-300, -1.0]
    """
    y = np.minimum(np.maximum(y, -_EXP_LIMIT), _EXP_LIMIT)
    k = np.rint(y * _INV_LN2)
    hi, lo = y - k * _LN2_HI, k * _LN2_LO
    r = hi - lo
    v = r * r
    p = _EP[4] * v
    for coefficient in _EP[3:0:-1]:
        p = (p + coefficient) * v
    c = r - (p + _EP[0]) * v
    e = ((r * c) / (2.0 - c) - lo) + hi
    two_k = np.ldexp(1.0, k.astype(np.int32))
    # Where k is 0, e is the answer; the sum would be the same value, but a different zero for y = -0.0.
    return np.where(k == 0.0, e, two_k * e + (two_k - 1.0))


def expm1_of_one(y: float) -> float:
    """Return exp(y) - 1 for one y (clipped to ±700): the bits of `expm1`.

    >>> expm1_of_one(1.0)
    1.7182818284590453
    """
    y = min(max(y, -_EXP_LIMIT), _EXP_LIMIT)
    exponent = round(y * _INV_LN2)
    k = float(exponent)
    hi, lo = y - k * _LN2_HI, k * _LN2_LO
    r = hi - lo
    v = r * r
    p = _EP[4] * v
    p = (p + _EP[3]) * v
    p = (p + _EP[2]) * v
    p = (p + _EP[1]) * v
    c = r - (p + _EP[0]) * v
    e = ((r * c) / (2.0 - c) - lo) + hi
    if exponent == 0:
        return e
    two_k = math.ldexp(1.0, exponent)
    return two_k * e + (two_k - 1.0)
