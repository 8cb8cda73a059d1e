"""All settings of a deployment: read once at the entry point, frozen from there on."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from segmentation.agreed import Agreed
from segmentation.entries import DAY_MS
from segmentation.rfm import Rules
from stream.connection_settings import ConnectionSettings
from stream.errors import SettingsError
from stream.settings_sources import CONFIG, PREFIX, read_config_file

# Variables with the same prefix that set nothing here: the file, the local stack's cache, the tests' data.
_OTHER_VARIABLES: Final = frozenset({CONFIG, f"{PREFIX}CACHE_DIR", f"{PREFIX}TEST_DATA"})
# The trainer's own variables, and its tables in the file: read and checked by the trainer alone.
_TRAINER_PREFIXES: Final = (f"{PREFIX}TRAINER_", f"{PREFIX}SCHEDULE_")
TRAINER_TABLES: Final = frozenset({"trainer", "schedule"})


class DeploymentSettings(ConnectionSettings):
    """The settings that the workers and the trainer of a deployment share.

    Variables that only workers read are ignored.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")
    ABOUT = "settings"
    LISTED_BY = "`segstream settings`"

    # The deployment.
    group: str = Field(
        "segstream",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="name of the deployment: prefix of its consumer groups, transactional ids and Redis keys",
    )
    time: Literal["wall", "event"] = Field(
        "wall",
        description="the time that customers are scored at. wall: the present. event: the time that the shard's events "
        "have reached (for replays, the demo and tests); must agree",
    )
    currency: str = Field(
        "USD", pattern=r"^[A-Z]{3}$", description="currency of all figures, and of orders (ISO 4217); must agree"
    )
    other_currencies: str = Field(
        "",
        pattern=r"^([A-Z]{3}(,[A-Z]{3})*)?$",
        description="other currencies that orders may be in, with commas between them; converted by the rates of "
        "`segstream rates load`; must agree",
    )
    window_days: int = Field(
        365,
        ge=1,
        le=3650,
        description="days for which an order counts towards frequency and monetary value; must agree",
    )
    grace_days: int = Field(
        7,
        ge=0,
        le=3650,
        description="days by which a cancellation or an erasure may arrive late; must agree",
    )
    cap_entries: int = Field(
        16_384, ge=1, le=1_000_000, description="largest number of events kept for one customer; must agree"
    )
    max_event_bytes: int = Field(
        1_048_576, ge=1_024, description="largest record accepted as input, in bytes; must agree"
    )
    future_tolerance_s: int = Field(
        300,
        ge=0,
        description="seconds by which an event may be later than the timestamp of its Kafka record; must agree",
    )
    earliest_date: date = Field(
        date(1990, 1, 1),
        description="first day (UTC) that an event may be dated; an earlier one comes from a clock that wasn't set; "
        "must agree",
    )

    # Topics that workers and the trainer use.
    partitions: int = Field(
        8,
        ge=1,
        le=10_000,
        description="partitions of the topics of orders and moves, one per shard; only `segstream reshard` makes more",
    )
    orders_topic: str = Field("orders", description="topic of order events (input)")
    models_topic: str = Field("segment-models", description="topic of segment models (compacted, one partition)")
    reports_topic: str = Field(
        "segment-reports", description="topic of the reports of training runs (compacted, one partition)"
    )
    rates_topic: str = Field(
        "segment-rates", description="topic of the rates of other currencies (compacted, one partition)"
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="lowest level of log messages that are written (to stderr)"
    )

    @field_validator("other_currencies")
    @classmethod
    def _sorted_codes(cls, value: str, info: ValidationInfo) -> str:
        # Workers compare the text: the order in which somebody wrote the codes mustn't matter.
        codes = set(value.split(",")) - {""}
        if (own := info.data.get("currency")) in codes:
            raise ValueError(f"{own} is SEGSTREAM_CURRENCY already: name only others")
        return ",".join(sorted(codes))

    @classmethod
    def file_values(cls) -> dict[str, Any]:
        """Return the file without the trainer's tables. Raises SettingsError, also for a key that no program reads."""
        values = read_config_file()
        # One file serves all programs: whichever reads it knows the workers' keys.
        if unknown := sorted(values.keys() - Settings.model_fields.keys() - TRAINER_TABLES):
            raise SettingsError(
                f"unknown setting {', '.join(unknown)} in {os.environ[CONFIG]}.",
                hint=f"{cls.LISTED_BY} lists all settings.",
            )
        return {key: value for key, value in values.items() if key not in TRAINER_TABLES}

    @classmethod
    def unknown_variables(cls) -> list[str]:
        """Return none: the environment may hold the workers' settings too, and anything else beside them."""
        return []

    @property
    def all_currencies(self) -> frozenset[str]:
        """The currencies that orders may be in."""
        return frozenset({self.currency, *self.other_currencies.split(",")}) - {""}

    @property
    def rules(self) -> Rules:
        """The settings that the bytes of a state depend on (docs/explanation/state-format.md, section 1)."""
        return Rules(self.window_days * DAY_MS, self.grace_days * DAY_MS, self.cap_entries)


class Settings(DeploymentSettings):
    """Every setting of a worker and of the other commands of `segstream`. `segstream settings` prints them."""

    model_config = SettingsConfigDict(extra="forbid")

    # Events and moves.
    dwell_hours: float = Field(
        0.0, ge=0, description="hours that a customer stays in a segment at least; 0: no minimum; must agree"
    )
    max_clock_jump_days: int = Field(
        90,
        ge=1,
        description="days by which an event may be later than its shard's clock (with time = event); must agree",
    )
    erasure_salt: SecretStr = Field(
        SecretStr(""),
        description="secret behind the hashes of erased and merged ids; can't be changed after the first of them",
    )
    model_moves: Literal["act", "adopt"] = Field(
        "act",
        description="moves that a new model or other settings make. act: campaigns act on them. adopt: campaigns only "
        "record them",
    )
    model_moves_per_minute: int | None = Field(
        None,
        ge=1,
        description="largest number of moves a minute that a new model or other settings may make, over all shards "
        "(with time = wall); default: no limit",
    )
    backfill_expiry_hours: float = Field(
        24.0, gt=0, description="hours without a record of a backfill after which it counts as finished; must agree"
    )
    rules_file: Path | None = Field(None, description="file of campaign rules (YAML); default: the built-in rules")
    endpoints_file: Path | None = Field(
        None, description="file of the endpoints that `segstream deliver` sends webhooks to (YAML)"
    )

    # Topics of workers alone.
    replication_factor: int = Field(1, ge=1, description="replicas of each topic; use 3 in production")
    partitioner: Literal["murmur2", "crc32", "none"] = Field(
        "murmur2",
        description="how producers of orders choose the partition of a customer; none: it isn't checked; must agree",
    )
    unkeyed_topic: str = Field(
        "orders-unkeyed", description="topic of order events that aren't keyed by customer (input of the key adapter)"
    )
    changes_topic: str = Field("segment-changes", description="topic of moves between segments (output)")
    state_topic: str = Field("segment-state", description="topic of each customer's latest move (output, compacted)")
    actions_topic: str = Field("campaign-actions", description="topic of campaign actions (output)")
    deliveries_topic: str = Field(
        "campaign-deliveries", description="topic of what became of each webhook of `segstream deliver` (output)"
    )
    profiles_topic: str = Field(
        "customer-profiles", description="topic of customers' time zones, consents and languages (input of campaigns)"
    )

    # Turns of the engine.
    turn_max_orders: int = Field(4_000, ge=1, description="largest number of records in a turn")
    turn_max_bytes: int = Field(8_388_608, ge=1, description="largest size of the records in a turn, in bytes")
    turn_max_ms: int = Field(
        500, ge=1, description="milliseconds that a turn should take at most; the number of records is adapted to it"
    )
    turn_min_gap_ms: int = Field(
        20, ge=0, description="shortest time between the starts of two small turns of a shard, in milliseconds"
    )
    turns_at_once: int = Field(
        4,
        ge=1,
        description="largest number of turns that a worker runs at the same time; other shards collect records",
    )
    due_slice: int = Field(
        512, ge=1, le=4_999, description="largest number of customers in a turn that are scored because time has passed"
    )
    rescore_slice: int = Field(
        5_000,
        ge=1,
        le=5_000,
        description="largest number of customers in a turn that are scored because of a new model",
    )
    due_poll_ms: int = Field(
        250,
        ge=1,
        description="milliseconds between checks of an idle shard for customers whose segment is due to change",
    )
    step_retries: int = Field(
        3, ge=1, description="how often a record that makes the step fail is tried before it becomes a dead letter"
    )
    transaction_timeout_ms: int = Field(
        20_000, ge=1_000, description="milliseconds after which the broker aborts an unfinished transaction"
    )
    commit_timeout_s: float = Field(30.0, gt=0, description="seconds after which a commit counts as failed")
    session_timeout_ms: int = Field(
        10_000,
        ge=1_000,
        description="milliseconds without a heartbeat after which a worker's shards go to other workers",
    )
    backoff_max_s: float = Field(
        30.0, gt=0, description="longest wait between two attempts to take over a failing shard, in seconds"
    )

    redis_eviction_allowed: bool = Field(
        False,
        description="start although Redis' maxmemory-policy isn't noeviction, so that it may delete customers' states",
    )

    # Monitoring.
    open_transaction_warn_s: float = Field(
        60.0,
        gt=0,
        description="seconds that an open transaction of another producer may hold records of the input back before "
        "status and health name it",
    )
    drift_interval_s: float = Field(
        300.0, ge=0, description="seconds between samples of the customers for the drift metrics; 0: no samples"
    )
    http_host: str = Field("127.0.0.1", description="address that serves /health and /metrics")
    http_port: int = Field(
        0, ge=0, le=65_535, description="port that serves /health and /metrics; 0: they aren't served"
    )

    @classmethod
    def unknown_variables(cls) -> list[str]:
        """Return the environment's variables that no program reads, sorted."""
        return [
            name
            for name in super(DeploymentSettings, cls).unknown_variables()
            if name.upper() not in _OTHER_VARIABLES and not name.startswith(_TRAINER_PREFIXES)
        ]

    @property
    def agreed(self) -> Agreed:
        """The settings that all workers must share, as the shards' heads keep them."""
        values = {name: getattr(self, name) for name in Agreed.__struct_fields__}
        return Agreed(**{**values, "earliest_date": self.earliest_date.isoformat()})

    @property
    def dwell_ms(self) -> int:
        """How long a customer stays in a segment at least."""
        return self.agreed.dwell_ms

    @property
    def salt(self) -> bytes:
        """SEGSTREAM_ERASURE_SALT, as the hashes of erased customers' ids take it."""
        return self.erasure_salt.get_secret_value().encode()

    @property
    def backfill_expiry_ms(self) -> int:
        """How long a backfill may have no record before it counts as finished."""
        return int(self.backfill_expiry_hours * 3_600_000)

    @property
    def orders_dead_letters_topic(self) -> str:
        """The topic of order events that can't be used."""
        return f"{self.orders_topic}-dead-letters"

    @property
    def changes_dead_letters_topic(self) -> str:
        """The topic of moves that the campaign step can't read."""
        return f"{self.changes_topic}-dead-letters"

    @property
    def actions_dead_letters_topic(self) -> str:
        """The topic of actions that an endpoint never took."""
        return f"{self.actions_topic}-dead-letters"

    @property
    def redeliveries_topic(self) -> str:
        """The topic of actions that are sent to one endpoint once more."""
        return f"{self.actions_topic}-redeliveries"

    @property
    def positions_topic(self) -> str:
        """The compacted topic of how far each endpoint's deliveries are, and of endpoints that are disabled."""
        return f"{self.group}-deliveries"

    @property
    def tombstones_topic(self) -> str:
        """The compacted topic of erased customers, under the hashes of their ids."""
        return f"{self.group}-tombstones"

    @property
    def redrives_topic(self) -> str:
        """The compacted topic of how far each partition's dead letters have been sent back."""
        return f"{self.group}-redrives"

    @property
    def reshards_topic(self) -> str:
        """The compacted topic of where shards were handed over to a larger number of partitions."""
        return f"{self.group}-reshards"

    def group_of(self, step: str) -> str:
        """Return the consumer group of a step's workers; `step` is scoring or campaigns."""
        return self.group if step == "scoring" else f"{self.group}-{step}"

    def heads_topic(self, step: str) -> str:
        """Return the compacted topic of a step's shard heads; `step` is scoring or campaigns."""
        return f"{self.group}-{step}-heads"


def load_settings(**overrides: Any) -> Settings:
    """Read a worker's settings once. Raises SettingsError, naming each unusable value and its variable, or the file."""
    return Settings.load(**overrides)
