"""The purchase days of a sample of customers: what the outlook's regularity and its hold-outs in time are fitted on."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import numpy as np

from segmentation.life_figures import life_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from segmentation.rfm import Rules

# Customers whose days are kept, at most: with more, what is fitted on them hardly gets better.
MOST_CUSTOMERS: Final = 50_000


class PurchaseDays(NamedTuple):
    """Purchase days (UTC days since 1970, ascending) of the customers at `rows` of a snapshot, which ascend too."""

    rows: NDArray[np.int64]
    days: tuple[tuple[int, ...], ...]
    states: tuple[bytes, ...] = ()  # of the same customers


class DaysSample:
    """Draws the customers whose ids have the least hashes: the same ones from any number of partitions."""

    def __init__(self, at: int, rules: Rules, most: int = MOST_CUSTOMERS) -> None:
        """Begin without customers. `at`: the instant (ms) of the snapshot."""
        self._at, self._rules, self._most = at, rules, most
        self._drawn: list[tuple[int, bytes, bytes]] = []

    def add(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Add (customer, state) rows, each with an order that stands and a header that holds at the instant."""
        self._drawn += [(crc32(customer), customer, value) for customer, value in rows]
        # Not at every block: sorting what is kept costs more than keeping as much again for a while.
        if len(self._drawn) > 2 * self._most:
            self._keep_least()

    def _keep_least(self) -> None:
        self._drawn.sort()
        del self._drawn[self._most :]

    def of(self, customers: Sequence[bytes]) -> PurchaseDays:
        """Return the days. `customers`: all of the snapshot, sorted. Raises StateFormatError."""
        self._keep_least()
        by_name = sorted((customer, value) for _, customer, value in self._drawn)
        return PurchaseDays(
            np.array([bisect_left(customers, customer) for customer, _ in by_name], dtype=np.int64),
            tuple([tuple(life_at(value, self._at, self._rules).days) for _, value in by_name]),
            tuple([value for _, value in by_name]),
        )
