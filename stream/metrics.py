"""All metrics of workers and adapters. docs/reference/metrics.md lists them, and a test compares the two."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from segmentation.drift import Drift
    from segmentation.step import Turn

SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

# A stability index of a smaller sample is mostly chance: of 50 customers it is 0.2 where nothing has changed.
LEAST_SAMPLE: Final = 200


class Metrics:
    """The metrics of one process, in their own registry."""

    def __init__(self) -> None:
        """Register the metrics. Each process makes one instance; importing registers nothing."""
        self.registry = CollectorRegistry()
        shard = ["step", "partition"]
        self._add_gauges_of_shards(shard)
        self.records = Counter("segstream_records", "Input records read and processed", shard, registry=self.registry)
        self.outputs = Counter(
            "segstream_outputs", "Outputs published (moves, actions)", ["step"], registry=self.registry
        )
        self.turns = Counter("segstream_turns", "Turns committed", ["step", "kind"], registry=self.registry)
        self.turn_seconds = Histogram(
            "segstream_turn_seconds",
            "Seconds from a batch read until its turn is committed in Kafka and Redis",
            ["step"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.takeovers = Counter(
            "segstream_takeovers",
            "Takeovers of shards, by cause",
            ["step", "cause"],
            registry=self.registry,
        )
        self.takeover_seconds = Histogram(
            "segstream_takeover_seconds",
            "Seconds that a takeover takes",
            ["step"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.dead_letters = Counter(
            "segstream_dead_letters",
            "Records sent to the dead-letter topic",
            ["step", "reason"],
            registry=self.registry,
        )
        self.events = Counter(
            "segstream_events",
            "Events and moves by outcome (new, repeat, moves_silence, ...)",
            ["step", "outcome"],
            registry=self.registry,
        )
        self.owned = Gauge("segstream_owned_shards", "Shards that this worker owns", ["step"], registry=self.registry)
        self.quarantined = Gauge(
            "segstream_quarantined_shards",
            "Shards that have stopped until an operator acts",
            ["step"],
            registry=self.registry,
        )
        self._add_rules_metrics()
        self._add_model_metrics(shard)
        self.show_drift(None)

    def _add_gauges_of_shards(self, shard: list[str]) -> None:
        self.lag = Gauge(
            "segstream_lag_records",
            "Records between the shard's offset and the end of its input, as far as transactions have ended",
            shard,
            registry=self.registry,
        )
        self.held_back = Gauge(
            "segstream_held_back_records",
            "Records of the input between the last stable offset and the high watermark: an open transaction holds "
            "them back",
            shard,
            registry=self.registry,
        )
        self.held_back_seconds = Gauge(
            "segstream_held_back_seconds",
            "Seconds that the last stable offset hasn't moved while records wait behind it; 0: none waits",
            shard,
            registry=self.registry,
        )
        self.side_lag = Gauge(
            "segstream_side_lag_records",
            "Records of a side input (profiles, orders) that the shard hasn't joined yet",
            [*shard, "input"],
            registry=self.registry,
        )
        self.clock = Gauge(
            "segstream_clock_seconds", "The shard's clock, seconds since 1970", shard, registry=self.registry
        )

    def forget_shard(self, step: str, partition: int) -> None:
        """Remove the gauges of a shard that has left this worker: its next owner shows them. Counters stay."""
        for gauge in (
            self.lag, self.held_back, self.held_back_seconds, self.clock, self.activation, self.rescoring,
        ):  # fmt: skip
            with suppress(KeyError):  # it was never set
                gauge.remove(step, str(partition))
        self.side_lag.remove_by_labels({"step": step, "partition": str(partition)})

    def count_turn(self, step: str, partition: int, turn: Turn, taken: int) -> None:
        """Count the records of a turn and its results."""
        self.records.labels(step, str(partition)).inc(taken)
        self.outputs.labels(step).inc(len(turn.outputs))
        for outcome, count in turn.counts.items():
            self.events.labels(step, outcome).inc(count)
        if turn.forwards:
            self.events.labels(step, "forwarded").inc(len(turn.forwards))
        for letter in turn.dead:
            self.dead_letters.labels(step, letter.reason).inc()

    def _add_rules_metrics(self) -> None:
        self.rules_loaded = Counter(
            "segstream_rules_loaded",
            "Tables of campaign rules that came into force, the one at the start included",
            registry=self.registry,
        )
        self.rules_failed = Counter(
            "segstream_rules_failed",
            "Changed files of campaign rules that couldn't be used",
            registry=self.registry,
        )
        self.rules_broken = Gauge(
            "segstream_rules_broken",
            "1 while the file of campaign rules can't be used, and older rules are in force",
            registry=self.registry,
        )

    def _add_model_metrics(self, shard: list[str]) -> None:
        self.activation = Gauge(
            "segstream_model_activation",
            "Number of the activation that the shard scores by; 0: none",
            shard,
            registry=self.registry,
        )
        self.rescoring = Gauge(
            "segstream_rescoring", "1 while the shard rescores its customers", shard, registry=self.registry
        )
        self.refused = Counter(
            "segstream_models_refused",
            "Models and activations on the models topic that were refused",
            registry=self.registry,
        )
        self.drift_customers = Gauge(
            "segstream_drift_sampled_customers",
            "Customers of this worker's shards in the last sample",
            registry=self.registry,
        )
        self.drift = Gauge(
            "segstream_drift_stability_index",
            "Population stability index of the sample against the customers of the active model's training",
            ["of"],
            registry=self.registry,
        )
        self.distance = Gauge(
            "segstream_drift_distance_ratio",
            "Mean distance to the nearest centroid in the sample, divided by that at the training",
            registry=self.registry,
        )
        self.shares = Gauge(
            "segstream_drift_segment_share",
            "Share of the sample whose nearest centroid is the segment's",
            ["segment"],
            registry=self.registry,
        )

    def show_drift(self, drift: Drift | None) -> None:
        """Set the metrics of drift from a sample; None: there is none, and they are cleared."""
        self.drift.clear()
        self.shares.clear()
        self.drift_customers.set(drift.customers if drift else 0)
        self.distance.set(math.nan)
        if drift is None or not drift.customers:
            return
        if drift.customers >= LEAST_SAMPLE:
            for name, index in drift.indices.items():
                self.drift.labels(name).set(index)
        for segment, (_, share) in drift.shares.items():
            self.shares.labels(segment).set(share)
        then, now = drift.distance
        if then:
            self.distance.set(now / then)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
