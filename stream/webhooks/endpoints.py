"""The endpoints that webhooks go to, as the endpoints file describes them. Pure: no secret and no network yet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from stream.webhooks.schedule import HOUR_MS, MINUTE_MS, SECOND_MS, STANDARD_MS

EVENT_TYPES: Final = ("campaign.action", "campaign.withheld", "campaign.scheduled", "campaign.converted")
_SHORTEST_TOKEN: Final = 6  # characters
_TOKEN_ENDS: Final = re.compile(r"[/&=;]")
_UNITS_MS: Final = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": 24 * HOUR_MS, "w": 168 * HOUR_MS}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,6})([smhdw])")


def _duration_ms(value: object) -> int:
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ValueError("expected a whole number and its unit: seconds 20s, minutes 30m, hours 3h, days 7d, weeks 2w")
    return int(found[1]) * _UNITS_MS[found[2]]


def _listed(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _within(least: str, most: str) -> BeforeValidator:
    """Return the reader of a duration between two others."""

    def read(value: object) -> int:
        ms = _duration_ms(value)
        if not _duration_ms(least) <= ms <= _duration_ms(most):
            raise ValueError(f"expected {least} to {most}")
        return ms

    return BeforeValidator(read)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]  # a part of the consumer group's name
Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_listed), Field(min_length=1)]
EventTypes = Annotated[tuple[Literal[EVENT_TYPES], ...], BeforeValidator(_listed), Field(min_length=1)]  # type: ignore[valid-type]  # mypy reads no tuple in Literal
Retry = Annotated[int, _within("1s", "7d")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SecretSource(_Part):
    """Where a signing secret is: in a variable of the environment, or in a file that only its owner may read."""

    env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    file: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("expected either `env: VARIABLE` or `file: PATH`")
        if (self.env or "").upper().startswith("SEGSTREAM_"):
            raise ValueError("variables that begin with SEGSTREAM_ are settings: give this one another name")
        return self

    def __str__(self) -> str:
        """Name the source."""
        return f"the variable {self.env}" if self.file is None else f"the file {self.file}"


class BreakerOptions(_Part):
    """After so many failures in a row nothing is sent for a while; the pause doubles after each failed probe."""

    failures: Annotated[int, Field(ge=1, le=1_000)] = 10
    pause: Annotated[int, _within("1s", "1h")] = 30 * SECOND_MS
    longest: Annotated[int, _within("1s", "1d")] = 10 * MINUTE_MS


class Endpoint(_Part):
    """One endpoint: where it is, what it gets, and how. Durations are in milliseconds."""

    name: Name
    url: str
    secrets: Annotated[tuple[SecretSource, ...], BeforeValidator(_listed), Field(min_length=1, max_length=4)]
    types: EventTypes = ("campaign.action",)
    campaigns: Texts | None = None
    channels: Texts | None = None
    tags: Texts | None = None
    concurrency: Annotated[int, Field(ge=1, le=100)] = 4
    rate: Annotated[float, Field(gt=0, le=10_000)] | None = None
    timeout: Annotated[int, _within("1s", "30s")] = 20 * SECOND_MS
    retries: Annotated[tuple[Retry, ...], BeforeValidator(_listed), Field(max_length=20)] = STANDARD_MS
    max_age: Annotated[int, _within("1m", "30d")] = 168 * HOUR_MS
    breaker: BreakerOptions = BreakerOptions()
    start: Literal["end", "beginning"] = "end"
    ca_file: Annotated[Path, BeforeValidator(lambda value: Path(value) if isinstance(value, str) else value)] | None = (
        None
    )
    allow_http: bool = False
    allow_private: bool = False

    @field_validator("rate", mode="before")
    @classmethod
    def _any_number(cls, value: Any) -> Any:
        return float(value) if type(value) is int else value

    @model_validator(mode="after")
    def _has_a_url(self) -> Self:
        if wrong := wrong_url(self.url, allow_http=self.allow_http):
            raise ValueError(f"url: {wrong}")
        return self

    @property
    def host(self) -> str:
        """The URL's host: all of the URL that may be shown, because path and query often hold a token."""
        return urlsplit(self.url).hostname or ""

    @property
    def hidden(self) -> tuple[str, ...]:
        """The parts of path and query that may be a token, the longest first: nothing may repeat them.

        >>> source = SecretSource(env="S")
        >>> Endpoint(name="crm", url="https://crm.example/in/T0k%2Ben8?key=abcdef", secrets=(source,)).hidden
        ('T0k%2Ben8', 'T0k+en8', 'abcdef')
        """
        url = urlsplit(self.url)
        parts = {*_TOKEN_ENDS.split(url.path), *_TOKEN_ENDS.split(url.query)}
        parts |= {unquote(part) for part in parts}
        return tuple(sorted((part for part in parts if len(part) >= _SHORTEST_TOKEN), key=lambda p: (-len(p), p)))


class EndpointTable(_Part):
    """All endpoints. Names are unique, because each is the name of a consumer group."""

    endpoints: Annotated[tuple[Endpoint, ...], BeforeValidator(_listed), Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [endpoint.name for endpoint in self.endpoints]
        for index, name in enumerate(names):
            if (first := names.index(name)) < index:
                raise ValueError(f"endpoints {first + 1} and {index + 1} share the name {name!r}: give each its own")
        return self


def wrong_url(url: str, *, allow_http: bool) -> str | None:
    """Return why a URL can't be an endpoint's; None: it can. Never quotes the URL, which may hold a token."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return "expected printable ASCII without spaces: percent-encode other characters, write a host in punycode"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"https", "http"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port, or of brackets around no address
        usable = False
    if not usable:
        return "expected https://host/path, with a port from 1 to 65535 if any"
    wrong = {
        "expected https://: everybody on the way can read http://; `allow_http: true` sends it nevertheless": (
            parts.scheme == "http" and not allow_http
        ),
        "user and password aren't sent, the signature says who sends: take them out": "@" in parts.netloc,
        "the part behind # is never sent: take it out": bool(parts.fragment),
    }
    return next((why for why, applies in wrong.items() if applies), None)
