"""The values that fields of campaign rules take: how each is read from YAML's text, and what editors are told of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Final, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from segmentation.campaign_state import MOST_ACTS
from segmentation.durations import DURATION_PATTERN, duration_ms
from segmentation.output_events import Cause
from segmentation.quiet_hours import NO_ZONES

# A move to no segment is an erasure, or a merge into another id: nobody is left there to write to.
TRIGGERS: Final = tuple(cause.value for cause in Cause if cause not in (Cause.ERASURE, Cause.MERGED))
_TIME: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_SHARE: Final = re.compile(r"0(\.[0-9]{1,4})?")
_MOST_HELD_OUT: Final = Decimal("0.5")
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def listed(value: object) -> object:
    """Return a list as a tuple, other values as they are."""
    return tuple(value) if isinstance(value, list) else value


def _choice(value: object) -> object:
    """Return a YAML choice: "*" (any) as None, a list as a tuple."""
    if value == "*":
        return None
    if isinstance(value, list) and value and "*" not in value:
        return tuple(value)
    raise ValueError('expected "*" alone (any), or a list in brackets of at least one')


def _origin(value: object) -> object:
    return _choice([None] if value is None else value)


def _segment(value: str) -> str:
    """Return the name of a segment, or the beginning of names before a *."""
    if "*" in value[:-1]:
        raise ValueError("expected * at the end alone, after the beginning of a name: At *")
    return value


def _trigger(value: object) -> Cause:
    if isinstance(value, str) and value in TRIGGERS:
        return Cause(value)
    raise ValueError(f"expected one of {', '.join(TRIGGERS)}")


def _span(least: str, most: str) -> Callable[[object], int]:
    def read(value: object) -> int:
        ms = duration_ms(value)
        if not duration_ms(least) <= ms <= duration_ms(most):
            raise ValueError(f"expected {least} to {most}")
        return ms

    return read


def _whole(least: int, most: int) -> Callable[[object], int]:
    pattern = re.compile(r"-?[0-9]{1,9}")

    def read(value: object) -> int:
        if isinstance(value, str) and pattern.fullmatch(value) and least <= int(value) <= most:
            return int(value)
        raise ValueError(f"expected a whole number from {least} to {most}")

    return read


def _share(value: object) -> Decimal:
    """Read a share of customers; one above a half would leave most of them out."""
    if isinstance(value, str) and _SHARE.fullmatch(value) and 0 < Decimal(value) <= _MOST_HELD_OUT:
        return Decimal(value)
    raise ValueError("expected a share from 0.0001 to 0.5 with at most four decimals (write 0.1 for 10 %)")


def _switch(value: object) -> bool:
    if value in ("true", "false"):
        return value == "true"
    raise ValueError("expected true or false")


def _minute(value: object) -> int:
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ValueError('expected a time of day from "00:00" to "23:59"')
    return int(found[1]) * 60 + int(found[2])


def _day(value: object) -> date:
    if isinstance(value, str) and _DAY.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"expected a day of the calendar like 2026-12-24: {error}") from None
    raise ValueError("expected a day like 2026-12-24")


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) - NO_ZONES


def _zone(value: object) -> str:
    if isinstance(value, str) and value in _zones():
        return value
    near = get_close_matches(value.replace(" ", "_"), _zones(), 1) if isinstance(value, str) else []
    guess = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"{guess}expected the IANA name of a time zone, like Europe/Berlin or UTC")


def _version(value: object) -> int:
    if value == "2":
        return 2
    raise ValueError("expected 2: this program reads version 2, and version 1 in tables without `version`")


def _schema(kind: str, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": kind, **more})


def _choice_schema(item: dict[str, Any], *others: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"const": "*"}, *others, {"type": "array", "items": item, "minItems": 1}]})


def _span_schema(least: str, most: str) -> WithJsonSchema:
    return _schema("string", pattern=DURATION_PATTERN, examples=[least, most])


Name = Annotated[str, Field(min_length=1, max_length=64)]
Text = Annotated[str, Field(min_length=1, max_length=256)]
Tags = Annotated[tuple[Name, ...], Field(max_length=16), BeforeValidator(listed)]
Segment = Annotated[Name, AfterValidator(_segment)]
Targets = Annotated[
    tuple[Segment, ...] | None, BeforeValidator(_choice), _choice_schema({"type": "string", "maxLength": 64})
]
Sources = Annotated[
    tuple[Segment | None, ...] | None,
    BeforeValidator(_origin),
    _choice_schema({"type": ["string", "null"], "maxLength": 64}, {"type": "null"}),
]
Trigger = Annotated[Cause, BeforeValidator(_trigger)]
Causes = Annotated[tuple[Trigger, ...] | None, BeforeValidator(_choice), _choice_schema({"enum": list(TRIGGERS)})]
Variables = Annotated[
    tuple[Literal["rfm", "before", "next", "keep", "segment"], ...], Field(max_length=5), BeforeValidator(listed)
]
Cooldown = Annotated[int, BeforeValidator(_span("1m", "9999d")), _span_schema("30d", "365d")]
Delay = Annotated[int, BeforeValidator(_span("1m", "90d")), _span_schema("3h", "2d")]
MoveAge = Annotated[int, BeforeValidator(_span("1m", "90d")), _span_schema("24h", "3d")]
GoalSpan = Annotated[int, BeforeValidator(_span("1h", "90d")), _span_schema("14d", "30d")]
Window = Annotated[int, BeforeValidator(_span("1h", "31d")), _span_schema("24h", "7d")]
Priority = Annotated[int, BeforeValidator(_whole(-1000, 1000)), _schema("integer", minimum=-1000, maximum=1000)]
CapCount = Annotated[int, BeforeValidator(_whole(1, MOST_ACTS)), _schema("integer", minimum=1, maximum=MOST_ACTS)]
BudgetCount = Annotated[
    int, BeforeValidator(_whole(1, 100_000_000)), _schema("integer", minimum=1, maximum=100_000_000)
]
Share = Annotated[Decimal, BeforeValidator(_share), _schema("number", exclusiveMinimum=0, maximum=0.5)]
Switch = Annotated[bool, BeforeValidator(_switch), _schema("boolean")]
MinuteOfDay = Annotated[int, BeforeValidator(_minute), _schema("string", pattern=f"^({_TIME.pattern})$")]
Day = Annotated[date, BeforeValidator(_day), _schema("string", format="date")]
ZoneName = Annotated[str, BeforeValidator(_zone), _schema("string", examples=["Europe/Berlin", "UTC"])]
Version = Annotated[int, BeforeValidator(_version), _schema("integer", const=2)]
