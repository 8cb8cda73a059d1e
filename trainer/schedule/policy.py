"""Decide when to train: the instants of a cron expression in a time zone, and the run that is due. Pure.

cronsim reads expressions as Debian's cron does, also where clocks change: a run in the hour that is skipped in spring
starts right after the gap, and a run in the hour that is repeated in autumn starts only the first time.
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

# More than the largest change of a zone's offset, so that a search backwards from here finds every instant.
_AHEAD_S: Final = 4 * 3600
_FIELDS: Final = 5
# A run that begins within this time is on time: the scheduler looks at the clock every half minute.
ON_TIME_MS: Final = 120_000


class Schedule:
    """The instants of a cron expression. All are ms since 1970.

    >>> daily = Schedule("0 3 * * *", "Europe/Berlin")
    >>> datetime.fromtimestamp(daily.after(1_700_000_000_000) / 1000, UTC).isoformat()
    '2023-11-15T02:00:00+00:00'
    """

    def __init__(self, expression: str, zone: str) -> None:
        """Raise SettingsError where one of them can't be read, or the expression has no instant."""
        self.expression = expression
        try:
            self._zone = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise SettingsError(
                f"this machine has no time zone {zone!r}.", hint="Give a name like Europe/Berlin, or UTC."
            ) from None
        # cronsim accepts a field of seconds too; for a training that is a mistake.
        if len(expression.split()) != _FIELDS:
            raise _unusable(expression, "expected minute, hour, day of month, month, day of week")
        try:
            next(self._from(0.0))
        except CronSimError as error:
            raise _unusable(expression, str(error)) from None
        except StopIteration:
            raise _unusable(expression, "no date matches it") from None

    def after(self, ms: int) -> int:
        """Return the first instant after this one."""
        # In an hour that is repeated the search begins in the first one, and may find instants that have passed.
        return next(at for at in map(_ms, self._from(ms // 1000)) if at > ms)

    def latest(self, ms: int) -> int:
        """Return the last instant at or before this one."""
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
    """How the schedule is followed. `jitter_s`: a run begins up to so much later, determined by group and instant."""

    group: str = "segstream"
    jitter_s: int = 0
    retries: int = 3
    retry_s: int = 600

    def start(self, schedule: Schedule, instant_ms: int) -> int:
        """Return when the run of an instant begins: before the next instant, the same for all schedulers of a group.

        Deployments that share servers thus don't all train in the same second.
        """
        room = min(self.jitter_s * 1000, schedule.after(instant_ms) - instant_ms - 1)
        digest = blake2b(f"{self.group} {instant_ms}".encode(), digest_size=8).digest()
        return instant_ms + int.from_bytes(digest) % (room + 1)


class LastRun(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the last run, which outlives the scheduler.

    `instant_ms`: the last instant of the schedule that was dealt with (before the first run: the first start of a
    scheduler, so that only later instants count as missed). `attempt`: runs begun for it. `asked`: since then, a run
    has begun that the schedule didn't ask for.
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
    """A run that should begin now. `instant_ms`: the instant of the schedule that it is for. `text`: the reason."""

    reason: Reason
    instant_ms: int
    text: str


def due(schedule: Schedule, policy: Policy, last: LastRun, now_ms: int) -> DueRun | None:
    """Return the run that is due by the clock alone. However many instants were missed, one run makes up for them."""
    instant = schedule.latest(now_ms)
    if instant > last.instant_ms and now_ms >= (start := policy.start(schedule, instant)):
        planned = datetime.fromtimestamp(instant / 1000, UTC).isoformat()
        reason: Reason = "scheduled" if now_ms - start <= ON_TIME_MS else "missed"
        return DueRun(reason, instant, f"{reason}: {planned}")
    if last.outcome == "stopped":
        return DueRun("resumed", last.instant_ms, "the run before was stopped")
    # A run still marked "running" died with its scheduler: only the holder of the turn gets here.
    if last.outcome in {"failed", "running"} and last.attempt <= policy.retries and rested(policy, last, now_ms):
        return DueRun("retry", last.instant_ms, f"attempt {last.attempt + 1} of {policy.retries + 1}")
    return None


def rested(policy: Policy, last: LastRun, now_ms: int) -> bool:
    """Return whether the pause after a failed run is over; true where the last run didn't fail."""
    ended = last.finished_ms if last.finished_ms is not None else last.started_ms
    if last.outcome not in {"failed", "running"} or ended is None:
        return True
    return now_ms >= ended + policy.retry_s * 1000


def begun(last: LastRun, run: DueRun, now_ms: int) -> LastRun:
    """Return the state at the beginning of a run: the attempt counts from here on, even if the scheduler dies."""
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
    """Return the state at the end of a run. A stopped run doesn't count as an attempt; a success resets them."""
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
