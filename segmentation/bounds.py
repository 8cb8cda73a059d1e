"""Bounds in the conditions of campaign rules: exact numbers, at least and at most."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema, model_validator

_NUMBER: Final = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,4})?")


def _number(value: object) -> Decimal:
    """Read a bound, exactly."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return Decimal(value)
    raise ValueError("expected a number like 5 or 49.90, with at most four decimals")


def _figure(value: object) -> Decimal:
    """Read a bound of a figure that is never negative."""
    number = _number(value)
    if number < 0:
        raise ValueError("expected 0 or more: the figure is never negative")
    return number


def _chance(value: object) -> Decimal:
    """Read a bound of a chance; one above 1 may be a percentage, which would accept everybody or nobody."""
    number = _number(value)
    if 1 < number <= 100:
        part = round(number / 100, 4).normalize()
        raise ValueError(f"expected 0 to 1 (write {part:f} for {number:f} %)")
    if not 0 <= number <= 1:
        raise ValueError("expected 0 to 1 (write 0.2 for 20 %)")
    return number


class ConditionPart(BaseModel):
    """A part of a rule's conditions: at least one of its fields must be there."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, json_schema_extra={"minProperties": 1})

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"expected at least one of {', '.join(type(self).model_fields)}")
        return self


Number = Annotated[Decimal, BeforeValidator(_number), WithJsonSchema({"type": "number"})]
_Figure = Annotated[Decimal, BeforeValidator(_figure), WithJsonSchema({"type": "number", "minimum": 0})]
_Chance = Annotated[Decimal, BeforeValidator(_chance), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})]


class Bounds(ConditionPart):
    """The least and the greatest value that a condition accepts; None: any."""

    at_least: Number | None = None
    at_most: Number | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least is {self.at_least}, expected it to be no more than at_most, {self.at_most}")
        return self

    def accepts(self, value: Decimal, partial: bool = False) -> bool:
        """Return whether a value lies within the bounds. A partial one may be greater: no `at_most` accepts it."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or (not partial and value <= self.at_most)
        )

    def covers(self, other: Bounds) -> bool:
        """Return whether these bounds accept every value that `other` accepts."""
        return (self.at_least is None or (other.at_least is not None and other.at_least >= self.at_least)) and (
            self.at_most is None or (other.at_most is not None and other.at_most <= self.at_most)
        )


class FigureBounds(Bounds):
    """Bounds of a figure that is never negative."""

    at_least: _Figure | None = None
    at_most: _Figure | None = None


class ChanceBounds(Bounds):
    """Bounds of a chance, from 0 to 1."""

    at_least: _Chance | None = None
    at_most: _Chance | None = None
