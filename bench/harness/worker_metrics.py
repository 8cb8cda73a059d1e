"""A worker's own metrics, read from /metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from stream.local.machine import HOST

_TURN: Final = "segstream_turn_seconds"
_TIMEOUT_S: Final = 10.0


def read(port: int) -> list[Sample]:
    """Return all samples of the worker at this port. Raises OSError."""
    connection = HTTPConnection(HOST, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


@dataclass(frozen=True, slots=True)
class TurnHistogram:
    """A worker's turns: by bound in seconds (the last: infinity) how many took at most that, and their total time."""

    within: Mapping[float, float]
    seconds: float

    @classmethod
    def of(cls, samples: list[Sample]) -> TurnHistogram:
        """Return the histogram in these samples."""
        within = {float(s.labels["le"]): s.value for s in samples if s.name == f"{_TURN}_bucket"}
        return cls(within, sum(s.value for s in samples if s.name == f"{_TURN}_sum"))

    def since(self, before: TurnHistogram) -> TurnHistogram:
        """Return the turns after `before`."""
        within = {bound: count - before.within.get(bound, 0) for bound, count in self.within.items()}
        return TurnHistogram(within, self.seconds - before.seconds)

    @property
    def mean_ms(self) -> float | None:
        """The mean duration; None: there were no turns.

        >>> TurnHistogram({0.1: 3, 0.5: 4, float("inf"): 4}, 0.5).mean_ms
        125.0
        """
        count = max(self.within.values(), default=0)
        return round(self.seconds / count * 1e3, 1) if count else None

    def bound_ms(self, share: float) -> float | None:
        """Return the least bound that this share of the turns keeps; None: no turns, or beyond the last bound.

        >>> TurnHistogram({0.1: 3, 0.5: 4, float("inf"): 4}, 0.5).bound_ms(0.75)
        100.0
        """
        count = max(self.within.values(), default=0)
        kept = [bound for bound, some in sorted(self.within.items()) if some >= share * count]
        return kept[0] * 1e3 if count and kept[0] < float("inf") else None
