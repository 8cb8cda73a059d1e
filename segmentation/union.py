"""The union of two customers' states: that of one person, whose events came under two ids.

Where both know all that reaches their orders, it is the state of a customer who always had one id
(docs/explanation/state-format.md, section 11).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from segmentation.entries import ERASED
from segmentation.life import Folded, fold
from segmentation.meaning import Reading, read, saturated
from segmentation.rfm import settle

if TYPE_CHECKING:
    from segmentation.entries import Rules
    from segmentation.state_bytes import CustomerState


def united(own: CustomerState, given: CustomerState, t: int, rules: Rules) -> CustomerState:
    """Return the state of both at clock `t`; moves, merges and mute are `own`'s.

    Each is under the erasures of both. What the cut of one has passed and that of the other hasn't is folded first, in
    the light of both.
    """
    stones = [e for state in (own, given) for e in state.entries if e.kind == ERASED]
    sides = [settle(state, {*state.entries, *stones}, t, rules) for state in (own, given)]
    cut = max(side.cut for side in sides)
    entries = {e for side in sides for e in side.entries}
    reading = read(sorted(entries), t, cut, rules)
    one, other = (_folded_up_to(cut, side, reading, rules) for side in sides)
    both = replace(
        own,
        cut=cut,
        capped=any(side.capped for side in sides),
        first=min(side.first for side in sides),
        folded=_sum(one, other),
    )
    return settle(both, entries, t, rules)


def erased_at(state: CustomerState) -> int | None:
    """Return the date (ms) of the erasure in a state; None: there is none."""
    return state.entries[0].time if state.entries and state.entries[0].kind == ERASED else None


def _folded_up_to(cut: int, side: CustomerState, reading: Reading, rules: Rules) -> Folded:
    """Return what one of the two has folded, and what it has to fold up to the cut of both. `reading`: of both."""
    if side.cut == cut:
        return side.folded
    own = set(side.entries)
    standing = [e for e in reading.standing if e in own]
    # The other side is cut there already: of refunds up to it that name no order it has none left.
    return fold(side.folded, standing, reading.refunds, side.cut, cut, rules)


def _sum(one: Folded, other: Folded) -> Folded:
    return Folded(
        orders=one.orders + other.orders,
        money=saturated(one.money + other.money),
        first=min(one.first, other.first),
        last=max(one.last, other.last),
        days=tuple(sorted({*one.days, *other.days})),
        whole=one.whole and other.whole,
    )
