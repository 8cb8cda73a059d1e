"""Conditions of campaign rules on the figures in the window that a customer was scored on."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, NamedTuple, Self

import msgspec
from msgspec import Meta

from segmentation.bounds import Bounds, ConditionPart, FigureBounds


class MovedRfm(msgspec.Struct, frozen=True, gc=False):
    """The fields of a move's `rfm`."""

    recency_days: float
    frequency: int
    monetary: Annotated[str, Meta(pattern=r"^-?[0-9]+(\.[0-9]{1,4})?$", max_length=32)]


class KnownRfm(NamedTuple):
    """The figures of a move, in the decimals that were published."""

    recency_days: Decimal
    frequency: Decimal
    monetary: Decimal

    @classmethod
    def of(cls, rfm: MovedRfm) -> Self:
        """Return the figures of a move.

        >>> KnownRfm.of(MovedRfm(0.1, 3, "12.50")).recency_days
        Decimal('0.1')
        """
        return cls(Decimal(str(rfm.recency_days)), Decimal(rfm.frequency), Decimal(rfm.monetary))


class RfmConditions(ConditionPart):
    """Bounds of the figures in the window, all of which must accept; None: any. A move without figures has none."""

    recency_days: FigureBounds | None = None
    frequency: FigureBounds | None = None
    monetary: Bounds | None = None  # negative where refunds outweigh orders

    def accept(self, rfm: KnownRfm | None) -> bool:
        """Return whether the figures meet all conditions; None, of a move without figures, never does."""
        return rfm is not None and all(
            bounds is None or bounds.accepts(value) for bounds, value in zip(self._all(), rfm, strict=True)
        )

    def covers(self, other: RfmConditions) -> bool:
        """Return whether these conditions accept all figures that `other` accepts."""
        pairs = zip(self._all(), other._all(), strict=True)
        return all(mine is None or (its is not None and mine.covers(its)) for mine, its in pairs)

    def _all(self) -> tuple[Bounds | None, ...]:
        return self.recency_days, self.frequency, self.monetary
