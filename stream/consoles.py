"""Consoles and tables of Rich. Imports Rich, so commands import this when they print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console  # noqa: TID251  # the one place
from rich.table import Column, Table
from rich.text import Text

from stream.terminal import harmless, harmless_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WIDTH = 140


class HarmlessConsole(Console):
    """A console that escapes what steers a terminal in every text that it is given, as `terminal.echo` does."""

    def render_str(self, text: str, *args: Any, **named: Any) -> Text:
        """Return the text as Rich's; Rich calls this for each string to print, the cells of tables included."""
        return super().render_str(harmless_lines(text), *args, **named)


def console(width: int = _WIDTH) -> Console:
    """Return a console on stdout; `width` counts where stdout isn't a terminal."""
    # Not `Console.is_terminal`: FORCE_COLOR makes that true for a pipe, which has no width.
    return HarmlessConsole(highlight=False, width=None if sys.stdout.isatty() else width)


def error_console() -> Console:
    """Return a console on stderr."""
    return HarmlessConsole(stderr=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table without frame. A heading that begins with > aligns its column to the right.

    A cell is shown as it is: brackets in it aren't Rich's markup.
    """
    columns = (Column(h.lstrip(">"), justify="right" if h.startswith(">") else "left") for h in headings)
    found = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        found.add_row(*(Text(harmless(cell)) if isinstance(cell, str) else cell for cell in row))
    return found
