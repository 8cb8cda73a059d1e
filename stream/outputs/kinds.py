"""The kinds of output. Without imports, because every start of `segstream` reads this."""

from __future__ import annotations

from enum import StrEnum


class OutputKind(StrEnum):
    """An output topic, or the dead letters."""

    CHANGES = "changes"
    ACTIONS = "actions"
    DELIVERIES = "deliveries"
    DEAD_LETTERS = "dead-letters"
