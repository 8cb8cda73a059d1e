"""Seeds whose runs show a fault that isn't mended yet. Runs of many seeds name them, and fail for all others.

A seed that passes again must be taken out: it fails the run, too.
"""

from __future__ import annotations

from typing import Final

KNOWN: Final[dict[int, str]] = {}
