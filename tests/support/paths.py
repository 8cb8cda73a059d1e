"""Where the tests find the repository and the real orders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
# Real orders with their golden figures. Tests that need them skip where the folder doesn't exist.
TEST_DATA: Final = Path(os.environ.get("SEGSTREAM_TEST_DATA", ROOT.parent / "shared" / "data"))
EVERY_MOVE: Final = ROOT / "tests" / "support" / "data" / "every_move.yaml"  # rules that act on nearly everything
