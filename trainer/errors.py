"""The trainer's own errors. A message names the value, what was expected, and what to do."""

from __future__ import annotations

from stream.errors import SegstreamError


class TrainerError(SegstreamError):
    """Root of the trainer's own errors: nothing was published."""


class PlanError(TrainerError):
    """The training was asked for something impossible: an unknown transform, a k out of range."""


class SnapshotError(TrainerError):
    """The customers' states can't be read, or not as of the requested instant."""


class FitError(TrainerError):
    """These customers make no model: too few, all alike in a feature, or fewer different ones than segments."""


class GatesFailed(TrainerError):
    """No fit passes the gates: nothing was published, and the active model stays active."""


class PublishError(TrainerError):
    """The models topic can't be read or written. After a timeout the model may still have been published."""


class PublishConflict(PublishError):
    """Another writer changed the active model first: nothing was published. Look at it and decide again."""

    exit_code = 3


class TrainingBusy(TrainerError):
    """Another training of this deployment is under way; this one hasn't begun."""

    exit_code = 4


class LockUnreachable(TrainerError):
    """Redis doesn't answer, so it is unknown whether another training is under way."""
