"""Budgets: how many actions of a campaign a shard may still send today. Each shard has its part."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, timedelta
from typing import Final, NamedTuple

import msgspec

from segmentation.campaign_state import CampaignFormatError

BUDGET_KEY: Final = b"\0budget"  # of states and records: no customer id begins so
_KEPT: Final = timedelta(days=32)  # of a campaign that is over nothing stays; days go back by less than that
_VERSION: Final = b"B"  # the first byte of a state; those of customers have another


class DayCount(NamedTuple):
    """The actions of a day (ISO)."""

    day: str
    actions: int


class BudgetState(NamedTuple):
    """A shard's actions, by campaign: of the last day with one. `counter`: of the turns that had any."""

    counter: int = 0
    used: dict[str, DayCount] = {}  # noqa: RUF012 - never changed

    def pack(self) -> bytes:
        """Write it, the same for equal counts."""
        return _VERSION + msgspec.msgpack.encode((self.counter, dict(sorted(self.used.items()))))

    @classmethod
    def unpack(cls, value: bytes | None) -> BudgetState:
        """Read it; None: nothing was sent yet. Raises CampaignFormatError."""
        if value is None:
            return cls()
        try:
            return _decoder.decode(value.removeprefix(_VERSION))
        except msgspec.DecodeError as error:
            raise CampaignFormatError(f"{value[:16].hex()} isn't a state of budgets: {error}") from error


_decoder: Final = msgspec.msgpack.Decoder(BudgetState)


def is_budget(value: bytes) -> bool:
    """Return whether a state, or the note of an output, is that of budgets."""
    return value.startswith(_VERSION)


def budget_key(partition: int) -> bytes:
    r"""Return the key of a shard's budgets.

    >>> budget_key(3)
    b'\x00budget:3'
    """
    return BUDGET_KEY + b":%d" % partition


class BudgetBook:
    """A shard's budgets in a turn."""

    def __init__(self, value: bytes | None, partition: int, partitions: int) -> None:
        """`value`: the state before the turn."""
        self.before = BudgetState.unpack(value)
        self._used = dict(self.before.used)
        self._partition = partition
        self._partitions = partitions

    def part_of(self, actions: int) -> int:
        """Return this shard's part of the actions that all shards may send: the parts add up to them.

        >>> [BudgetBook(None, p, 4).part_of(10) for p in range(4)]
        [3, 3, 2, 2]
        """
        part, rest = divmod(actions, self._partitions)
        return part + (self._partition < rest)

    def used(self, campaign: str, day: str) -> int:
        """Return the campaign's actions on a day.

        In event time days may go back a little: what is sent on an earlier day counts towards the last one.
        """
        last = self._used.get(campaign)
        return last.actions if last and last.day >= day else 0

    def spend(self, campaign: str, day: str) -> None:
        """Count an action."""
        last = self._used.get(campaign)
        self._used[campaign] = DayCount(max(day, last.day) if last else day, self.used(campaign, day) + 1)

    def after(self, campaigns: Collection[str]) -> BudgetState | None:
        """Return the state after the turn; None: it is as before. `campaigns`: those that have a budget now.

        Of others only the last weeks are kept. In event time their days may lie far apart.
        """
        if self._used == self.before.used:
            return None
        newest = date.fromisoformat(max(count.day for count in self._used.values()))
        begin = (newest - _KEPT).isoformat()
        used = {
            campaign: count for campaign, count in self._used.items() if campaign in campaigns or count.day >= begin
        }
        return BudgetState(self.before.counter + 1, used)
