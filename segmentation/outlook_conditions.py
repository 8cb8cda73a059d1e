"""Conditions of campaign rules on a customer's outlook: bounds of the figures that a move carries."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, NamedTuple, Self

import msgspec
from msgspec import Meta
from pydantic import model_validator

from segmentation.bounds import Bounds, ChanceBounds, ConditionPart, FigureBounds

_Figure = Annotated[float, Meta(ge=0.0)]


class MovedOutlook(msgspec.Struct, frozen=True, gc=False):
    """The fields of a move's `outlook` that conditions need; None: this one isn't known."""

    chance_90d: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    orders_90d: _Figure | None = None
    spend_90d: Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]{1,4})?$", max_length=32)] | None = None
    usual_gap_days: _Figure | None = None
    silence_in_gaps: _Figure | None = None


class KnownOutlook(NamedTuple):
    """An outlook as of a move, in the decimals that were published; None: this figure isn't known."""

    chance_90d: Decimal | None
    orders_90d: Decimal | None
    spend_90d: Decimal | None
    usual_gap_days: Decimal | None
    silence_in_gaps: Decimal | None

    @classmethod
    def of(cls, outlook: MovedOutlook) -> Self:
        """Return the outlook of a move.

        >>> KnownOutlook.of(MovedOutlook(0.1, spend_90d="12.50")).chance_90d
        Decimal('0.1')
        """
        return cls(*(None if value is None else Decimal(str(value)) for value in msgspec.structs.astuple(outlook)))


_UNKNOWN: KnownOutlook = KnownOutlook(None, None, None, None, None)


class OutlookConditions(ConditionPart):
    """Bounds of the figures of an outlook, all of which must accept; None: any.

    `if_unknown` says whether a figure that isn't known meets its bounds: that of a move without an outlook too.
    """

    chance_90d: ChanceBounds | None = None
    orders_90d: FigureBounds | None = None
    spend_90d: FigureBounds | None = None
    usual_gap_days: FigureBounds | None = None
    silence_in_gaps: FigureBounds | None = None
    if_unknown: Literal["act", "skip"] = "skip"

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not any(self._all()):
            raise ValueError(f"expected at least one of {', '.join(KnownOutlook._fields)} beside if_unknown")
        return self

    def accept(self, outlook: KnownOutlook | None) -> bool:
        """Return whether an outlook meets all conditions. None: the move has none."""
        return all(
            bounds is None or (self.if_unknown == "act" if value is None else bounds.accepts(value))
            for bounds, value in zip(self._all(), outlook or _UNKNOWN, strict=True)
        )

    def covers(self, other: OutlookConditions) -> bool:
        """Return whether these conditions accept every outlook that `other` accepts."""
        pairs = zip(self._all(), other._all(), strict=True)
        return (self.if_unknown == "act" or other.if_unknown == "skip") and all(
            mine is None or (its is not None and mine.covers(its)) for mine, its in pairs
        )

    def _all(self) -> tuple[Bounds | None, ...]:
        return self.chance_90d, self.orders_90d, self.spend_90d, self.usual_gap_days, self.silence_in_gaps
