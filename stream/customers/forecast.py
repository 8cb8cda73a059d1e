"""The moves to come if nothing is bought: how many customers, from which segment to which, and on which day."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

import msgspec

from segmentation.decisions import CompiledModel, ScoringContext
from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.forecast import moves_ahead
from segmentation.money import format_units
from segmentation.output_events import OutlookFigures
from stream.orders.rows import parse_signed
from stream.storage.states import look_at_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from segmentation.forecast import Ahead
    from stream.models.topic import PublishedModels
    from stream.settings import Settings

_LONGEST_BAR: Final = 40  # characters


class ForecastMove(msgspec.Struct, frozen=True, gc=False):
    """A move to come if nothing is bought, refunded or cancelled, and no model is activated."""

    customer_id: str
    at: str
    from_segment: str | None
    to_segment: str | None
    monetary: str
    outlook: OutlookFigures | None = None  # at that instant, as the move will have it


class ForecastFlow(msgspec.Struct, frozen=True, gc=False):
    """The moves of one day (UTC) from one segment to another: number of customers, and their money in the window.

    `spend_90d`: the money that they are expected to spend in the 90 days from their moves; None without an outlook.
    """

    day: str
    from_segment: str | None
    to_segment: str | None
    customers: int
    monetary: str
    spend_90d: str | None = None


class MoveForecast(msgspec.Struct, frozen=True):
    """All flows up to an instant, ordered by day, then by segments."""

    customers: int
    as_of: str | None  # the most advanced clock; None: nobody will move
    until: str | None
    flows: list[ForecastFlow]


def each_move(
    settings: Settings, published: PublishedModels, days: float, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[int, Ahead]]:
    """Yield each move to come with its shard's clock (ms), shard by shard, within a shard unordered.

    The forecast starts at the shard's clock in event time, now in wall time. `progress` gets the number of customers
    read.
    Raises StoreUnreadable, ExportError, NoActiveModel, RedisUnreachable.
    """
    model = CompiledModel.of(published.require_active(), settings.group, published.names)
    scoring = ScoringContext.of(model, settings.dwell_ms, settings.rules)
    span_ms = round(days * DAY_MS)

    def look(at: int, page: list[tuple[bytes, bytes]]) -> list[Ahead]:
        return list(moves_ahead(page, at, at + span_ms, scoring))

    for at, moves in look_at_all(settings, look, progress):
        for move in moves:
            yield at, move


def named(move: Ahead, published: PublishedModels) -> ForecastMove:
    """Return a move with the names of its segments."""
    source, target = published.name(move.source), published.name(move.target)
    return ForecastMove(move.key.decode(), iso(move.at), source, target, format_units(move.monetary), move.outlook)


def forecast_flows(
    settings: Settings, published: PublishedModels, days: float, progress: Callable[[int], None] | None = None
) -> MoveForecast:
    """Count the moves to come by day and segments. Raises the errors of `each_move`."""
    counts: dict[tuple[int, int, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    foreseen = published.active is not None and published.active.outlook is not None
    latest: int | None = None
    seen = 0

    def look(count: int) -> None:
        nonlocal seen
        seen = count
        if progress:
            progress(count)

    for clock, move in each_move(settings, published, days, look):
        latest = max(clock, latest or clock)
        of_day = counts[move.at // DAY_MS, move.source, move.target]
        of_day[0] += 1
        of_day[1] += move.monetary
        of_day[2] += parse_signed(move.outlook.spend_90d) if move.outlook else 0
    flows = [
        ForecastFlow(
            iso(day * DAY_MS)[:10],
            published.name(source),
            published.name(target),
            customers,
            format_units(money),
            format_units(spend) if foreseen else None,
        )
        for (day, source, target), (customers, money, spend) in sorted(counts.items())
    ]
    until = None if latest is None else iso(latest + round(days * DAY_MS))
    return MoveForecast(seen, None if latest is None else iso(latest), until, flows)


def pair_rows(flows: Sequence[ForecastFlow], *, foreseen: bool) -> list[tuple[str, ...]]:
    """Return a row for each pair of segments, the most moves first: the pair, moves, money, peak day.

    `foreseen`: with the money that is expected of those who move, before the peak day.
    """
    pairs = defaultdict[tuple[str, str], Counter[str]](Counter)
    money, spend = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for flow in flows:
        pair = flow.from_segment or "(new)", flow.to_segment or "(erased)"
        pairs[pair][flow.day] += flow.customers
        money[pair] += parse_signed(flow.monetary)
        spend[pair] += parse_signed(flow.spend_90d or "0")
    rows = []
    for pair, of_days in sorted(pairs.items(), key=lambda row: -row[1].total()):
        day, most = of_days.most_common(1)[0]
        expected = (format_units(spend[pair]),) if foreseen else ()
        rows.append((*pair, f"{of_days.total():,}", format_units(money[pair]), *expected, f"{day} ({most:,})"))
    return rows


def day_bars(flows: Sequence[ForecastFlow]) -> list[str]:
    """Return a line for each day with its number of moves, and a bar."""
    by_day = Counter[str]()
    for flow in flows:
        by_day[flow.day] += flow.customers
    longest = max(by_day.values())
    return [
        f"{day}  {count:>9,}  {'#' * max(1, round(count * _LONGEST_BAR / longest))}"
        for day, count in sorted(by_day.items())
    ]
