"""The back-fills that a shard knows of. A customer with records of one is muted until it is finished, or has been silent for too long.

A state says by a small number, the slot, which back-fill mutes it; this registry says which slot that is. It goes by the
records of the shard alone, with the broker's timestamps, so it is the same however the records are cut into batches.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

SLOTS: Final = 63  # that can be open at once: what fits into a state's flags (segmentation/rfm.py)
_COARSE_MS: Final = (
    1_000  # `last` is kept to the second: a new registry for every record would cost more than the record
)


class Backfill(Struct, frozen=True):
    """One back-fill, as a shard has seen it. Instants in ms, by the broker's timestamps."""

    slot: int  # 1 to SLOTS
    id: str
    since: int  # its first record here
    last: int  # its latest, to the second
    closed: bool = False  # finished or expired, and some of its customers may not have been looked at yet


class Backfills(Struct, frozen=True):
    """All that are open or being closed.

    >>> opened, slot = Backfills().mark("archive", 5_000)
    >>> slot, opened.open_slots, opened.close(["archive"]).open_slots
    (1, frozenset({1}), frozenset())
    """

    opened: int = 0  # so many ever
    rows: tuple[Backfill, ...] = ()

    @property
    def open_slots(self) -> frozenset[int]:
        """The slots whose customers are muted."""
        return frozenset(row.slot for row in self.rows if not row.closed)

    def mark(self, name: str, at: int) -> tuple[Backfills, int | None]:
        """(the registry after a record of that back-fill, its slot); (self, None) where all slots are taken."""
        for row in self.rows:
            if row.id == name and not row.closed:
                if at < row.last + _COARSE_MS:
                    return self, row.slot
                later = replace(row, last=at)
                return replace(self, rows=tuple(later if r is row else r for r in self.rows)), row.slot
        # Round and round, not the lowest that is free: a slot that was closed a moment ago may still be in some states.
        taken = {row.slot for row in self.rows}
        following = (1 + (self.opened + step) % SLOTS for step in range(SLOTS))
        slot = next((slot for slot in following if slot not in taken), None)
        if slot is None:
            return self, None
        return Backfills(self.opened + 1, (*self.rows, Backfill(slot, name, at, at))), slot

    def is_open(self, name: str) -> bool:
        """Whether records of it mute their customers and wait for its end."""
        return any(row.id == name and not row.closed for row in self.rows)

    def silent_since(self, before: int) -> list[str]:
        """Those of which nothing has come since that instant."""
        return [row.id for row in self.rows if not row.closed and row.last < before]

    def close(self, names: Collection[str]) -> Backfills:
        """These are over: their customers are to be looked at."""
        return replace(self, rows=tuple(replace(r, closed=True) if r.id in names else r for r in self.rows))

    def without_closed(self) -> Backfills:
        """All customers of the closed ones have been looked at."""
        return replace(self, rows=tuple(row for row in self.rows if not row.closed))


NONE_OPEN: Final = Backfills()
