"""Read whether a Redis is a replica, and since when it has had no link to its primary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis import Redis


@dataclass(frozen=True, slots=True)
class Link:
    """A replica's link to its primary. `lost_s`: seconds since it broke; None while it is up, or if unknown."""

    up: bool
    lost_s: int | None = None

    @property
    def description(self) -> str:
        """The state of a broken link, in words.

        >>> Link(up=False, lost_s=90).description, Link(up=False).description
        ('lost its primary 90 s ago', 'has no link to its primary, since an unknown time')
        """
        if self.lost_s is None:
            return "has no link to its primary, since an unknown time"
        return f"lost its primary {self.lost_s} s ago"


def read_link(redis: Redis) -> Link | None:
    """Read the link from INFO. Return None for a primary, or where this user may not call INFO. Raises RedisError."""
    try:
        return parse(redis.info("replication"))
    except ResponseError:
        return None


def parse(info: Mapping[str, Any]) -> Link | None:
    """Parse the section `replication` of INFO. Return None where it isn't that of a replica.

    >>> parse({"role": "slave", "master_link_status": "down", "master_link_down_since_seconds": 90})
    Link(up=False, lost_s=90)
    >>> parse({"role": "slave", "master_link_status": "down", "master_link_down_since_seconds": -1})
    Link(up=False, lost_s=None)
    >>> parse({"role": "master"}) is None
    True
    """
    if info.get("role") not in ("slave", "replica"):
        return None
    if info.get("master_link_status") == "up":
        return Link(up=True)
    # -1 where it has had no link since it started.
    lost_s = info.get("master_link_down_since_seconds", -1)
    return Link(up=False, lost_s=lost_s if isinstance(lost_s, int) and lost_s >= 0 else None)
