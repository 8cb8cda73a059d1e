"""The step against the definition, over ten years of event time, cut anyhow: no move is missed, early or doubled."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.oracles.step_checks import cut_anywhere, ten_years

EXAMPLES = int(os.environ.get("EXAMPLES", "20"))
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
SEEDS = st.integers(0, 2**63 - 1)


@many
@given(SEEDS)
def test_cut_anywhere_the_moves_are_those_of_the_definition(seed: int) -> None:
    cut_anywhere(seed)


@many
@given(SEEDS)
def test_ten_years_without_a_move_missed_early_or_doubled(seed: int) -> None:
    ten_years(seed)
