"""The steps, built from the settings."""

from __future__ import annotations

from segmentation.campaigns import CampaignStep
from segmentation.partitioners import PARTITIONERS
from segmentation.routing import Routing
from segmentation.scoring import ScoringStep
from segmentation.step import Step
from stream.settings import Settings
from stream.worker.rules_file import rules_of


def scoring_step(settings: Settings) -> ScoringStep:
    """Return the step from orders to moves."""
    return ScoringStep.of(settings.agreed, settings.partitions)


def campaign_step(settings: Settings) -> CampaignStep:
    """Return the step from moves to campaign actions, with the rules of the settings. Raises RulesUnusable."""
    return CampaignStep(
        rules_of(settings.rules_file),
        settings.group,
        adopted=settings.model_moves == "adopt",
        event_time=settings.time == "event",
        routing=Routing(PARTITIONERS[settings.partitioner], settings.partitions),
        tolerance_ms=settings.future_tolerance_s * 1000,
    )


def step_of(settings: Settings, step: str) -> Step:
    """Return a step by its name, scoring or campaigns."""
    return scoring_step(settings) if step == "scoring" else campaign_step(settings)
