"""A run whose workers never get ready measures nothing, and says so."""

from __future__ import annotations

import pytest

from bench.harness.errors import BenchError
from bench.scenarios import rolling
from stream.settings import Settings


class _NoWorker:
    def end(self) -> None:
        pass


async def test_workers_that_are_never_ready_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling, "_READY_S", 0.1)
    with pytest.raises(BenchError, match="aren't ready"):
        await rolling.measure_rolling(
            Settings(),
            lambda _: _NoWorker(),  # type: ignore[arg-type, return-value]
            lambda: False,
            rate=1,
            warm_up_s=0,
            calm_s=0,
        )
