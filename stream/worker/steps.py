"""The steps, built from the settings."""

from __future__ import annotations

from segmentation.campaigns import CampaignStep
from segmentation.scoring import ScoringStep
from segmentation.step import Step
from stream.campaigns.step import step_under
from stream.settings import Settings
from stream.worker.rules_file import rules_of


def scoring_step(settings: Settings) -> ScoringStep:
    """Return the step from orders to moves."""
    return ScoringStep.of(settings.agreed, settings.partitions)


def campaign_step(settings: Settings) -> CampaignStep:
    """Return the step from moves to campaign actions, with the rules of the settings. Raises RulesUnusable."""
    return step_under(settings, rules_of(settings.rules_file), event_time=settings.time == "event")


def step_of(settings: Settings, step: str) -> Step:
    """Return a step by its name, scoring or campaigns."""
    return scoring_step(settings) if step == "scoring" else campaign_step(settings)
