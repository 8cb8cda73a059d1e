"""An operator's command covers what a torn turn left, for each step: their notes differ."""

from __future__ import annotations

import pytest

from segmentation.campaigns import CampaignState
from segmentation.moves import NOTE
from stream.repair.step_over import covering
from stream.settings import Settings
from stream.storage.heads import KafkaHead
from stream.storage.output_log import LoggedOutput, OutputMark
from stream.worker.steps import step_of


@pytest.mark.parametrize(
    ("step", "note", "latest"),
    [("scoring", NOTE.pack(3, 1, 9), b"a move"), ("campaigns", CampaignState().pack(), None)],
)
def test_torn_outputs_are_covered_by_the_rules_of_their_step(step: str, note: bytes, latest: bytes | None) -> None:
    torn = LoggedOutput(OutputMark(8, 60, 12, 2, "v"), 70, b"c1", b"a move", [], note)
    covered = covering(KafkaHead(50, 7, 9, 1), [torn], step_of(Settings(), step))
    assert (covered.head.offset, covered.head.count, covered.head.clock, covered.head.activation) == (50, 8, 12, 2)
    assert [output.latest for output in covered.outputs] == [latest]
