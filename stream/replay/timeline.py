"""Which rows and clock advances a replay sends, in order. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from segmentation.entries import DAY_MS
from stream.orders.rows import OrderRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Advance(NamedTuple):
    """Event time has come to `to_ms`, on every partition. `leads_up`: to the first thing told, so there is nothing to wait for."""

    to_ms: int
    leads_up: bool = False


def timeline(
    rows: Iterable[OrderRow],
    *,
    step_ms: int,
    clock_ms: int | None = None,
    from_ms: int | None = None,
    until_ms: int | None = None,
    clocks: bool = True,
) -> Iterator[OrderRow | Advance]:
    """Put the advances of the clock between rows that come by time: what is sent, in the order in which it is sent.

    One at the start of each UTC day on which there are rows, so that a silence is told on the day and no partition's clock
    falls far behind; none further than `step_ms` from the one before. At the end one to `until_ms`, or to the last row.
    Rows before `from_ms`, and at or after `until_ms`, are left out. `clock_ms` is the instant to which the shards have come
    before, None if they haven't begun: from there, too, no advance is further than a step.
    """
    told, latest = from_ms, from_ms
    if clocks and from_ms is not None:
        yield from _first_advances(clock_ms, from_ms, step_ms)
    for row in rows:
        if from_ms is not None and row.at_ms < from_ms:
            continue
        if until_ms is not None and row.at_ms >= until_ms:
            break
        midnight = row.at_ms - row.at_ms % DAY_MS
        if clocks and (told is None or midnight > told):
            yield from (
                _first_advances(clock_ms, midnight, step_ms) if told is None else _advances(told, midnight, step_ms)
            )
            told = midnight
        latest = row.at_ms if latest is None else max(latest, row.at_ms)
        yield row
    end = latest if until_ms is None else until_ms
    if clocks and end is not None and (told is None or end > told):
        yield from _first_advances(clock_ms, end, step_ms) if told is None else _advances(told, end, step_ms)


def _first_advances(clock_ms: int | None, to_ms: int, step_ms: int) -> Iterator[Advance]:
    """Lead from the shards' clocks up to the first instant told. If they are past it already, it is told all the same.

    A shard that hasn't begun needs it, and to the others it says nothing.
    """
    if clock_ms is not None:
        yield from (Advance(at_ms, leads_up=True) for at_ms in range(clock_ms + step_ms, to_ms, step_ms))
    yield Advance(to_ms)


def _advances(told_ms: int, to_ms: int, step_ms: int) -> Iterator[Advance]:
    """Go from one instant to a later one in steps that a shard's clock takes."""
    yield from (Advance(at_ms) for at_ms in range(told_ms + step_ms, to_ms, step_ms))
    yield Advance(to_ms)
