"""The backfills that a shard knows of. Each mutes its customers until it is finished or expires.

A state names the backfill that mutes it by a small number, the slot; this registry maps slots to backfills. It depends
on the shard's records and the broker's timestamps alone, so it is the same however the records are cut into batches.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

SLOTS: Final = 63  # backfills that can be open at once: as many as fit into a state's flags (segmentation/rfm.py)
_COARSE_MS: Final = (
    1_000  # `last` is kept to the second: a new registry for every record would cost more than the record
)


class Backfill(Struct, frozen=True):
    """One backfill, as a shard has seen it. Instants in ms, by the broker's timestamps."""

    slot: int  # 1 to SLOTS
    id: str
    since: int  # its first record here
    last: int  # its latest, to the second
    closed: bool = False  # finished or expired; the rescore of its customers isn't over yet


class Backfills(Struct, frozen=True):
    """All backfills that are open or being closed.

    >>> opened, slot = Backfills().mark("archive", 5_000)
    >>> slot, opened.open_slots, opened.close(["archive"]).open_slots
    (1, frozenset({1}), frozenset())
    """

    opened: int = 0  # how many were ever opened
    rows: tuple[Backfill, ...] = ()

    @property
    def open_slots(self) -> frozenset[int]:
        """The slots whose customers are muted."""
        return frozenset(row.slot for row in self.rows if not row.closed)

    def mark(self, name: str, at: int) -> tuple[Backfills, int | None]:
        """Return (the registry after a record of that backfill, its slot); (self, None) if all slots are taken."""
        for row in self.rows:
            if row.id == name and not row.closed:
                if at < row.last + _COARSE_MS:
                    return self, row.slot
                later = replace(row, last=at)
                return replace(self, rows=tuple(later if r is row else r for r in self.rows)), row.slot
        # In turn, not the lowest free slot: some states may still hold a slot that was closed a moment ago.
        taken = {row.slot for row in self.rows}
        following = (1 + (self.opened + step) % SLOTS for step in range(SLOTS))
        slot = next((slot for slot in following if slot not in taken), None)
        if slot is None:
            return self, None
        return Backfills(self.opened + 1, (*self.rows, Backfill(slot, name, at, at))), slot

    def is_open(self, name: str) -> bool:
        """Return whether a backfill is open, so that its records mute their customers."""
        return any(row.id == name and not row.closed for row in self.rows)

    def silent_since(self, before: int) -> list[str]:
        """Return the names of the backfills without a record since that instant."""
        return [row.id for row in self.rows if not row.closed and row.last < before]

    def close(self, names: Collection[str]) -> Backfills:
        """Return the registry in which these are over, and their customers are to be rescored."""
        return replace(self, rows=tuple(replace(r, closed=True) if r.id in names else r for r in self.rows))

    @property
    def closed_slots(self) -> frozenset[int]:
        """The slots of backfills that are over; states may hold them until their customers have been rescored."""
        return frozenset(row.slot for row in self.rows if row.closed)

    def without_closed(self) -> Backfills:
        """Return the registry without the closed ones, whose customers have all been rescored."""
        return replace(self, rows=tuple(row for row in self.rows if not row.closed))


NONE_OPEN: Final = Backfills()
