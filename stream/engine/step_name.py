"""The names of the steps whose shards the commands look at. Imports nothing, as every command line reads it."""

from __future__ import annotations

from enum import StrEnum


class StepName(StrEnum):
    """Whose shards."""

    SCORING = "scoring"
    CAMPAIGNS = "campaigns"
