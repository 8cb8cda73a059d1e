"""A customer's whole life as it is published: in moves, exports and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.entries import NONE, PLACED, after
from segmentation.event_text import iso
from segmentation.life import NO_LIFE, NOTHING_FOLDED, Folded, Gaps, Life, day_of, gaps_of, life_of, purchase_days
from segmentation.meaning import read
from segmentation.money import format_units
from segmentation.output_events import LifeFigures
from segmentation.state_bytes import HEADER, ROW, cut_of, figures_in, has_tail, life_in, rows_end_of, unpack
from segmentation.state_tail import folded_alone

if TYPE_CHECKING:
    from segmentation.entries import Rules
    from segmentation.meaning import Reading
    from segmentation.state_bytes import CustomerState


class LifeAt(NamedTuple):
    """A whole life at an instant."""

    life: Life
    last: int  # ms of the last order that stands
    days: list[int]  # purchase days, ascending
    partial: bool

    @property
    def mean_order(self) -> int | None:
        """The mean value of an order, ten-thousandths; None: no order stands."""
        return _rounded(self.life.money, self.life.orders) if self.life.orders else None

    @property
    def gaps(self) -> Gaps | None:
        """The gaps between purchase days as they are published; None: fewer than two days."""
        gaps = gaps_of(self.days)
        return gaps and Gaps(round(gaps.mean, 6), gaps.typical)


LIFELESS: Final = LifeAt(NO_LIFE, NONE, [], partial=False)


def life_at(value: bytes, at: int, rules: Rules) -> LifeAt:
    """Return the whole life in a state whose header holds at an instant. Raises StateFormatError."""
    life, last = life_in(value), figures_in(value).last
    if not has_tail(value) and 0 < life.days < 3:
        return LifeAt(life, last, sorted({day_of(life.first), day_of(last)}), partial=False)
    if (plain := _plain(value)) is not None:
        times, folded = plain
        if len(times) == life.orders - folded.orders:  # every order after the cut stands
            days = sorted({day_of(time) for time in times}.union(folded.days))
            return LifeAt(life, max(folded.last, last), days, partial=not folded.whole)
    return life_of_state(unpack(value), at, rules)


def _plain(value: bytes) -> tuple[list[int], Folded] | None:
    """Return (the times (ms) of placements after the cut, ascending; what is folded); None: that takes all entries."""
    end, folded = rows_end_of(value), NOTHING_FOLDED
    if has_tail(value):
        try:
            alone = folded_alone(value[end:])
        except (IndexError, ValueError):
            return None  # torn: to be refused
        if alone is None:
            return None
        folded = alone
    keys = [low | high << 32 for low, high, *_ in ROW.iter_unpack(value[HEADER.size : end])]
    least = after(cut_of(value))
    return [key >> 3 for key in keys if key & 7 == PLACED and key >= least], folded


def life_of_state(state: CustomerState, at: int, rules: Rules) -> LifeAt:
    """Return the whole life in a state at an instant: its last change or earlier, but after its cut."""
    return life_of_reading(state, read(state.entries, at, state.cut, rules), rules)


def life_of_reading(state: CustomerState, reading: Reading, rules: Rules) -> LifeAt:
    """Return the whole life in a state at the instant at which its entries were read."""
    life = life_of(state.folded, reading.standing, reading.refunds, state.cut, rules)
    last = max([state.folded.last, *(e.time for e in reading.standing[:1])])
    return LifeAt(life, last, purchase_days(state.folded, reading.standing, state.cut), partial=not state.folded.whole)


def life_figures(found: LifeAt) -> LifeFigures | None:
    """Return a life as it is published; None: no order stands."""
    life, mean, gaps = found.life, found.mean_order, found.gaps
    if mean is None:
        return None
    return LifeFigures(
        orders=life.orders,
        purchase_days=life.days,
        monetary=format_units(life.money),
        mean_order_value=format_units(mean),
        first_order_at=iso(life.first),
        last_order_at=iso(found.last),
        mean_gap_days=gaps.mean if gaps else None,
        typical_gap_days=gaps.typical if gaps else None,
        partial=found.partial,
    )


def _rounded(units: int, count: int) -> int:
    """Divide money; half a ten-thousandth is rounded away from zero."""
    whole = (2 * abs(units) + count) // (2 * count)
    return whole if units >= 0 else -whole
