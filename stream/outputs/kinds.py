"""The kinds of output that can be followed. Imports nothing, as every command line reads it."""

from __future__ import annotations

from enum import StrEnum


class OutputKind(StrEnum):
    """What can be followed."""

    CHANGES = "changes"
    ACTIONS = "actions"
    DEAD_LETTERS = "dead-letters"
