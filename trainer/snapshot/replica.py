"""How far behind its primary a Redis is that customers are read from, by what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis import Redis


@dataclass(frozen=True, slots=True)
class Link:
    """A replica's way to its primary. `lost_s`: seconds since it broke; None where it holds, or nobody knows since when."""

    up: bool
    lost_s: int | None = None

    @property
    def told(self) -> str:
        """Say it in words.

        >>> Link(up=False, lost_s=90).told, Link(up=False).told
        ('lost its primary 90 s ago', 'has no link to its primary, it is not known since when')
        """
        if self.lost_s is None:
            return "has no link to its primary, it is not known since when"
        return f"lost its primary {self.lost_s} s ago"


def read_link(redis: Redis) -> Link | None:
    """Ask by INFO. None: it is no replica, or its INFO isn't for this user (some hosted ones). Raises RedisError."""
    try:
        return parse(redis.info("replication"))
    except ResponseError:
        return None


def parse(info: Mapping[str, Any]) -> Link | None:
    """Read the section `replication`; None where it isn't that of a replica.

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
    # Below zero where it has had no link since it started.
    lost_s = info.get("master_link_down_since_seconds", -1)
    return Link(up=False, lost_s=lost_s if isinstance(lost_s, int) and lost_s >= 0 else None)
