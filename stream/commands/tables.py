"""Tables on stdout. Imports Rich, so commands import this when they print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Column, Table
from rich.text import Text

from stream.consoles import console
from stream.terminal import harmless

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["console", "table"]


def table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table without frame. A heading that begins with > aligns its column to the right.

    A cell is shown as it is: brackets in it aren't Rich's markup.
    """
    columns = (Column(h.lstrip(">"), justify="right" if h.startswith(">") else "left") for h in headings)
    found = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        found.add_row(*(Text(harmless(cell)) if isinstance(cell, str) else cell for cell in row))
    return found
