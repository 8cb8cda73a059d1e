"""All settings: environment (`SEGSTREAM_…`) or a TOML file, built once at the entry point and frozen from there on."""

from __future__ import annotations

import os
import ssl
import tomllib
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from segmentation.entries import DAY_MS
from segmentation.rfm import Rules
from stream.errors import SettingsError

PREFIX = "SEGSTREAM_"


class Settings(BaseSettings):
    """Every setting with its default; the unit stands in the name. `segstream settings` prints them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

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
    dwell_hours: float = Field(0.0, ge=0, description="hours a customer stays in a segment at least")
    future_tolerance_s: int = Field(
        300, ge=0, description="seconds an event may be dated ahead of its record's timestamp"
    )
    max_clock_jump_days: int = Field(
        90, ge=1, description="days an event may be dated ahead of its shard's clock (event time)"
    )
    earliest_date: date = Field(
        date(1990, 1, 1), description="events dated before this day (UTC) are refused: a clock that wasn't set"
    )
    max_event_bytes: int = Field(1_048_576, ge=1_024, description="largest record that the input takes, in bytes")

    # Topics.
    partitions: int = Field(
        8, ge=1, le=10_000, description="partitions of the input and output topics; pinned once used"
    )
    replication_factor: int = Field(1, ge=1, description="replicas of each topic (3 in production)")
    partitioner: Literal["murmur2", "crc32", "none"] = Field(
        "murmur2", description="how the producers of orders choose the partition; none: don't check"
    )
    orders_topic: str = Field("orders", description="order events in")
    unkeyed_topic: str = Field("orders-unkeyed", description="order events not keyed by customer, for the adapter")
    changes_topic: str = Field("segment-changes", description="moves out")
    state_topic: str = Field("segment-state", description="the latest move of each customer (compacted)")
    models_topic: str = Field("segment-models", description="segment models (compacted, one partition)")
    reports_topic: str = Field(
        "segment-reports", description="reports of the runs that made the models (compacted, one partition)"
    )
    actions_topic: str = Field("campaign-actions", description="campaign actions out")

    erasure_salt: SecretStr = Field(
        SecretStr(""), description="secret that hides who was erased; for good, once a customer is erased"
    )

    model_moves: Literal["act", "adopt"] = Field(
        "act", description="whether campaigns act on moves that a new model makes, or only take note of them"
    )
    model_moves_per_minute: int | None = Field(
        None,
        ge=1,
        description="most moves a minute that a new model may make in wall time, over all shards; default: no limit",
    )
    backfill_expiry_hours: float = Field(
        24.0, gt=0, description="hours without a record of a back-fill after which it counts as finished"
    )

    # A turn of the engine.
    turn_max_orders: int = Field(4_000, ge=1, description="most records a turn takes")
    turn_max_bytes: int = Field(8_388_608, ge=1, description="most bytes of records a turn takes")
    turn_max_ms: int = Field(500, ge=1, description="milliseconds a turn should take at most; the batch shrinks to fit")
    turn_min_gap_ms: int = Field(20, ge=0, description="milliseconds between the starts of a shard's small turns")
    turns_at_once: int = Field(
        4, ge=1, description="turns a worker has under way at once; the other shards gather records meanwhile"
    )
    due_slice: int = Field(512, ge=1, le=4_999, description="most due customers a turn takes")
    rescore_slice: int = Field(5_000, ge=1, le=5_000, description="customers rescored a turn after a new model")
    due_poll_ms: int = Field(250, ge=1, description="milliseconds between looks at the due index while idle")
    step_retries: int = Field(
        3, ge=1, description="tries of a record that makes the step raise, before its dead letter"
    )
    transaction_timeout_ms: int = Field(20_000, ge=1_000, description="milliseconds before the broker aborts a turn")
    commit_timeout_s: float = Field(30.0, gt=0, description="seconds before a commit counts as failed")
    session_timeout_ms: int = Field(
        10_000, ge=1_000, description="milliseconds without heartbeat before the group moves on"
    )
    backoff_max_s: float = Field(30.0, gt=0, description="longest wait between takeovers of a failing shard, seconds")

    # Around it.
    drift_interval_s: float = Field(
        300.0, ge=0, description="seconds between samples of the customers for the drift metrics; 0: none"
    )
    http_host: str = Field("127.0.0.1", description="address of /health and /metrics")
    http_port: int = Field(0, ge=0, le=65_535, description="port of /health and /metrics; 0: none")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least level logged (stderr)")
    rules_file: Path | None = Field(None, description="campaign rules (YAML); default: the built-in table")

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
            sources.append(_File(settings_cls, toml_file=path))
        return tuple(sources)

    @property
    def rules(self) -> Rules:
        """The settings that the bytes of a state depend on (STATE 1)."""
        return Rules(self.window_days * DAY_MS, self.grace_days * DAY_MS, self.cap_entries)

    @property
    def dwell_ms(self) -> int:
        """How long a customer stays in a segment at least."""
        return int(self.dwell_hours * 3_600_000)

    @property
    def backfill_expiry_ms(self) -> int:
        """For how long a back-fill may be silent."""
        return int(self.backfill_expiry_hours * 3_600_000)

    @property
    def orders_dead_letters_topic(self) -> str:
        """Where unusable order events go."""
        return f"{self.orders_topic}-dead-letters"

    @property
    def changes_dead_letters_topic(self) -> str:
        """Where moves go that no campaign step can read."""
        return f"{self.changes_topic}-dead-letters"

    def group_of(self, step: str) -> str:
        """The consumer group of a step's workers; `step` is scoring or campaigns."""
        return self.group if step == "scoring" else f"{self.group}-{step}"

    def heads_topic(self, step: str) -> str:
        """The compacted topic of a step's shard heads; `step` is scoring or campaigns."""
        return f"{self.group}-{step}-heads"

    @property
    def tombstones_topic(self) -> str:
        """The compacted topic of what is left of erased customers, under hashes."""
        return f"{self.group}-tombstones"

    @property
    def redrives_topic(self) -> str:
        """The compacted topic that says how far dead letters were sent back."""
        return f"{self.group}-redrives"

    def kafka_client(self) -> dict[str, Any]:
        """The arguments that every aiokafka client of this deployment needs."""
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


class _File(TomlConfigSettingsSource):
    """The file without the tables that are the trainer's."""

    def __call__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__call__().items() if key not in TRAINERS_TABLES}


def load_settings(**overrides: Any) -> Settings:
    """Read the settings once. Raises SettingsError, naming each unusable value and its variable, or the file."""
    unknown = sorted(
        name
        for name in os.environ
        if name.startswith(PREFIX)
        and name[len(PREFIX) :].lower() not in {*Settings.model_fields, "config"} | _OTHERS
        and not name.startswith(_TRAINERS)
    )
    if unknown:
        raise SettingsError(
            f"unknown setting {', '.join(unknown)}.", hint="`segstream settings` lists those there are."
        )
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
    if unknown := sorted(keys - Settings.model_fields.keys() - TRAINERS_TABLES):
        raise SettingsError(
            f"unknown setting {', '.join(unknown)} in {path}.", hint="`segstream settings` lists those there are."
        )


# Variables of the same prefix that other programs read: the local stack's cache, the tests' data, the trainer's own.
_OTHERS = {"cache_dir", "test_data"}
_TRAINERS = (f"{PREFIX}TRAINER_", f"{PREFIX}SCHEDULE_")
# Tables of the same file that only the trainer reads, and checks.
TRAINERS_TABLES = {"trainer", "schedule"}
