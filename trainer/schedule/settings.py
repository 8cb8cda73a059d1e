"""When this deployment trains: SEGSTREAM_SCHEDULE_… variables, or the table [schedule] of the file with all other settings."""

from __future__ import annotations

import shlex
from typing import Final

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from stream.settings_sources import PREFIX as DEPLOYMENT_PREFIX
from trainer.table_settings import TableSettings

PREFIX: Final = f"{DEPLOYMENT_PREFIX}SCHEDULE_"


class ScheduleSettings(TableSettings):
    """When to run, and what to do about a run that fails. The unit stands in the name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")
    TABLE = "schedule"
    ABOUT = "settings of the schedule"
    LISTED_BY = "docs/reference/settings.md"

    cron: str = Field("0 3 * * *", description="when: minute, hour, day of month, month, day of week")
    zone: str = Field("UTC", description="the time zone that `cron` is read in, like Europe/Berlin")
    jitter_s: int = Field(
        0, ge=0, le=86_400, description="begin up to so much later, by group and day, so that deployments spread out"
    )
    retries: int = Field(3, ge=0, le=100, description="attempts after one that failed")
    retry_s: int = Field(600, ge=1, le=86_400, description="seconds between a failure and the next attempt")
    timeout_s: float = Field(21_600.0, gt=0, description="a run that takes longer is ended, and has failed")
    when_none: bool = Field(False, description="train also while no model is active yet, every `retry_s`")
    when_drifted: float | None = Field(
        None, gt=0, description="train also where a stability index of the customers is above this, like 0.25"
    )
    drift_interval_s: float = Field(3_600.0, gt=0, description="seconds between looks at how far they have drifted")
    on_failure: str | None = Field(None, description="command to run after each attempt that failed, without a shell")
    http_host: str = Field("127.0.0.1", description="address of /health and /metrics")
    http_port: int = Field(0, ge=0, le=65_535, description="port of /health and /metrics; 0: none")

    @field_validator("on_failure")
    @classmethod
    def _is_a_command(cls, value: str | None) -> str | None:
        if value is not None and not shlex.split(value):
            raise ValueError("expected a command, like 'notify training'")
        return value
