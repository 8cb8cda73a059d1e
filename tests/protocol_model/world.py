"""The worlds of the model: the orders, the segments that the models give, and the possible faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.protocol_model.state import CUSTOMERS, ERA, LATER, NEVER

# (order, customer): the last record of some worlds repeats the first order.
TWO: Final = ((0, 0), (1, 1))
REPEATED: Final = ((0, 0), (1, 1), (0, 0))
# The content of an input that was made anew, with fewer records than before.
ANEW: Final = ((2, 1),)
UNUSABLE: Final = -1  # in place of the customer: the record goes to the dead letters
WITH_UNUSABLE: Final = ((0, 0), (1, UNUSABLE), (2, 1))

# [customer][model - 1][clock]: the segment of a customer with an order. Customer 0 is moved by its order at once, and
# moved back by time. Customer 1 is moved by its order, only by time, or only by the second model.
Segments = tuple[tuple[tuple[int, int], tuple[int, int]], ...]
BOTH_AT_ONCE: Final[Segments] = (((1, 0), (1, 2)), ((1, 1), (2, 1)))
ONLY_BY_MODEL: Final[Segments] = (((1, 0), (1, 2)), ((0, 0), (2, 1)))
ONLY_BY_TIME: Final[Segments] = (((1, 0), (1, 2)), ((0, 1), (2, 1)))


@dataclass(frozen=True, slots=True)
class ModelWorld:
    """One environment. In each, workers crash, hang, wake up and take over at any time, any number of times."""

    orders: tuple[tuple[int, int], ...] = TWO
    segments: Segments = ONLY_BY_TIME
    rollbacks: int = 1  # of Redis
    losses: int = 0  # parts of Redis that vanish behind an intact head
    lost_commits: int = 1  # at most, by one rollback
    clock_moves: bool = True  # once, from 0 to 1
    new_model: bool = True  # activation 2 is published once
    skew: bool = False  # a worker's clock may lag
    torn: bool = False  # a delayed EndTxn commits what a later transaction has sent so far
    low_end: bool = False  # an end offset may be too low
    late_commit: bool = False  # a commit to Redis may arrive after its sender gave up
    split: bool = False  # an old primary of Redis goes on serving some workers
    pages: bool = False  # the output log is read in pages, with a commit for each
    retention: bool = False  # may delete the first record of the input, once, whether it was read or not
    recreated: tuple[tuple[int, int], ...] = ()  # the records of the input after it was deleted and made anew, once

    def records(self, offset: int) -> tuple[tuple[int, int], ...]:
        """Return the records of the input that an offset belongs to."""
        return self.recreated if offset >= ERA else self.orders

    def read(self, begin: int, end: int) -> tuple[tuple[int, int], ...]:
        """Return the input's records from `begin` to `end`, both of one era."""
        return self.records(begin)[begin % ERA : (end - 1) % ERA + 1] if end > begin else ()

    def end(self, begin: int) -> int:
        """Return where the input ends that begins at `begin` now."""
        return begin // ERA * ERA + len(self.records(begin))

    def segment(self, customer: int, orders: int, clock: int, activation: int) -> int:
        """Return the segment that a model gives."""
        return self.segments[customer][activation - 1][clock] if orders else 0

    def due(self, customer: int, orders: int, clock: int, activation: int) -> int:
        """Return when time will move a customer whose segment at `clock` is known."""
        if clock == 1:
            return NEVER
        moves = self.segment(customer, orders, 1, activation) != self.segment(customer, orders, 0, activation)
        return LATER if moves else NEVER

    def all_orders(self, customer: int, begin: int) -> int:
        """Return the orders of a customer that the input still has, as bits. `begin`: where it begins now."""
        found = 0
        for order, owner in self.read(begin, self.end(begin)):
            if owner == customer:
                found |= 1 << order
        return found

    def unusable(self, begin: int, end: int) -> int:
        """Return the unusable records of begin..end, as bits by offset."""
        records = zip(
            range(begin, end), self.read(begin, end), strict=False
        )  # a mutant's end may be beyond the input's
        return sum(1 << at for at, (_, owner) in records if owner == UNUSABLE)

    def readings(self, clock: int) -> range:
        """Return the values that a worker's clock may have."""
        return range(clock + 1) if self.skew else range(clock, clock + 1)


assert all(len(table) == CUSTOMERS for table in (BOTH_AT_ONCE, ONLY_BY_MODEL, ONLY_BY_TIME))
