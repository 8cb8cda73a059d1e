"""A sampling profiler of CPU time: `python -m bench.harness.sampler OUT MODULE ARGUMENTS…`.

A signal every few milliseconds of CPU time looks at the stack; the innermost frame that belongs to a stage of the work
gets the sample. Unlike under cProfile, functions that are called often aren't slowed down. Waiting isn't counted.
"""

from __future__ import annotations

import json
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

INTERVAL_S: Final = 0.005
REST: Final = "event loop and the rest"
START: Final = "start-up"
# Stage of the work, part of the file's path, functions (empty: all of the file). The first match counts.
STAGES: Final[tuple[tuple[str, str, frozenset[str]], ...]] = (
    (START, "<frozen importlib", frozenset()),
    ("consume", "aiokafka/consumer/", frozenset()),
    ("consume", "stream/engine/log_reader.py", frozenset()),
    ("decode", "segmentation/decoder.py", frozenset()),
    ("merge", "segmentation/merging.py", frozenset()),
    ("score", "segmentation/decisions.py", frozenset({"score"})),
    ("search for the next move", "segmentation/decisions.py", frozenset({"search", "staying", "_first_segment"})),
    ("moves by time", "segmentation/decisions.py", frozenset({"move_by_time"})),
    ("write moves", "segmentation/moves.py", frozenset()),
    ("batches and turns", "segmentation/scoring.py", frozenset()),
    ("batches and turns", "stream/engine/turns.py", frozenset()),
    ("Redis", "stream/engine/store.py", frozenset()),
    ("Redis", "/redis/", frozenset()),
    ("Kafka out", "stream/engine/ledger.py", frozenset()),
    ("Kafka out", "aiokafka/producer/", frozenset()),
    ("Kafka's connections, both ways", "aiokafka/conn.py", frozenset()),
)


def stage_of(path: str, function: str) -> str | None:
    """Return the stage that a function belongs to; None: the stage of its caller.

    >>> stage_of("/x/segmentation/merging.py", "merge_next"), stage_of("/x/segmentation/rfm.py", "append")
    ('merge', None)
    """
    for stage, part, functions in STAGES:
        if part in path and (not functions or function in functions):
            return stage
    return None


class Sampler:
    """Counts samples by stage."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._stages: dict[CodeType, str | None] = {}

    def sample(self, _: int, frame: FrameType | None) -> None:
        """Count one sample for the innermost stage on the stack. A signal handler."""
        while frame is not None:
            code = frame.f_code
            if code not in self._stages:
                self._stages[code] = stage_of(code.co_filename, code.co_name)
            if (stage := self._stages[code]) is not None:
                self.counts[stage] += 1
                return
            frame = frame.f_back
        self.counts[REST] += 1


def shares(counts: dict[str, int]) -> dict[str, float]:
    """Return each stage's share of 1, largest first, without the start-up.

    >>> shares({"decode": 1, "merge": 3, "start-up": 9})
    {'merge': 0.75, 'decode': 0.25}
    """
    kept = {stage: count for stage, count in counts.items() if stage != START}
    total = sum(kept.values())
    return {stage: round(count / total, 4) for stage, count in sorted(kept.items(), key=lambda item: -item[1])}


def main() -> None:
    """Run the module as a program, sample it, and write the counts as JSON when it ends."""
    out, module = Path(sys.argv[1]), sys.argv[2]
    sys.argv[1:] = sys.argv[3:]
    sampler = Sampler()
    signal.signal(signal.SIGPROF, sampler.sample)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write_text(json.dumps(sampler.counts), encoding="utf-8")


if __name__ == "__main__":
    main()
