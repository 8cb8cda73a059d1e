"""Streams merged half by format 1 and half by the present one, against streams that never knew format 1.

EXAMPLES=20000 for a long run.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from segmentation import life
from segmentation.rfm import absorb_bytes, advance_bytes, announcement, unpack, with_announcement, with_mute
from segmentation.state_bytes import EMPTY
from segmentation.state_former import current, entries_of
from tests.support.data.event_streams import Arrival, Scene, made, scenes, seeds, stream
from tests.support.oracles import batch
from tests.support.oracles.batch import OracleEvent, figures
from tests.support.oracles.former import former_bytes
from tests.support.oracles.lives import without_life

EXAMPLES = int(os.environ.get("EXAMPLES", "300"))
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture(autouse=True)
def _days_on_a_small_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (life, batch):
        monkeypatch.setattr(module, "DAY_MS" if module is life else "DAY", 30)


def plain(scene: Scene) -> Scene:
    """Leave the revisions out: format 1 knew none."""
    return Scene(scene.rules, {e._replace(revision=-1) for e in scene.events})


def merged(value: bytes, arrivals: list[Arrival], scene: Scene) -> bytes:
    for t, e in arrivals:
        if e is None:
            value = advance_bytes(value, t, scene.rules)
        else:
            value, _ = absorb_bytes(value, made(e), t, scene.rules)
    return value


@many
@given(scenes, seeds, st.floats(0, 1), st.integers(0, 400), st.booleans())
def test_a_stream_that_changes_formats_half_way(
    drawn: Scene, seed: int, half: float, wait: int, migrated: bool
) -> None:
    scene = plain(drawn)
    rules, arrivals = scene.rules, stream(scene, seed, punctual=True)
    end = arrivals[-1][0] + wait
    at = round(half * len(arrivals))
    seen: set[OracleEvent] = {e for _, e in arrivals[:at] if e is not None}
    t = arrivals[at - 1][0] if at else arrivals[0][0]
    former = former_bytes(seen, t, rules)
    assert [e.key for e in entries_of(former)] == [e.key for e in unpack(current(former, rules)).entries]
    former = with_mute(with_announcement(former, 3, 2, 7), 4)
    always = with_mute(with_announcement(merged(EMPTY, arrivals[:at], scene), 3, 2, 7), 4)
    # Rewritten by the background's slices, or by the first event that touches it: that may not show.
    changed = merged(current(former, rules) if migrated else former, arrivals[at:], scene)
    changed, always = (
        advance_bytes(changed, end, rules),
        advance_bytes(merged(always, arrivals[at:], scene), end, rules),
    )
    assert without_life(changed) == without_life(always)
    assert announcement(changed) == (3, 2, 7)
    state, lives = unpack(changed), unpack(always)
    assert (state.last, state.frequency, state.monetary) == figures(scene.events, end, rules)
    if state.folded.whole and lives.folded.whole and not lives.folded.orders and not lives.folded.money:
        assert state.life == lives.life
    event("partial" if not state.folded.whole else "whole")


@many
@given(scenes, seeds, st.integers(0, 400))
def test_a_state_keeps_its_figures_in_the_present_format(drawn: Scene, seed: int, wait: int) -> None:
    scene = plain(drawn)
    rules, arrivals = scene.rules, stream(scene, seed, punctual=True)
    t = arrivals[-1][0] + wait
    state = unpack(current(former_bytes(scene.events, t, rules), rules))
    assert (state.last, state.frequency, state.monetary) == figures(scene.events, t, rules)
    expected = batch.life(scene.events, t, rules)
    if state.folded.whole:
        assert (state.life.orders, state.life.money) == (expected.orders, expected.money)
    assert state.life.orders <= expected.orders
