"""The past of a sample of customers, out of their states: what is replayed where no file of orders is at hand.

A state has an entry for each event of about the last window. Of the orders before, it has the purchase days, their
number and their money altogether: here each of these days is one order of an equal part of that money. So days, first
and last order are exact at any instant of the past; money and counts of orders are so from the window on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from segmentation.entries import DAY_MS, PLACED, REFUNDED, Entry, Kind, entry
from segmentation.state_bytes import unpack
from trainer.snapshot.orders import OrderBook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segmentation.rfm import Rules
    from segmentation.state_bytes import CustomerState
    from trainer.snapshot.redis import CustomerSnapshot

_NOON_MS: Final = DAY_MS // 2


def book_of_sample(snapshot: CustomerSnapshot, rules: Rules) -> OrderBook | None:
    """Return the orders of the customers whose states a snapshot kept; None: of none. Raises StateFormatError."""
    if snapshot.days is None or not snapshot.days.states:
        return None
    names = [snapshot.customers[row] for row in snapshot.days.rows.tolist()]
    states = (unpack(value) for value in snapshot.days.states)
    return OrderBook({name: list(history_of(state)) for name, state in zip(names, states, strict=True)}, rules, 0)


def history_of(state: CustomerState) -> Iterator[Entry]:
    """Yield what a customer did, in no particular order, as far as the state knows."""
    folded = state.folded
    for number, day in enumerate(folded.days):
        # The first and the last order have their own instants.
        at = folded.last if number == len(folded.days) - 1 else day * DAY_MS + _NOON_MS
        at = folded.first if number == 0 and len(folded.days) > 1 else at
        # The last one has the rest, so that the sum is exact.
        part = folded.money // len(folded.days)
        part += folded.money % len(folded.days) if number == len(folded.days) - 1 else 0
        name = f"folded {number}"
        yield entry(Kind.PLACED, name, at, order=name, amount=max(part, 0))
    known = [e for e in state.entries if e.time > state.cut]
    placed = {e.order for e in known if e.kind == PLACED}
    # A refund of an order that is folded is in its money already, or came too late to matter.
    yield from (e for e in known if e.kind != REFUNDED or e.order == 0 or e.order in placed)
