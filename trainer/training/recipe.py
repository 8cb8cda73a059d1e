"""The names of the recipes. Without imports, because every start of `segtrainer` reads this."""

from __future__ import annotations

from typing import Literal

RecipeName = Literal["default", "textbook", "tutorial"]
