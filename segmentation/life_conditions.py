"""Conditions of campaign rules on a customer's whole life: bounds of its figures at a move."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, NamedTuple, Self

import msgspec
from msgspec import Meta

from segmentation.bounds import Bounds, ConditionPart, FigureBounds
from segmentation.entries import DAY_MS
from segmentation.events import Count, Timestamp, millis


class MovedLife(msgspec.Struct, frozen=True, gc=False):
    """The fields of a move's `life` that conditions need. Others aren't read, so that it can grow."""

    orders: Count
    purchase_days: Count
    monetary: Annotated[str, Meta(pattern=r"^-?[0-9]+\.[0-9]{2,4}$", max_length=32)]
    first_order_at: Timestamp
    partial: bool = False


class KnownLife(NamedTuple):
    """A whole life as of a move. `partial`: orders were forgotten before they were counted, so there may be more."""

    orders: int
    purchase_days: int
    monetary: Decimal
    ms_since_first_order: int
    partial: bool

    @classmethod
    def of(cls, life: MovedLife, at_ms: int) -> Self:
        """Return the life of a move at its instant. Raises RejectedEvent for a date that can't be."""
        since = at_ms - millis(life.first_order_at, "life.first_order_at")
        return cls(life.orders, life.purchase_days, Decimal(life.monetary), since, life.partial)


class LifeConditions(ConditionPart):
    """Bounds of the figures of a whole life, all of which must accept; None: any. A move without a life has none."""

    orders: FigureBounds | None = None
    purchase_days: FigureBounds | None = None
    monetary: Bounds | None = None  # negative where refunds outweigh orders
    days_since_first_order: FigureBounds | None = None

    def accept(self, life: KnownLife | None) -> bool:
        """Return whether a life meets all conditions; None, of a move without a life, never does."""
        if life is None:
            return False
        values = (
            Decimal(life.orders),
            Decimal(life.purchase_days),
            life.monetary,
            Decimal(life.ms_since_first_order) / DAY_MS,
        )
        return all(
            bounds is None or bounds.accepts(value, life.partial)
            for bounds, value in zip(self._all(), values, strict=True)
        )

    def covers(self, other: LifeConditions) -> bool:
        """Return whether these conditions accept every life that `other` accepts."""
        pairs = zip(self._all(), other._all(), strict=True)
        return all(mine is None or (its is not None and mine.covers(its)) for mine, its in pairs)

    def _all(self) -> tuple[Bounds | None, ...]:
        return self.orders, self.purchase_days, self.monetary, self.days_since_first_order
