"""The names of the recipes. Imports nothing, as every command line of `segtrainer` reads it."""

from __future__ import annotations

from typing import Literal

RecipeName = Literal["default", "textbook", "tutorial"]
