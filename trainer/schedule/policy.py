"""When to train: a cron expression in a time zone, and what is due of it now. Pure: the clock is passed in.

Expressions are read by cronsim, as Debian's cron reads them. That settles the two days a year: a run whose hour is skipped
in spring comes at once after the gap, and one whose hour comes twice in autumn runs the first time only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from stream.errors import SettingsError

RunOutcome = Literal["none", "running", "succeeded", "failed", "skipped", "stopped"]
Reason = Literal["scheduled", "missed", "retry", "resumed", "asked"]

# More than the largest change of a zone's offset: going back from here passes no instant over.
_AHEAD_S: Final = 4 * 3600
_FIELDS: Final = 5
# As late as this a run is still on time: the look at the clock comes every half minute.
ON_TIME_MS: Final = 120_000


class Schedule:
    """The instants of a cron expression. All are ms since 1970.

    >>> daily = Schedule("0 3 * * *", "Europe/Berlin")
    >>> datetime.fromtimestamp(daily.after(1_700_000_000_000) / 1000, UTC).isoformat()
    '2023-11-15T02:00:00+00:00'
    """

    def __init__(self, expression: str, zone: str) -> None:
        """Raise SettingsError where one of them can't be read, or no instant ever comes."""
        self.expression = expression
        try:
            self._zone = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise SettingsError(
                f"no time zone {zone!r} on this machine.", hint="Give a name like Europe/Berlin, or UTC."
            ) from None
        # cronsim takes seconds too; a training by the second is a slip of the pen.
        if len(expression.split()) != _FIELDS:
            raise _unusable(expression, "expected minute, hour, day of month, month, day of week")
        try:
            next(self._from(0.0))
        except CronSimError as error:
            raise _unusable(expression, str(error)) from None
        except StopIteration:
            raise _unusable(expression, "no day is like that") from None

    def after(self, ms: int) -> int:
        """Give the first instant after this one."""
        # In the hour that comes twice the search begins with the first of the two, and may find what has passed.
        return next(at for at in map(_ms, self._from(ms // 1000)) if at > ms)

    def latest(self, ms: int) -> int:
        """Give the last instant at or before this one."""
        return next(at for at in map(_ms, self._from(ms // 1000 + _AHEAD_S, reverse=True)) if at <= ms)

    def _from(self, seconds: float, *, reverse: bool = False) -> CronSim:
        return CronSim(self.expression, datetime.fromtimestamp(seconds, self._zone), reverse=reverse)


def _unusable(expression: str, why: str) -> SettingsError:
    return SettingsError(
        f"cron expression {expression!r} can't be used: {why}.", hint='Every night at three: "0 3 * * *".'
    )


def _ms(at: datetime) -> int:
    return int(at.astimezone(UTC).timestamp()) * 1000


@dataclass(frozen=True, slots=True)
class Policy:
    """How the instants are kept. `jitter_s`: a run begins up to so much later, by group and instant, never at random."""

    group: str = "segstream"
    jitter_s: int = 0
    retries: int = 3
    retry_s: int = 600

    def start(self, schedule: Schedule, instant_ms: int) -> int:
        """Give when the run of an instant begins: before the next instant, and the same for all schedulers of a group.

        So deployments that share servers don't all train in the same second.
        """
        room = min(self.jitter_s * 1000, schedule.after(instant_ms) - instant_ms - 1)
        digest = blake2b(f"{self.group} {instant_ms}".encode(), digest_size=8).digest()
        return instant_ms + int.from_bytes(digest) % (room + 1)


class LastRun(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the runs so far. It outlives the scheduler.

    `instant_ms`: of the schedule, the last one that is dealt with (before the first run: when the schedule was first
    started, so that what was missed is only missed since). `attempt`: runs begun for it. `asked`: somebody has asked for
    a run since, and it was begun.
    """

    instant_ms: int
    outcome: RunOutcome = "none"
    attempt: int = 0
    started_ms: int | None = None
    finished_ms: int | None = None
    exit_code: int | None = None
    why: str = ""
    error: str = ""
    asked: bool = False
    last_success_ms: int | None = None
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class DueRun:
    """A run that should begin now. `instant_ms`: of the schedule, the one it deals with. `text`: why, for people."""

    reason: Reason
    instant_ms: int
    text: str


def due(schedule: Schedule, policy: Policy, last: LastRun, now_ms: int) -> DueRun | None:
    """Say what is due by the clock alone. However many instants were missed, one run catches up on all of them."""
    instant = schedule.latest(now_ms)
    if instant > last.instant_ms and now_ms >= (start := policy.start(schedule, instant)):
        told = datetime.fromtimestamp(instant / 1000, UTC).isoformat()
        reason: Reason = "scheduled" if now_ms - start <= ON_TIME_MS else "missed"
        return DueRun(reason, instant, f"{reason}: {told}")
    if last.outcome == "stopped":
        return DueRun("resumed", last.instant_ms, "the run before was stopped")
    # One that is still "running" died with its scheduler: this is asked by whoever holds the lock.
    if last.outcome in {"failed", "running"} and last.attempt <= policy.retries and rested(policy, last, now_ms):
        return DueRun("retry", last.instant_ms, f"attempt {last.attempt + 1} of {policy.retries + 1}")
    return None


def rested(policy: Policy, last: LastRun, now_ms: int) -> bool:
    """Say whether the last run, if it failed, is long enough ago for another one."""
    ended = last.finished_ms if last.finished_ms is not None else last.started_ms
    if last.outcome not in {"failed", "running"} or ended is None:
        return True
    return now_ms >= ended + policy.retry_s * 1000


def begun(last: LastRun, run: DueRun, now_ms: int) -> LastRun:
    """Give what is known once a run begins: whoever dies from here on has had this attempt."""
    return msgspec.structs.replace(
        last,
        instant_ms=max(last.instant_ms, run.instant_ms),
        outcome="running",
        attempt=1 if run.reason in {"scheduled", "missed"} else last.attempt + 1,
        asked=run.reason == "asked" or (last.asked and run.reason not in {"scheduled", "missed"}),
        started_ms=now_ms,
        finished_ms=None,
        exit_code=None,
        why=run.text,
        error="",
    )


def ended(last: LastRun, outcome: RunOutcome, now_ms: int, *, exit_code: int | None, error: str = "") -> LastRun:
    """Give what is known once a run ended. A run that was stopped has had no attempt, and one that succeeded ends them."""
    attempt = {"failed": last.attempt, "stopped": last.attempt - 1}.get(outcome, 0)
    started = last.started_ms if last.started_ms is not None else now_ms
    done = msgspec.structs.replace(
        last,
        outcome=outcome,
        attempt=attempt,
        finished_ms=now_ms,
        exit_code=exit_code,
        error=error,
        duration_s=(now_ms - started) / 1000,
    )
    return msgspec.structs.replace(done, last_success_ms=now_ms) if outcome == "succeeded" else done
