"""Conditions of campaign rules on a customer's whole life: bounds of its figures at a move."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Final, NamedTuple, Self

import msgspec
from msgspec import Meta
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from segmentation.entries import DAY_MS
from segmentation.events import Count, Timestamp, millis

_NUMBER: Final = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,4})?")


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


def _number(value: object) -> Decimal:
    """Read a bound, exactly."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return Decimal(value)
    raise ValueError("expected a number like 5 or 49.90, with at most four decimals")


class _LifePart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"expected at least one of {', '.join(type(self).model_fields)}")
        return self


Number = Annotated[Decimal, BeforeValidator(_number)]


class Bounds(_LifePart):
    """The least and the greatest value that a condition accepts; None: any."""

    at_least: Number | None = None
    at_most: Number | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least is {self.at_least}, expected it to be no more than at_most, {self.at_most}")
        return self

    def accepts(self, value: Decimal, partial: bool) -> bool:
        """Return whether a value lies within the bounds. A partial one may be greater: no `at_most` accepts it."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or (not partial and value <= self.at_most)
        )

    def covers(self, other: Bounds) -> bool:
        """Return whether these bounds accept every value that `other` accepts."""
        return (self.at_least is None or (other.at_least is not None and other.at_least >= self.at_least)) and (
            self.at_most is None or (other.at_most is not None and other.at_most <= self.at_most)
        )


class LifeConditions(_LifePart):
    """Bounds of the figures of a whole life, all of which must accept; None: any. A move without a life has none."""

    orders: Bounds | None = None
    purchase_days: Bounds | None = None
    monetary: Bounds | None = None
    days_since_first_order: Bounds | None = None

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
