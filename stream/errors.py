"""The root of segstream's errors, and those that several rooms raise. Others stand where they are raised.

A message names the value, what was expected, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator


class SegstreamError(Exception):
    """Root of all errors raised on purpose. `hint`: what to do, in one line; empty where the message says it."""

    exit_code: ClassVar[int] = 1  # of the command that ends with it

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        """Return the message, followed by the hint."""
        message = super().__str__()
        return f"{message} {self.hint}" if self.hint else message


class SettingsError(SegstreamError):
    """A setting can't be used: the process ends."""


class ShardQuarantined(SegstreamError):
    """A shard can't go on without help: it takes no turns until an operator has acted. The other shards go on.

    docs/explanation/exactly-once.md, section 8 lists the cases. `reason`: a short snake_case word for metrics and
    status.
    """

    def __init__(self, reason: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class ShardLost(SegstreamError):
    """A shard has another owner now, or Redis isn't what this owner wrote: the shard has to be taken over again.

    `cause`: a short snake_case word for the metric of takeovers.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class WorkerFailed(SegstreamError):
    """Kafka, Redis or the settings don't allow any shard to go on: the process ends with exit code 1."""


class StepFailed(SegstreamError):
    """The step itself raised, because of a record, a model or a bug in it. Kafka and Redis are well."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, then what caused it, and so on."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def error_text(error: Exception) -> str:
    """Return an error's text without the arguments of a command that Redis quotes: a password, or a customer's id.

    >>> error_text(ValueError("unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'hunter2'"))
    "unknown command 'HELLO'"
    """
    return str(error).partition(", with args beginning with")[0] or type(error).__name__
