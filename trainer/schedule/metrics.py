"""The scheduler's metrics: one closed, typed list, which docs/reference/metrics.md repeats (held by a test)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

if TYPE_CHECKING:
    from trainer.schedule.policy import LastRun


class ScheduleMetrics:
    """The metrics of one scheduler, on a registry of their own."""

    def __init__(self) -> None:
        """Create the metrics, so that importing this module registers nothing."""
        self.registry = CollectorRegistry()
        self.heartbeat = Gauge(
            "segstream_training_heartbeat_seconds",
            "When the scheduler last looked at its schedule without an error, seconds since 1970",
            registry=self.registry,
        )
        self.next_run = Gauge(
            "segstream_training_next_run_seconds",
            "When the next run is planned, seconds since 1970",
            registry=self.registry,
        )
        self.running = Gauge(
            "segstream_training_running", "1 while this scheduler's run is under way", registry=self.registry
        )
        self.runs = Counter(
            "segstream_training_runs",
            "Runs of this scheduler that ended (succeeded, failed, skipped, stopped)",
            ["outcome"],
            registry=self.registry,
        )
        self.failed_attempts = Gauge(
            "segstream_training_failed_attempts",
            "Failed attempts since the last success or the last run of the schedule, of any scheduler",
            registry=self.registry,
        )
        self.last_success = Gauge(
            "segstream_training_last_success_seconds",
            "When a run of any scheduler last succeeded, seconds since 1970; 0: never",
            registry=self.registry,
        )
        self.last_duration = Gauge(
            "segstream_training_last_duration_seconds",
            "How long the last finished run of any scheduler took",
            registry=self.registry,
        )

    def show(self, last: LastRun, next_run_ms: int) -> None:
        """Set the metrics to the last run, so that they are right after a restart too."""
        self.next_run.set(next_run_ms / 1000)
        self.failed_attempts.set(last.attempt if last.outcome == "failed" else 0)
        self.last_success.set((last.last_success_ms or 0) / 1000)
        self.last_duration.set(last.duration_s or 0)

    def render(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
