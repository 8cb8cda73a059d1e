"""The progress of a long command on stderr: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from stream.consoles import error_console
from stream.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    ShowProgress = Callable[[int, str], None]  # (how much is done, a word beside it)

_SAME_LINE_S: Final = 2.0  # between two lines that differ only in their count
_LINE_S: Final = 3.0  # between two lines of progress


@contextmanager
def progress_bar(label: str, total: int | None = None) -> Iterator[ShowProgress]:
    """Show progress while the block runs, which calls the yielded function. `total` None: unknown."""
    console = error_console()
    if not console.is_terminal:
        yield PlainProgress(label, total, lambda line: echo(line, err=True))
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[beside]}"), console=console) as bar:
        task = bar.add_task(label, total=total, beside="")

        def update(done: int, beside: str = "") -> None:
            bar.update(task, completed=done, beside=beside)

        yield update
        if total is not None:
            bar.update(task, completed=total)


class PlainProgress:
    """Writes a line at most every three seconds, the first after three: a short command needs none.

    >>> ticks = iter([0.0, 1.0, 3.5, 4.0])
    >>> show = PlainProgress("sending", 9000, print, clock=lambda: next(ticks))
    >>> for done in (1000, 2000, 3000):
    ...     show(done, "1997-01-02")
    sending: 2,000 of 9,000, 1997-01-02
    """

    def __init__(
        self, label: str, total: int | None, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._label = label
        self._of = "" if total is None else f" of {total:,}"
        self._write = write
        self._clock = clock
        self._last_s = clock()

    def __call__(self, done: int, beside: str = "") -> None:
        """Write the line, or skip it."""
        now_s = self._clock()
        if now_s - self._last_s >= _LINE_S:
            self._last_s = now_s
            self._write(f"{self._label}: {done:,}{self._of}" + (f", {beside}" if beside else ""))


class PlainLines:
    """A Report for logs and pipes. A line that only counts on ("downloading: 12 of 45") is written at most every 2 s.

    >>> written, ticks = [], iter([0.0, 0.1, 0.2, 5.0])
    >>> lines = PlainLines(written.append, clock=lambda: next(ticks))
    >>> for line in ["loading: 1 of 3", "loading: 2 of 3", "loading: 3 of 3", "starting"]:
    ...     lines(line)
    >>> written
    ['loading: 1 of 3', 'loading: 3 of 3', 'starting']
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._last = ""
        self._last_s = 0.0

    def __call__(self, line: str) -> None:
        """Write the line, or skip it."""
        now_s = self._clock()
        stem, _, count = line.rpartition(": ")
        done, _, total = count.partition(" of ")
        continues = bool(stem) and stem == self._last and done != total.partition(" ")[0]
        if continues and now_s - self._last_s < _SAME_LINE_S:
            return
        self._last, self._last_s = stem, now_s
        self._write(line)
