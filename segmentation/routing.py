"""Which partition a new customer's records belong on; and what becomes of records on another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.events import Reason
from segmentation.step import DeadLetter, Forward

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segmentation.partitioners import Partitioner
    from segmentation.step import Turn


class Routing(NamedTuple):
    """The partitions of a deployment. `partitioner` None: every customer belongs where its records are."""

    partitioner: Partitioner | None
    partitions: int

    def partition_of(self, key: bytes) -> int | None:
        """Return the partition of a customer's records; None: nobody knows it."""
        if self.partitioner is None:
            return 0 if self.partitions == 1 else None
        return self.partitioner(key, self.partitions)

    def is_here(self, key: bytes, partition: int, own: Sequence[int], turn: Turn, former: int) -> bool:
        """Return whether a customer belongs on this partition. If not, its records go on, or to the dead letters.

        `own`: the positions of its records; `former`: the partitions before they became more, 0: they never did.
        """
        if self.partitioner is None or (right := self.partitioner(key, self.partitions)) == partition:
            return True
        if former and self.partitioner(key, former) == partition:
            turn.forwards += [Forward(position, right) for position in own]
            return False
        belongs = f"customer {key.decode()!r} belongs on partition {right}, not {partition}"
        message = f"{belongs}: check the producer's partitioner."
        turn.dead += [DeadLetter(position, Reason.WRONG_PARTITION.value, None, message) for position in own]
        return False


EVERYWHERE: Final = Routing(None, 1)  # there is one partition
