"""docs/reference/metrics.md lists exactly the metrics there are."""

from __future__ import annotations

import re

from stream.metrics import Metrics
from tests.support.metric_rows import metric_rows
from tests.support.paths import ROOT
from trainer.schedule.metrics import ScheduleMetrics

PAGE = ROOT / "docs" / "reference" / "metrics.md"


def test_the_table_is_the_list() -> None:
    listed = re.findall(r"(?m)^\| `(\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", PAGE.read_text())
    assert listed == metric_rows(Metrics()) + metric_rows(ScheduleMetrics())
