"""Metrics as rows of the table in the docs."""

from __future__ import annotations

from typing import Any

from prometheus_client.metrics import MetricWrapperBase


def metric_rows(metrics: object) -> list[tuple[Any, ...]]:
    """Return (name, type, labels, help) of each metric that is an attribute of the object."""
    there = [m for m in vars(metrics).values() if isinstance(m, MetricWrapperBase)]
    assert there
    return [
        (
            f"{m._name}_total" if m._type == "counter" else m._name,
            m._type,
            ", ".join(f"`{label}`" for label in m._labelnames),
            m._documentation,
        )
        for m in there
    ]
