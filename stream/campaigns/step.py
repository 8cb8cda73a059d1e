"""The campaign step of a deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentation.campaigns import CampaignStep
from segmentation.partitioners import PARTITIONERS
from segmentation.routing import Routing

if TYPE_CHECKING:
    from segmentation.campaign_rules import RuleTable
    from stream.settings import Settings


def step_under(settings: Settings, table: RuleTable, *, event_time: bool) -> CampaignStep:
    """Return the step from moves to decisions by these rules. `event_time`: as of the moves, else as of the present."""
    return CampaignStep(
        table,
        settings.group,
        adopted=settings.model_moves == "adopt",
        event_time=event_time,
        routing=Routing(PARTITIONERS[settings.partitioner], settings.partitions),
        tolerance_ms=settings.future_tolerance_s * 1000,
    )
