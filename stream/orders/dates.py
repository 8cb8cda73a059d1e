"""The dates that a deployment accepts: its shards refuse events with others, and readers of files leave rows out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stream.orders.rows import LeftOutReason, parse_at

if TYPE_CHECKING:
    from datetime import date


class AcceptedDates(NamedTuple):
    """The first and the last instant that a row may be dated, in ms since 1970."""

    earliest_ms: int
    latest_ms: int

    @classmethod
    def at(cls, now_ms: int, *, earliest_date: date, future_tolerance_s: int) -> AcceptedDates:
        """Return the dates that a deployment with these settings accepts at a time."""
        return cls(parse_at(earliest_date.isoformat()), now_ms + future_tolerance_s * 1000)

    def refusal(self, at_ms: int) -> LeftOutReason | None:
        """Return why a row of this instant is left out; None: it isn't.

        >>> AcceptedDates(10, 20).refusal(20), str(AcceptedDates(10, 20).refusal(21))
        (None, 'dated_ahead')
        """
        if self.earliest_ms <= at_ms <= self.latest_ms:
            return None
        return LeftOutReason.DATE if at_ms < self.earliest_ms else LeftOutReason.DATED_AHEAD
