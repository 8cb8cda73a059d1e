"""The trainer's settings: those of the deployment that it needs, read from the same variables and file as the worker's.

Names, defaults and descriptions are the worker's own (stream/settings.py, which the trainer doesn't import); a test
compares the two.
"""

from __future__ import annotations

import os
import ssl
import tomllib
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from segmentation.entries import DAY_MS
from segmentation.rfm import Rules
from trainer.errors import SettingsError

PREFIX = "SEGSTREAM_"
# Settings that the same file may hold for the worker: known, so that a misspelt key doesn't pass for one of them.
WORKERS_OWN: Final = frozenset(
    {
        "erasure_salt",
        "dwell_hours",
        "future_tolerance_s",
        "max_clock_jump_days",
        "earliest_date",
        "max_event_bytes",
        "replication_factor",
        "partitioner",
        "unkeyed_topic",
        "changes_topic",
        "state_topic",
        "actions_topic",
        "model_moves",
        "model_moves_per_minute",
        "backfill_expiry_hours",
        "turn_max_orders",
        "turn_max_bytes",
        "turn_max_ms",
        "turn_min_gap_ms",
        "turns_at_once",
        "due_slice",
        "rescore_slice",
        "due_poll_ms",
        "step_retries",
        "transaction_timeout_ms",
        "commit_timeout_s",
        "session_timeout_ms",
        "backoff_max_s",
        "drift_interval_s",
        "http_host",
        "http_port",
        "rules_file",
    }
)

# Tables of the same file, with settings of their own: how to train (training_settings.py), and when.
TABLES: Final = frozenset({"trainer", "schedule"})


class Settings(BaseSettings):
    """What the trainer must know of the deployment; the unit stands in the name. Other settings are the worker's, and ignored."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    # Where the servers are.
    kafka_bootstrap_servers: str = Field("127.0.0.1:9092", description="Kafka brokers, host:port, comma-separated")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how to speak to the brokers"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="SASL mechanism, where the protocol has SASL"
    )
    kafka_sasl_username: str | None = Field(None, description="SASL user")
    kafka_sasl_password: SecretStr | None = Field(None, description="SASL password")
    kafka_ssl_cafile: Path | None = Field(None, description="CA certificates (PEM); default: the system's")
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis or Valkey; rediss:// for TLS, user and password inside",
    )
    redis_timeout_s: float = Field(10.0, gt=0, description="seconds before a call to Redis counts as failed")

    # What the deployment is.
    group: str = Field(
        "segstream",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="names the deployment: consumer group, transactional ids, Redis keys",
    )
    time: Literal["wall", "event"] = Field(
        "wall", description="score as of now, or as of the shard's own stream time (replay, demo, tests)"
    )
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$", description="the one currency of this deployment (ISO 4217)")
    window_days: int = Field(
        365, ge=1, le=3650, description="days that an order counts for frequency and monetary value"
    )
    grace_days: int = Field(7, ge=0, le=3650, description="days that a cancellation or erasure may arrive late")
    cap_entries: int = Field(16_384, ge=1, le=1_000_000, description="most entries kept for one customer")

    # Topics.
    partitions: int = Field(
        8, ge=1, le=10_000, description="partitions of the input and output topics; pinned once used"
    )
    orders_topic: str = Field("orders", description="order events in")
    models_topic: str = Field("segment-models", description="segment models (compacted, one partition)")
    reports_topic: str = Field(
        "segment-reports", description="reports of the runs that made the models (compacted, one partition)"
    )

    # Around it.
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least level logged (stderr)")

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _has_ports(cls, value: str) -> str:
        for server in value.split(","):
            host, _, port = server.strip().rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"{server!r} is not host:port")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over environment over the TOML file that `SEGSTREAM_CONFIG` names."""
        del dotenv_settings, file_secret_settings
        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings]
        if path := os.environ.get(f"{PREFIX}CONFIG"):
            sources.append(TomlConfigSettingsSource(settings_cls, toml_file=path))
        return tuple(sources)

    @property
    def rules(self) -> Rules:
        """The settings that the bytes of a state depend on."""
        return Rules(self.window_days * DAY_MS, self.grace_days * DAY_MS, self.cap_entries)

    def kafka_client(self) -> dict[str, Any]:
        """Give the arguments that every aiokafka client of this deployment needs."""
        arguments: dict[str, Any] = {
            "bootstrap_servers": [s.strip() for s in self.kafka_bootstrap_servers.split(",")],
            "security_protocol": self.kafka_security_protocol,
        }
        if self.kafka_security_protocol.endswith("SSL"):
            arguments["ssl_context"] = ssl.create_default_context(cafile=self.kafka_ssl_cafile)
        if self.kafka_security_protocol.startswith("SASL"):
            arguments["sasl_mechanism"] = self.kafka_sasl_mechanism
            arguments["sasl_plain_username"] = self.kafka_sasl_username
            password = self.kafka_sasl_password
            arguments["sasl_plain_password"] = password.get_secret_value() if password else None
        return arguments


def load_settings(**overrides: Any) -> Settings:
    """Read the settings once. Raises SettingsError, naming each unusable value and its variable, or the file."""
    if path := os.environ.get(f"{PREFIX}CONFIG"):
        _check_file(path)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        told = "; ".join(
            f"{PREFIX}{'_'.join(str(part) for part in e['loc']).upper()}={e.get('input')!r}: {e['msg']}"
            for e in error.errors()
        )
        raise SettingsError(
            f"unusable settings: {told}.", hint="`segstream settings` shows defaults and units."
        ) from None


def _check_file(path: str) -> None:
    """Look at the file before the source of settings reads it: that one takes a missing file for an empty one."""
    try:
        keys = tomllib.loads(Path(path).read_text("utf-8")).keys()
    except (OSError, ValueError) as error:  # ValueError: neither UTF-8 nor TOML
        told = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"{PREFIX}CONFIG={path!r} can't be read: {told}.", hint="Give a TOML file.") from None
    if unknown := sorted(keys - Settings.model_fields.keys() - WORKERS_OWN - TABLES):
        raise SettingsError(
            f"unknown setting {', '.join(unknown)} in {path}.", hint="`segstream settings` lists those there are."
        )
