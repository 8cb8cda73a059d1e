"""What time alone will do to customers up to an instant, if nothing else happens; and what would keep one where it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np

from segmentation.decisions import CompiledModel, Customer, rest_of, search
from segmentation.money import UNITS
from segmentation.rfm import (
    EMPTY,
    HEADER,
    Kind,
    Rules,
    absorb_bytes,
    advance_bytes,
    announcement,
    entry,
    headers,
    is_silent,
    with_announcement,
)

_MONETARY = 7  # of the header's fields
_CENT: Final = UNITS // 100
_AMOUNTS: Final = tuple(
    int(digit * 10**power) * _CENT for power in range(9) for digit in (1, 2, 5)
)  # 0.01 to 5,000,000


class Ahead(NamedTuple):
    """A move to come. Segments by lasting id, 0: none; monetary in ten-thousandths, as of that instant."""

    key: bytes
    at: int  # ms
    source: int
    target: int
    monetary: int


def moves_ahead(
    rows: Iterable[tuple[bytes, bytes]], as_of: int, until: int, model: CompiledModel, *, dwell_ms: int, rules: Rules
) -> Iterator[Ahead]:
    """Give the moves in [as_of, until) of customers (key, state), by the worker's own search: in rounds, unordered.

    What was told already lies before `as_of`, the shard's clock. Who is muted by a back-fill isn't looked at. Raises StateFormatError.
    """
    waiting = [(key, value, as_of) for key, value in rows if not is_silent(value)]
    while waiting:
        customers = [Customer(key, advance_bytes(value, start, rules)) for key, value, start in waiting]
        search(customers, [start for _, _, start in waiting], model, max(dwell_ms, 1), rules)
        waiting = []
        for customer in customers:
            value = customer.value or EMPTY
            if customer.due < until and customer.due <= customer.wake:
                at = customer.due
                source, sequence, _ = announcement(value)
                target = int(model.scorer.ids[customer.to])
                value = with_announcement(advance_bytes(value, at, rules), target, sequence + 1, at)
                yield Ahead(customer.key, at, source, target, HEADER.unpack_from(value)[_MONETARY])
                waiting.append((customer.key, value, at + 1))
            elif customer.wake < min(until, customer.due):
                # The search has looked at the pieces up to here.
                waiting.append((customer.key, value, customer.wake))


def keeping_purchase(value: bytes, due: int, model: CompiledModel, rules: Rules) -> int | None:
    """The least purchase (ten-thousandths, whole cents) in the last millisecond before `due` that keeps the customer's segment.

    Looked for on a grid of 1, 2, 5 times the powers of ten, then between its neighbours by halving. None: no purchase does
    (one may move the customer elsewhere). The scorer's own answer: with an amount that is told, the customer stays.
    """
    before = advance_bytes(value, due - 1, rules)
    kept = _kept(before, due - 1, _AMOUNTS, model, rules)
    if True not in kept:
        return None
    first = kept.index(True)
    low, high = (_AMOUNTS[first - 1] if first else 0), _AMOUNTS[first]
    while high - low > _CENT:
        middle = (low + high) // 2 // _CENT * _CENT
        if _kept(before, due - 1, (middle,), model, rules)[0]:
            high = middle
        else:
            low = middle
    return high


def _kept(value: bytes, at: int, amounts: tuple[int, ...], model: CompiledModel, rules: Rules) -> list[bool]:
    """Whether each purchase at that instant leaves the customer in its segment."""
    bought = [entry(Kind.PLACED, "purchase", at, order="purchase", amount=amount) for amount in amounts]
    head = headers([absorb_bytes(value, one, at, rules)[0] for one in bought])
    source = model.scorer.index_from_ids(head["segment"])
    instants = np.full(len(amounts), at, dtype=np.int64)
    stays: list[bool] = (
        model.scorer.decide(source, instants, head["last"], rest_of(head, model.scorer)) == source
    ).tolist()
    return stays
