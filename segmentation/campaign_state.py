"""A customer's state in the campaign step. It only grows, field by field, so replays in any order end in one state."""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct as Layout
from typing import Final, NamedTuple, Self

from segmentation.step import StateUnreadable

_ACTED: Final = 1  # flag: the time of the last action holds
_ERASED: Final = 2
# 16 bytes, little-endian: version u8, flags u8, number of campaigns u16, sequence u32, time of the last action i64 (ms;
# 0 without the flag). Version 2 goes on with the campaigns; without any of them version 1 is written, as ever.
_STATE: Final = Layout("<BBHIq")
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
    """A customer's state: the last move handled, the time of the last action (ms), whether that move led nowhere.

    `erased`: it was the erasure, or the merge into another id. `campaigns`: for each campaign with a cooldown that has
    acted, its key and the time of its last action (ms), by key.
    """

    sequence: int = 0
    acted_at: int | None = None
    erased: bool = False
    campaigns: tuple[tuple[bytes, int], ...] = ()

    def pack(self) -> bytes:
        """Write it as 16 bytes, and 16 more for each campaign with a cooldown.

        >>> CampaignState(3, 1_000).pack().hex()
        '0101000003000000e803000000000000'
        """
        flags = (0 if self.acted_at is None else _ACTED) | (_ERASED if self.erased else 0)
        version = _WITH_CAMPAIGNS if self.campaigns else _PLAIN
        head = _STATE.pack(version, flags, len(self.campaigns), self.sequence, self.acted_at or 0)
        return head + b"".join(_CAMPAIGN.pack(*campaign) for campaign in self.campaigns)

    @classmethod
    def unpack(cls, value: bytes | None) -> Self:
        """Read it; None is a customer without a state. Raises CampaignFormatError."""
        if value is None:
            return cls()
        if len(value) >= _STATE.size and value[1] <= _ACTED | _ERASED:
            version, flags, count, sequence, acted_at = _STATE.unpack_from(value)
            whole = len(value) == _STATE.size + count * _CAMPAIGN.size
            if whole and version == (_WITH_CAMPAIGNS if count else _PLAIN):
                campaigns = tuple(_CAMPAIGN.iter_unpack(value[_STATE.size :]))
                return cls(sequence, acted_at if flags & _ACTED else None, bool(flags & _ERASED), campaigns)
        raise CampaignFormatError(
            f"{value[: _STATE.size].hex()} ({len(value)} bytes) isn't a campaign state of version {_PLAIN} or "
            f"{_WITH_CAMPAIGNS}: start the version of segstream that wrote it, or rebuild"
        )

    def join(self, other: CampaignState) -> CampaignState:
        """Take the later of both, field by field: associative, commutative, idempotent.

        `erased` is that of the later move.

        >>> CampaignState(3, 1_000).join(CampaignState(5))
        CampaignState(sequence=5, acted_at=1000, erased=False, campaigns=())
        """
        times = [at for at in (self.acted_at, other.acted_at) if at is not None]
        sequence, erased = max((self.sequence, self.erased), (other.sequence, other.erased))
        campaigns = self.campaigns
        if other.campaigns != campaigns:
            latest = dict(sorted((*campaigns, *other.campaigns)))  # of one campaign the later time comes last
            campaigns = tuple(latest.items())
        return CampaignState(sequence, max(times, default=None), erased, campaigns)
