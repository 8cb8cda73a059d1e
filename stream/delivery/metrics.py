"""The metrics of `segstream deliver`: one closed, typed list, which docs/reference/metrics.md repeats."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30)


class DeliveryMetrics:
    """The metrics of one process that delivers, on a registry of their own."""

    def __init__(self) -> None:
        """Create the metrics, so that importing this module registers nothing."""
        self.registry = CollectorRegistry()
        of = ["endpoint"]
        self.outcomes = Counter(
            "segstream_deliveries",
            "Webhooks by outcome (delivered, retrying, undelivered, unsendable)",
            ["endpoint", "outcome"],
            registry=self.registry,
        )
        self.answers = Counter(
            "segstream_delivery_answers",
            "Answers of endpoints by class (2xx, 3xx, 4xx, 5xx, none)",
            ["endpoint", "answer"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "segstream_delivery_seconds",
            "Seconds that an attempt takes, with connection and answer",
            of,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.unresolved = Gauge(
            "segstream_delivery_unresolved_records",
            "Records read and neither delivered nor given up",
            of,
            registry=self.registry,
        )
        self.lag = Gauge(
            "segstream_delivery_lag_records", "Records of this process's partitions not read yet", of,
            registry=self.registry,
        )  # fmt: skip
        self.oldest = Gauge(
            "segstream_delivery_oldest_seconds",
            "Age of the oldest unresolved record; 0: there is none",
            of,
            registry=self.registry,
        )
        self.breaker = Gauge(
            "segstream_delivery_breaker_open",
            "1 while the endpoint's circuit breaker is open or half-open",
            of,
            registry=self.registry,
        )
        self.disabled = Gauge(
            "segstream_delivery_disabled",
            "1 while the endpoint is disabled, because it answered 410",
            of,
            registry=self.registry,
        )

    def render(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
