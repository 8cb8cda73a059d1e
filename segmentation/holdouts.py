"""Hold-outs: the customers who get nothing of a campaign, so that its effect can be measured. Stable and salted."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Literal
from zoneinfo import ZoneInfo

from segmentation.event_text import instant

Rotation = Literal["never", "month", "quarter", "year"]

GLOBAL: Final = "global"  # the scopes of hold-outs; a campaign and a tag may have one name
_WHOLE: Final = 2**64
_QUARTER_HOUR_MS: Final = 900_000


def tag_scope(tag: str) -> str:
    """Return the scope of a tag's hold-out."""
    return f"tag:{tag}"


def campaign_scope(campaign: str) -> str:
    """Return the scope of a campaign's own hold-out."""
    return f"campaign:{campaign}"


def is_held_out(customer: bytes, scope: str, share: Decimal, salt: str, period: str) -> bool:
    """Return whether a customer belongs to the `share` (0 to 1) that a scope holds out in a period.

    It depends on the arguments alone: on no table, no clock and no other customer. With a greater share, all who were
    held out stay so.

    >>> is_held_out(b"c-45", GLOBAL, Decimal("0.5"), "2026", ""), is_held_out(b"c-45", GLOBAL, Decimal(0), "2026", "")
    (True, False)
    """
    parts = (salt.encode(), scope.encode(), period.encode(), customer)
    digest = blake2b(b"".join(len(part).to_bytes(4, "big") + part for part in parts), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * _WHOLE


def period_of(at_ms: int, rotation: Rotation, zone: ZoneInfo) -> str:
    """Return the name of the period that an instant belongs to; "" where hold-outs never change.

    >>> period_of(1_772_547_600_000, "quarter", ZoneInfo("UTC"))
    '2026-Q1'
    """
    return _period(at_ms // _QUARTER_HOUR_MS * _QUARTER_HOUR_MS, rotation, zone)


@lru_cache(maxsize=1_024)
def _period(at_ms: int, rotation: Rotation, zone: ZoneInfo) -> str:
    """Return the period of the quarter of an hour that begins then: in no zone does a day begin within one."""
    day = instant(at_ms).astimezone(zone).date()
    names = {"never": "", "month": f"{day:%Y-%m}", "quarter": f"{day.year}-Q{_quarter(day) + 1}", "year": f"{day:%Y}"}
    return names[rotation]


def period_end(at_ms: int, rotation: Rotation, zone: ZoneInfo) -> datetime | None:
    """Return when the period of an instant ends; None: never.

    >>> period_end(1_772_547_600_000, "quarter", ZoneInfo("UTC")).isoformat()
    '2026-04-01T00:00:00+00:00'
    """
    day = instant(at_ms).astimezone(zone).date()
    if rotation == "never":
        return None
    months = {"month": 1, "quarter": 3, "year": 12}[rotation]
    begun = (day.month - 1) // months * months
    years, month = divmod(begun + months, 12)
    return datetime(day.year + years, month + 1, 1, tzinfo=zone)


def _quarter(day: date) -> int:
    return (day.month - 1) // 3
