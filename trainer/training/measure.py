"""Measure how good a clustering is, with random numbers from the seed and on one thread: repeatable to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import sklearn
from sklearn.cluster import KMeans
from sklearn.metrics import (
    adjusted_rand_score,
    calinski_harabasz_score,
    davies_bouldin_score,
    silhouette_samples,
    silhouette_score,
)
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types; a dependency of scikit-learn

if TYPE_CHECKING:
    from numpy.typing import NDArray

SILHOUETTE_SAMPLE: Final = 20_000  # customers; the cost is quadratic

_DIGITS: Final = 12
# MiB of distances that the silhouette computes at a time; scikit-learn's default is 1,024.
_SILHOUETTE_MIB: Final = 64
_RESAMPLE_STARTS: Final = 3
_STABILITY_SAMPLE: Final = 20_000


def rounded(x: float) -> float:
    """Round to 12 significant digits.

    >>> rounded(1 / 3), rounded(123456789.123456)
    (0.333333333333, 123456789.123)
    """
    return float(f"{x:.{_DIGITS - 1}e}")


def sample_of(customers: int, most: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of `most` customers drawn at random, ascending; of all where there are no more.

    >>> sample_of(3, 5, seed=1).tolist()
    [0, 1, 2]
    """
    if customers <= most:
        return np.arange(customers)
    return np.sort(np.random.default_rng(seed).choice(customers, most, replace=False))


def silhouette(z: NDArray[np.float64], labels: NDArray[np.int64], seed: int) -> float | None:
    """Return the mean silhouette, -1 to 1, of at most 20,000 customers: a sample where there are more.

    Rousseeuw, Journal of Computational and Applied Mathematics 20, 1987. None where the sample has one cluster, or as
    many clusters as customers.
    """
    sample = sample_of(len(z), SILHOUETTE_SAMPLE, seed)
    if not _has_silhouettes(labels[sample]):
        return None
    with threadpool_limits(limits=1), sklearn.config_context(working_memory=_SILHOUETTE_MIB):
        return rounded(float(silhouette_score(z[sample], labels[sample])))


def silhouettes(z: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return the silhouette of each row of a sample, [rows]; None as for `silhouette`."""
    if not _has_silhouettes(labels):
        return None
    with threadpool_limits(limits=1), sklearn.config_context(working_memory=_SILHOUETTE_MIB):
        values: NDArray[np.float64] = silhouette_samples(z, labels)
    return values


def _has_silhouettes(labels: NDArray[np.int64]) -> bool:
    return 1 < len(np.unique(labels)) < len(labels)


def separation(z: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float | None, float | None]:
    """Return the indices of Davies and Bouldin (lower is better) and of Calinski and Harabasz (higher is better).

    Each is None where it isn't defined.
    """
    if not _has_silhouettes(labels):
        return None, None
    # Clusters of equal points have no width, and their index is infinite: no figure to report.
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = float(davies_bouldin_score(z, labels)), float(calinski_harabasz_score(z, labels))
    davies_bouldin, calinski_harabasz = (rounded(score) if np.isfinite(score) else None for score in scores)
    return davies_bouldin, calinski_harabasz


def stability(z: NDArray[np.float64], labels: NDArray[np.int64], k: int, seed: int, rounds: int) -> float | None:
    """Return the median adjusted Rand index, at most 1, between this clustering and those of resampled customers.

    Each round draws as many customers with replacement, clusters them, and assigns the original customers to the new
    centroids (Hennig, Computational Statistics & Data Analysis 52, 2007, with the index of Hubert and Arabie, 1985).
    z: [customers, 3]; a sample where there are more than 20,000. None with `rounds` 0, or where a resample has fewer
    than k different customers.
    """
    if not rounds:
        return None
    rng = np.random.default_rng([seed, k])
    at = sample_of(len(z), _STABILITY_SAMPLE, seed)
    z, labels = z[at], labels[at]
    found = []
    with threadpool_limits(limits=1):
        for _ in range(rounds):
            resample = z[rng.integers(0, len(z), len(z))]
            if len(np.unique(resample, axis=0)) < k:
                return None
            state = int(rng.integers(2**32))
            fitted = KMeans(n_clusters=k, n_init=_RESAMPLE_STARTS, random_state=state).fit(resample)
            found.append(float(adjusted_rand_score(labels, fitted.predict(z))))
    return rounded(float(np.median(found)))
