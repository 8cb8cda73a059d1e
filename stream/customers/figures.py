"""A customer's recency, frequency and monetary value at an instant, read exactly from the state's bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from segmentation.entries import DAY_MS, ERASED, read
from segmentation.rfm import unpack

if TYPE_CHECKING:
    from segmentation.rfm import CustomerState, Rules


class CustomerFigures(NamedTuple):
    """What a state says at an instant. `recency_days`: None where no order stands. `monetary_units`: ten-thousandths."""

    recency_days: float | None
    frequency: int
    monetary_units: int
    segment: int  # id of the announced one, 0: never announced
    sequence: int
    incomplete: bool  # something that the window should hold has been forgotten


def figures_at(value: bytes, at_ms: int, rules: Rules) -> CustomerFigures | None:
    """Read a state as of an instant, earlier or later than the one at which it was written. Raises StateFormatError.

    Always from the entries, never from the header's figures: those hold from the state's last change on, and a worker may
    have written it later than `at_ms`. None: nothing of this customer is dated so early, or all has been
    erased. Segment and sequence are the
    present ones, whatever the instant.
    """
    state = unpack(value)
    if not any(e.kind != ERASED and e.time <= at_ms for e in state.entries):
        return None
    reading = read(state.entries, at_ms, state.cut, rules)
    recency = (at_ms - reading.standing[0].time) / float(DAY_MS) if reading.standing else None
    return CustomerFigures(
        recency, reading.frequency, reading.monetary, state.segment, state.sequence, not complete(state, at_ms, rules)
    )


def complete(state: CustomerState, at_ms: int, rules: Rules) -> bool:
    """Tell whether the entries hold all that counts at an instant.

    So it is if nothing later than a window and a grace before it has been forgotten, or only what an erasure took away.
    """
    erased = next((e.time for e in state.entries if e.kind == ERASED), None)
    return state.cut <= at_ms - rules.window - rules.grace or state.cut == erased
