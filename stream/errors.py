"""Every error that segstream raises on purpose. A message names the value, what was expected, and what to do."""

from __future__ import annotations

from typing import ClassVar


class SegstreamError(Exception):
    """Root of the tree. `hint` says what to do, in one line; empty where the message already does."""

    exit_code: ClassVar[int] = 1  # of the command that ends with it

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        """The message, and the hint behind it."""
        message = super().__str__()
        return f"{message} {self.hint}" if self.hint else message


class SettingsError(SegstreamError):
    """A setting can't be used. Ends the process."""


class ShardQuarantined(SegstreamError):
    """PROTOCOL says stop: this one shard takes no turns until somebody has looked. The other shards go on.

    `reason` is a short snake_case word for metrics, status and tests.
    """

    def __init__(self, reason: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class ShardLost(SegstreamError):
    """Another owner has this shard now, or Redis isn't what this owner wrote: throw the producer away, take over afresh.

    `cause` is a short snake_case word for the metric of takeovers.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class WorkerFailed(SegstreamError):
    """A fault of the whole broker, of Redis or of the settings: the process ends with exit code 1."""


class StepFailed(SegstreamError):
    """The step itself raised: a record or a model that it can't survive, or a fault of its own. Kafka and Redis are well."""
