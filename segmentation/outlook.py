"""What time alone will do to customers up to an instant: all their moves, one after the other, if nothing else happens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from segmentation.decisions import CompiledModel, Customer, search
from segmentation.rfm import EMPTY, HEADER, Rules, advance_bytes, announcement, with_announcement

_MONETARY = 7  # of the header's fields


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

    What was told already lies before `as_of`, the shard's clock. Raises StateFormatError.
    """
    waiting = [(key, value, as_of) for key, value in rows]
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
