"""The dates that the shards accept: a file's rows with other dates are left out before they are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentation.entries import DAY_MS
from stream.orders.dates import AcceptedDates

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator

    from stream.orders.rows import OrderRow
    from stream.settings import Settings


class DateFilter:
    """Leaves out rows that the shards would refuse for their date, and counts those more than a day old."""

    def __init__(
        self, settings: Settings, left_out: Counter[str], *, now_ms: int, from_ms: int | None, until_ms: int | None
    ) -> None:
        """Count into `left_out` by reason; `from_ms` and `until_ms` bound the rows to be sent (None: no bound)."""
        self.old_rows = 0  # rows to be sent that are more than a day old
        self._left_out = left_out
        self._dates = AcceptedDates.at(
            now_ms, earliest_date=settings.earliest_date, future_tolerance_s=settings.future_tolerance_s
        )
        self._from_ms = from_ms or 0
        self._old_until_ms = now_ms - DAY_MS if until_ms is None else min(now_ms - DAY_MS, until_ms)

    def accepted(self, rows: Iterable[OrderRow]) -> Iterator[OrderRow]:
        """Yield the rows that can be sent."""
        for row in rows:
            if reason := self._dates.refusal(row.at_ms):
                self._left_out[reason.value] += 1
                continue
            self.old_rows += self._from_ms <= row.at_ms < self._old_until_ms
            yield row
