"""Tables on stdout. Imports Rich, so commands import this when they print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def console(width: int = 140) -> Console:
    """Return a console on stdout; `width` counts where stdout isn't a terminal."""
    # Not `Console.is_terminal`: FORCE_COLOR makes that true for a pipe, which has no width.
    return Console(highlight=False, width=None if sys.stdout.isatty() else width)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table without frame. A heading that begins with > aligns its column to the right."""
    columns = (Column(h.lstrip(">"), justify="right" if h.startswith(">") else "left") for h in headings)
    found = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        found.add_row(*row)
    return found
