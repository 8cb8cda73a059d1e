"""A customer's figures at an instant, in the window and of the whole life, read exactly from the state's bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from segmentation.entries import DAY_MS, ERASED
from segmentation.life_figures import LifeAt, life_of_reading
from segmentation.meaning import read
from segmentation.rfm import current, unpack

if TYPE_CHECKING:
    from segmentation.rfm import CustomerState, Rules


class CustomerFigures(NamedTuple):
    """A customer's figures. `recency_days`: None without an order. `monetary_units`: ten-thousandths."""

    recency_days: float | None
    frequency: int
    monetary_units: int
    segment: int  # id of the published one; 0: none was published
    sequence: int
    incomplete: bool  # the state has dropped entries that would count
    life: LifeAt


def figures_at(value: bytes, at_ms: int, rules: Rules) -> CustomerFigures | None:
    """Return a customer's figures as of an instant, which may be before the state's last change or after it.

    They come from the entries. The header's figures hold only from the last change on, and a worker may have written
    that later than `at_ms`. Segment and sequence are the present ones. None: the customer has nothing dated so early,
    or has been erased. Raises StateFormatError.
    """
    state = unpack(current(value, rules))
    if not any(e.kind != ERASED and e.time <= at_ms for e in state.entries):
        return None
    reading = read(state.entries, at_ms, state.cut, rules)
    recency = (at_ms - reading.standing[0].time) / float(DAY_MS) if reading.standing else None
    return CustomerFigures(
        recency,
        reading.frequency,
        reading.monetary,
        state.segment,
        state.sequence,
        not complete(state, at_ms, rules),
        life_of_reading(state, reading, rules),
    )


def complete(state: CustomerState, at_ms: int, rules: Rules) -> bool:
    """Return whether the entries hold everything that counts at an instant.

    They do if nothing later than a window and a grace before it has been dropped, except by an erasure.
    """
    erased = next((e.time for e in state.entries if e.kind == ERASED), None)
    return state.cut <= at_ms - rules.window - rules.grace or state.cut == erased
