"""Every error that the trainer raises on purpose. A message names the value, what was expected, and what to do."""

from __future__ import annotations

from typing import ClassVar


class TrainerError(Exception):
    """Root of the tree: nothing was published. `hint` says what to do, in one line; empty where the message already does."""

    exit_code: ClassVar[int] = 1  # of the command that ends with it

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        """Give the message, and the hint behind it."""
        message = super().__str__()
        return f"{message} {self.hint}" if self.hint else message


class SettingsError(TrainerError):
    """A setting can't be used."""


class PlanError(TrainerError):
    """What is asked of the training can't be done: an unknown transform, a k out of range."""


class SnapshotError(TrainerError):
    """The customers' states can't be read, or not as of the instant that was asked for."""


class FitError(TrainerError):
    """These customers don't make a model: too few, all alike in something, or fewer kinds of them than segments."""


class GatesFailed(TrainerError):
    """A model was made, but isn't good enough by the gates: nothing was published, and what was active stays."""


class PublishError(TrainerError):
    """The models topic can't be read or written. After a time-out the model may have been published all the same."""


class PublishConflict(PublishError):
    """Somebody else changed the active model first: nothing was published. Look, and decide again."""

    exit_code = 3


class TrainingBusy(TrainerError):
    """Another training of this deployment is under way; this one hasn't begun."""

    exit_code = 4


class LockUnreachable(TrainerError):
    """Redis doesn't answer, so nobody can tell whether another training is under way."""
