"""Consoles of Rich, for tables and progress. Imports Rich, so commands import this when they print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console  # noqa: TID251  # the one place

from stream.terminal import harmless_lines

if TYPE_CHECKING:
    from rich.text import Text

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
