"""docs/metrics.md lists exactly the metrics there are."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from stream.metrics import Metrics

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_table_is_the_list() -> None:
    told = re.findall(r"(?m)^\| `(\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", PAGE.read_text())
    there = [m for m in vars(Metrics()).values() if isinstance(m, MetricWrapperBase)]
    assert there
    assert told == [
        (
            f"{m._name}_total" if m._type == "counter" else m._name,
            m._type,
            ", ".join(f"`{label}`" for label in m._labelnames),
            m._documentation,
        )
        for m in there
    ]
