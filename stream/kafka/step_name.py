"""The names of the steps. Without imports, because every start of `segstream` reads this."""

from __future__ import annotations

from enum import StrEnum


class StepName(StrEnum):
    """A step: scoring of orders, or campaigns for moves."""

    SCORING = "scoring"
    CAMPAIGNS = "campaigns"
