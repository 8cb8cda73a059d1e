"""Stopping a long command in good order: Ctrl-C and SIGTERM set an event, and the command ends with exit code 130."""

from __future__ import annotations

import asyncio
import signal
from typing import Final

INTERRUPTED: Final = 130  # the exit code by which shells report that Ctrl-C ended a program


def interruption() -> asyncio.Event:
    """Return an event that Ctrl-C or a SIGTERM sets from now on, instead of ending the process."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop
