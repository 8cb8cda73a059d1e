"""The schedule of trainings: SEGSTREAM_SCHEDULE_… variables, or the table [schedule] of the settings' file."""

from __future__ import annotations

import shlex
from typing import Final

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from stream.settings_sources import PREFIX as DEPLOYMENT_PREFIX
from trainer.table_settings import TableSettings

PREFIX: Final = f"{DEPLOYMENT_PREFIX}SCHEDULE_"


class ScheduleSettings(TableSettings):
    """The times of runs, and what follows a run that fails. Names end in their unit."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")
    TABLE = "schedule"
    ABOUT = "settings of the schedule"
    LISTED_BY = "docs/reference/settings.md"

    cron: str = Field(
        "0 3 * * *", description="cron expression of the runs: minute, hour, day of month, month, day of week"
    )
    zone: str = Field("UTC", description="time zone of `cron`, like Europe/Berlin")
    jitter_s: int = Field(
        0,
        ge=0,
        le=86_400,
        description="largest delay of a run, in seconds; it depends on group and day and spreads deployments",
    )
    retries: int = Field(3, ge=0, le=100, description="further attempts after a failed run")
    retry_s: int = Field(600, ge=1, le=86_400, description="seconds from a failure to the next attempt")
    timeout_s: float = Field(21_600.0, gt=0, description="seconds after which a run is stopped and counts as failed")
    when_none: bool = Field(False, description="train also while no model is active, every `retry_s`")
    when_drifted: float | None = Field(
        None,
        gt=0,
        description="train also when a population stability index of the customers exceeds this value; 0.25 is usual",
    )
    drift_interval_s: float = Field(3_600.0, gt=0, description="seconds between measurements of the drift")
    on_failure: str | None = Field(None, description="command to run after each failed attempt, without a shell")
    http_host: str = Field("127.0.0.1", description="address that serves /health and /metrics")
    http_port: int = Field(
        0, ge=0, le=65_535, description="port that serves /health and /metrics; 0: they aren't served"
    )

    @field_validator("on_failure")
    @classmethod
    def _is_a_command(cls, value: str | None) -> str | None:
        if value is not None and not shlex.split(value):
            raise ValueError("expected a command, like 'notify training'")
        return value
