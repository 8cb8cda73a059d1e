"""The same customers, settings and seed give the same bytes in any process, on any number of threads or partitions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from segmentation.entries import DAY_MS
from segmentation.model import SegmentModel
from tests.support.command_line import environment
from tests.support.data.redis_customers import Entries, fill, order
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from stream.settings import Settings

T0 = 1_300_000_000_000
CUSTOMERS = 20_000

# Above 100,000 customers fits are compared on a sample, and the chosen one is refined on all of them.
_LARGE = """
import sys
sys.path.insert(0, ".")
from tests.support.data.datasets import known_segments, trained_on
from trainer.training.plan import TrainingPlan
snapshot, _ = known_segments(11, each=26_000)
result = trained_on(snapshot, TrainingPlan(ks=(4,), rounds=2, starts=4))
sys.stdout.buffer.write(result.trained.model.to_json())
"""


def unsegmented_customers() -> Entries:
    """Return one to three orders of each customer, without segments: many are near borders, where rounding shows."""
    rng = np.random.default_rng(3)
    days = np.sort(rng.integers(0, 300 * DAY_MS, (CUSTOMERS, 3)), axis=1)
    spent = np.round(rng.lognormal(4.0, 1.0, (CUSTOMERS, 3)), 2)
    found = {
        b"c%05d" % i: [order(f"{i}-{j}", T0 + int(days[i, j]), float(spent[i, j])) for j in range(1 + i % 3)]
        for i in range(CUSTOMERS)
    }
    # The clock, however the customers are distributed over shards.
    found[b"last"] = [order("last", T0 + 300 * DAY_MS, 30.0)]
    return found


def started(arguments: list[str], threads: str, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    """Run Python with so many threads."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | variables | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def said(process: subprocess.Popen[bytes]) -> bytes:
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err.decode()
    return out


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["rfm", "rhythm"])
def test_the_same_bytes_on_two_threads_and_over_eight_partitions(
    recipe: str, settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    entries, command = (
        unsegmented_customers(),
        ["-m", "trainer.cli", "run", "--k", "5", "--force", "--dry-run", "--without-kafka", "--out"],
    )
    running = []
    for threads, partitions in (("1", 1), ("2", 8)):
        worker = settings_for(time="event", partitions=partitions)
        fill(worker, entries)
        variables = environment(worker) | {
            "SEGSTREAM_TRAINER_STABILITY_ROUNDS": "1",
            "SEGSTREAM_TRAINER_RECIPE": recipe,
        }
        running.append(started([*command, str(tmp_path / threads)], threads, variables))
    for process in running:
        said(process)
    [(name, content)] = {(path.name, path.read_bytes()) for path in tmp_path.glob("*/model-*.json")}
    assert len(list(tmp_path.glob("*/model-*.json"))) == 2
    assert SegmentModel.from_json(content).training.customers == CUSTOMERS + 1
    assert name == f"model-{SegmentModel.from_json(content).version}.json"


@pytest.mark.slow
def test_the_same_bytes_where_the_search_takes_a_sample() -> None:
    running = [started(["-c", _LARGE], threads, {}) for threads in ("1", "2")]
    [content] = {said(process) for process in running}
    assert SegmentModel.from_json(content).training.customers == 104_000
