"""The rows and the advances of the clock that a replay sends, in order. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from segmentation.entries import DAY_MS
from stream.orders.rows import OrderRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Advance(NamedTuple):
    """An advance of the clock to `to_ms`, on every partition.

    `catches_up`: it comes before the first date, so isn't delayed.
    """

    to_ms: int
    catches_up: bool = False


def timeline(
    rows: Iterable[OrderRow],
    *,
    step_ms: int,
    clock_ms: int | None = None,
    from_ms: int | None = None,
    until_ms: int | None = None,
    clocks: bool = True,
) -> Iterator[OrderRow | Advance]:
    """Yield the rows, which are sorted by time, with advances of the clock between them, in the order of sending.

    An advance comes at the start of each UTC day on which there are rows, so that customers move by time alone on the
    day itself and no partition's clock falls far behind. No advance is further than `step_ms` from the one before. The
    last one goes to `until_ms`, or to the last row. Rows before `from_ms`, and at or after `until_ms`, are left out.
    `clock_ms`: the shards' lowest clock, None if they have none yet; from there, too, no advance is further than a
    step.
    """
    clock, latest = from_ms, from_ms
    if clocks and from_ms is not None:
        yield from _first_advances(clock_ms, from_ms, step_ms)
    for row in rows:
        if from_ms is not None and row.at_ms < from_ms:
            continue
        if until_ms is not None and row.at_ms >= until_ms:
            break
        midnight = row.at_ms - row.at_ms % DAY_MS
        if clocks and (clock is None or midnight > clock):
            yield from (
                _first_advances(clock_ms, midnight, step_ms) if clock is None else _advances(clock, midnight, step_ms)
            )
            clock = midnight
        latest = row.at_ms if latest is None else max(latest, row.at_ms)
        yield row
    end = latest if until_ms is None else until_ms
    if clocks and end is not None and (clock is None or end > clock):
        yield from _first_advances(clock_ms, end, step_ms) if clock is None else _advances(clock, end, step_ms)


def _first_advances(clock_ms: int | None, to_ms: int, step_ms: int) -> Iterator[Advance]:
    """Yield the advances from the shards' lowest clock to the first instant.

    That one comes even if all clocks are past it: a shard without a clock needs it, and the others ignore it.
    """
    if clock_ms is not None:
        yield from (Advance(at_ms, catches_up=True) for at_ms in range(clock_ms + step_ms, to_ms, step_ms))
    yield Advance(to_ms)


def _advances(from_ms: int, to_ms: int, step_ms: int) -> Iterator[Advance]:
    """Yield the advances from one instant to a later one, in steps that a shard's clock accepts."""
    yield from (Advance(at_ms) for at_ms in range(from_ms + step_ms, to_ms, step_ms))
    yield Advance(to_ms)
