"""Most of these tests are about what a run does with any model: they take recency, frequency and money to make one."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def recipe_by_centroids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGSTREAM_TRAINER_RECIPE", "rfm")
