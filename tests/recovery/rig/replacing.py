"""How tests take something out of the engine: production code has no switches, so attributes are replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Replaces an attribute, for good or until a test ends: (object, name, new value).
Replace = Callable[[Any, str, Any], None]
TakeOut = Callable[[Replace], None]


def for_good(where: Any, name: str, value: Any) -> None:
    """Replace an attribute for the life of the process."""
    assert hasattr(where, name)
    setattr(where, name, value)
