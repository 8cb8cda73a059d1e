"""A customer's state in the campaign step. It only grows, field by field, so replays in any order end in one state."""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct as Layout
from typing import Final, NamedTuple, Self

from segmentation.step import StateUnreadable

_ACTED: Final = 1  # flag: the time of the last action holds
_ERASED: Final = 2
# 16 bytes, little-endian: version u8, flags u8, number of campaigns u16, sequence u32, time of the last action i64 (ms;
# 0 without the flag). In version 2 `since` u32 follows, and then the campaigns; without both, version 1 is written.
_STATE: Final = Layout("<BBHIq")
_SINCE: Final = Layout("<I")
# The first bytes of a hash of the campaign's name, and the time of its last action (ms).
_CAMPAIGN: Final = Layout("<8sq")
_PLAIN: Final = 1
_WITH_CAMPAIGNS: Final = 2


class CampaignFormatError(StateUnreadable):
    """These bytes aren't a campaign state of a known version: written by another program, or torn."""


def campaign_key(name: str) -> bytes:
    """Return the 8 bytes by which states know a campaign."""
    return blake2b(name.encode(), digest_size=8).digest()


class CampaignState(NamedTuple):
    """A customer's state: the last move handled, the time of the last action (ms), and what cools down.

    `since` is the number of the last move that led nowhere, 0 without one: an erasure, or the merge into another id.
    `campaigns`: for each campaign with a cooldown that has acted after that move, its key and the time of its last
    action (ms), by key.
    """

    sequence: int = 0
    acted_at: int | None = None
    since: int = 0
    campaigns: tuple[tuple[bytes, int], ...] = ()

    @property
    def erased(self) -> bool:
        """Whether the last move handled led nowhere."""
        return 0 < self.since == self.sequence

    def pack(self) -> bytes:
        """Write it as 16 bytes; campaigns, or an erasure before the last move, take more.

        >>> CampaignState(3, 1_000).pack().hex()
        '0101000003000000e803000000000000'
        """
        flags = (0 if self.acted_at is None else _ACTED) | (_ERASED if self.erased else 0)
        if self.erased or not (self.since or self.campaigns):
            return _STATE.pack(_PLAIN, flags, 0, self.sequence, self.acted_at or 0)
        head = _STATE.pack(_WITH_CAMPAIGNS, flags, len(self.campaigns), self.sequence, self.acted_at or 0)
        return head + _SINCE.pack(self.since) + b"".join(_CAMPAIGN.pack(*campaign) for campaign in self.campaigns)

    @classmethod
    def unpack(cls, value: bytes | None) -> Self:
        """Read it; None is a customer without a state. Raises CampaignFormatError."""
        if value is None:
            return cls()
        if len(value) >= _STATE.size and value[1] <= _ACTED | _ERASED:
            version, flags, count, sequence, at = _STATE.unpack_from(value)
            acted_at, rest = at if flags & _ACTED else None, value[_STATE.size :]
            if version == _PLAIN and not rest:
                return cls(sequence, acted_at, sequence if flags & _ERASED else 0)
            if version == _WITH_CAMPAIGNS and len(rest) == _SINCE.size + count * _CAMPAIGN.size:
                [since] = _SINCE.unpack_from(rest)
                return cls(sequence, acted_at, since, tuple(_CAMPAIGN.iter_unpack(rest[_SINCE.size :])))
        raise CampaignFormatError(
            f"{value[: _STATE.size].hex()} ({len(value)} bytes) isn't a campaign state of version {_PLAIN} or "
            f"{_WITH_CAMPAIGNS}: start the version of segstream that wrote it, or rebuild"
        )

    def join(self, other: CampaignState) -> CampaignState:
        """Take the later of both, field by field: associative, commutative, idempotent.

        Campaigns from before an erasure that the other one knows of are forgotten.

        >>> CampaignState(3, 1_000).join(CampaignState(5))
        CampaignState(sequence=5, acted_at=1000, since=0, campaigns=())
        """
        times = [at for at in (self.acted_at, other.acted_at) if at is not None]
        since = max(self.since, other.since)
        campaigns = [campaign for one in (self, other) if one.since == since for campaign in one.campaigns]
        latest = dict(sorted(campaigns))  # of one campaign the later time comes last
        return CampaignState(max(self.sequence, other.sequence), max(times, default=None), since, tuple(latest.items()))
