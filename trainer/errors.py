"""Every error that the trainer raises on purpose. A message names the value, what was expected, and what to do."""

from __future__ import annotations

from stream.errors import SegstreamError


class TrainerError(SegstreamError):
    """Root of the trainer's own errors: nothing was published."""


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
