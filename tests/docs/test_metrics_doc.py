"""docs/reference/metrics.md lists exactly the metrics there are."""

from __future__ import annotations

import re

from segmentation.output_events import Withheld
from stream.delivery.metrics import DeliveryMetrics
from stream.metrics import Metrics
from tests.support.metric_rows import metric_rows
from tests.support.paths import ROOT
from trainer.schedule.metrics import ScheduleMetrics

PAGE = ROOT / "docs" / "reference" / "metrics.md"


def test_the_table_is_the_list() -> None:
    listed = re.findall(r"(?m)^\| `(\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", PAGE.read_text())
    assert listed == [
        row for metrics in (Metrics(), ScheduleMetrics(), DeliveryMetrics()) for row in metric_rows(metrics)
    ]


def test_every_outcome_of_campaigns_is_explained() -> None:
    table = re.search(r"(?ms)^- `outcome`, campaigns:\n(.*?)(?=^- |\Z)", PAGE.read_text())
    assert table
    explained = {name for row in re.findall(r"(?m)^  \| (`[^|]*) \|", table[1]) for name in re.findall(r"`(\w+)`", row)}
    source = "".join(path.read_text() for path in (ROOT / "segmentation").glob("campaign*.py"))
    counted = {name for line in re.findall(r"counts\[(.*)\] \+= ", source) for name in re.findall(r'"(\w+)"', line)}
    assert explained == counted | set(Withheld)
