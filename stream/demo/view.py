"""The output of a demo: a live display on a terminal, plain lines elsewhere, and the tables at the end."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Console, Group  # noqa: TID251  # a type
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stream.consoles import console as output_console
from stream.consoles import error_console
from stream.demo.report import ERASED, NEW
from stream.demo.worth import AHEAD_DAYS, ANYWAY_DAYS
from stream.progress import PlainLines
from stream.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.demo.report import DemoResult
    from stream.demo.worth import DemoWorth

_EVERY_S: Final = 3.0
_WIDTH: Final = 140  # where the output isn't a terminal
_BAR: Final = 40


@dataclass(slots=True)
class DemoProgress:
    """The state of a demo. `sent` of `total` orders; `at`: the day that the replay has reached; `lag`: records."""

    total: int = 0
    sent: int = 0
    at: str = ""
    orders_per_s: float = 0.0
    lag: int = 0
    moves: int = 0
    actions: int = 0
    segments: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """Return the state as one line.

        >>> DemoProgress(total=2000, sent=1000, at="1997-01-02", orders_per_s=500.0, lag=3).line()
        'sent 1,000 of 2,000 orders, up to 1997-01-02, 500 orders/s; 3 to process; 0 moves, 0 actions'
        """
        rate = f", {self.orders_per_s:,.0f} orders/s" if self.orders_per_s else ""
        day = f", up to {self.at}" if self.at else ""
        sent = f"sent {self.sent:,} of {self.total:,} orders{day}{rate}"
        return f"{sent}; {self.lag:,} to process; {self.moves:,} moves, {self.actions:,} actions"


class View(Protocol):
    """A display of a demo's progress."""

    def shown(self) -> AbstractContextManager[object]:
        """Return a context in which the display is shown."""

    def phase(self, title: str) -> None:
        """Begin a new phase."""

    def note(self, line: str) -> None:
        """Show a step of the phase; on a terminal it replaces the step before."""

    def tick(self, progress: DemoProgress) -> None:
        """Show the present state."""


class PlainView:
    """Plain lines: one for each phase, and one every three seconds while something changes.

    >>> ticks, written = iter([0.0, 1.0, 4.0, 8.0]), []
    >>> view = PlainView(written.append, clock=lambda: next(ticks))
    >>> view.phase("waiting"); view.tick(DemoProgress()); view.tick(DemoProgress()); view.tick(DemoProgress())
    >>> written
    ['waiting', '  sent 0 of 0 orders; 0 to process; 0 moves, 0 actions']
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._last_s = 0.0
        self._line = ""
        self._notes = PlainLines(lambda line: write(f"  {line}"))

    def shown(self) -> AbstractContextManager[object]:
        """Return a context that does nothing."""
        return nullcontext()

    def phase(self, title: str) -> None:
        """Write the title."""
        self._last_s = self._clock()
        self._write(title)

    def note(self, line: str) -> None:
        """Write the line; one that only counts up is written now and then."""
        self._notes(line)

    def tick(self, progress: DemoProgress) -> None:
        """Write the state if it is another one, and the last line is three seconds old."""
        now_s, line = self._clock(), progress.line()
        if now_s - self._last_s >= _EVERY_S and line != self._line:
            self._last_s, self._line = now_s, line
            self._write(f"  {line}")


class LiveView:
    """A display that is updated in place, below the finished phases."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._console = console
        self._title = ""
        self._began_s = 0.0

    def shown(self) -> AbstractContextManager[object]:
        """Return a context in which the display is shown."""
        return self._live

    def phase(self, title: str) -> None:
        """Print the finished phase with its time, and begin the next one."""
        now_s = time.monotonic()
        if self._title:
            self._console.print(f"[green]✓[/] {self._title} [dim]{now_s - self._began_s:.1f} s[/]", highlight=False)
        self._title, self._began_s = title, now_s
        self.note("")

    def note(self, line: str) -> None:
        """Show the line below the phase's title."""
        self._live.update(Group(self._heading(), Text(f"  {line}", style="dim")))

    def tick(self, progress: DemoProgress) -> None:
        """Show the state, and a bar for each segment."""
        table = Table.grid(padding=(0, 2))
        most = max(progress.segments.values(), default=0)
        for segment, customers in sorted(progress.segments.items(), key=lambda item: -item[1]):
            if customers:
                bar = "█" * max(round(_BAR * customers / most), 1)
                table.add_row(f"  {segment}", f"{customers:,}", Text(bar, style="cyan"))
        self._live.update(Group(self._heading(), Text(f"  {progress.line()}"), table))

    def _heading(self) -> Text:
        return Text(f"… {self._title}", style="bold")


def choose_view() -> View:
    """Return a display on stderr, as stdout is for the result: live on a terminal, plain lines elsewhere."""
    console = error_console()
    return LiveView(console) if console.is_terminal else PlainView(lambda line: echo(line, err=True))


def show_result(result: DemoResult, console: Console) -> None:
    """Print the result of a demo."""
    _show_throughput(result, console)
    console.print(_segments(result))
    console.print(_matrix(result))
    causes = ", ".join(f"{cause} {moves:,}" for cause, moves in result.causes.items())
    console.print(f"{result.check.moves:,} moves, by cause: {causes or 'none'}.")
    console.print(f"\n{result.actions:,} campaign actions, for example:")
    for line in result.action_examples:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    if result.stories:
        console.print("\nExamples of customers:")
    for story in result.stories:
        console.print(f"  {story}", markup=False, soft_wrap=True)
    _show_worth(result, console)
    console.print(f"\n{verdict(result)}", markup=False, soft_wrap=True)
    console.print("Files:")
    for what, path in result.files.items():
        console.print(f"  {what.replace('_', ' '):<12} {path}", markup=False, soft_wrap=True)


def result_console() -> Console:
    """Return a console on stdout, wide enough for the tables if stdout isn't a terminal."""
    return output_console(_WIDTH)


def verdict(result: DemoResult) -> str:
    """Return the outcome of the check as one line."""
    check = result.check
    if check.passed:
        return (
            f"Checked by reading all committed records of segment-changes again: {check.moves:,} moves of "
            f"{check.customers:,} customers, none missing in any customer's chain, no move published twice, and each "
            "customer's stored segment is that of the last move."
        )
    return (
        f"CHECK FAILED: of {check.moves:,} moves {check.broken:,} don't continue the one before, {check.duplicates:,} "
        f"were published twice; {check.strangers:,} customers are stored with another segment than that of their last "
        "move."
    )


def _show_throughput(result: DemoResult, console: Console) -> None:
    left_out = ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(result.left_out.items()))
    history, live = result.history, result.live
    console.print(
        f"\n{result.orders:,} orders of {result.source}{f' (left out: {left_out})' if left_out else ''}: "
        f"[bold]{result.orders_per_s:,.0f} orders/s[/], from sending the first one until every order was scored and "
        "every move published.",
        soft_wrap=True,
    )
    console.print(
        f"  {history.orders:,} orders before {result.train_at[:10]} merged in {history.seconds:.1f} s "
        f"({history.orders_per_s:,.0f} orders/s); {live.orders:,} orders from then to {result.until[:10]} scored one "
        f"by one in {live.seconds:.1f} s ({live.orders_per_s:,.0f} orders/s).",
        soft_wrap=True,
    )
    if result.dead_letters:
        console.print(f"  {result.dead_letters:,} records couldn't be used: see {result.files['dead_letters']}.")


def _segments(result: DemoResult) -> Table:
    table = Table(title=f"\n{result.customers:,} customers as of {result.until[:10]}", title_justify="left")
    table.add_column("segment")
    for heading in ("customers", "share", f"{result.currency} in the window", "share"):
        table.add_column(heading, justify="right")
    money = sum(float(line.monetary) for line in result.segments)
    for line in result.segments:
        customers, spent = line.customers, float(line.monetary)
        table.add_row(
            line.segment, f"{customers:,}", _share(customers, result.customers), f"{spent:,.2f}", _share(spent, money)
        )
    return table


def _show_worth(result: DemoResult, console: Console) -> None:
    """Print what the segments and campaigns were worth."""
    worth = result.worth
    before, after = worth_sentences(worth)
    console.print("\n".join(["\nWorth acting on?", *before]), markup=False, soft_wrap=True)
    if worth.segments:
        console.print(_judged(worth))
    console.print("\n".join(after), markup=False, soft_wrap=True)


def worth_sentences(worth: DemoWorth) -> tuple[list[str], list[str]]:
    """Return the sentences on the worth of segments and campaigns: those before the table of segments, and the rest."""
    [(days, share), *others] = worth.back.items()
    more = "".join(f", {share:.1%} within {days}" for days, share in others)
    moved = f"  A customer moved {worth.moves_per_year:.1f} times a year"
    before = [f"{moved}; {share:.1%} of the moves went back within {days} days{more}."]
    if worth.judged_at is not None:
        before.append(f"  The customers of {worth.judged_at[:10]}, and the {AHEAD_DAYS} days from then on:")
    after = []
    if worth.rankings:
        segments, recency = worth.rankings["segments"], worth.rankings["recency"]
        after.append(
            "  Of a customer who bought then and one who didn't, the segments ranked the buyer higher in "
            f"{segments.auc:.0%} of all pairs; recency alone in {recency.auc:.0%}."
        )
        after.append(
            f"  The best tenth by segment spent {segments.top_tenth:.0%} of the money; by recency alone "
            f"{recency.top_tenth:.0%}."
        )
    if worth.campaigns:
        after.append(f"  Campaigns: {', '.join(f'{name} {actions:,}' for name, actions in worth.campaigns.items())}.")
        after.append(
            f"  Discounts: {worth.discounts:,}, of which {worth.needless_discounts:,} to customers who ordered within "
            f"{ANYWAY_DAYS} days and may not have needed one."
            if worth.discounts
            else "  No discounts."
        )
    return before, after


def _judged(worth: DemoWorth) -> Table:
    table = Table()
    table.add_column("segment")
    for heading in ("customers", "bought again", "share of the money"):
        table.add_column(heading, justify="right")
    for line in worth.segments:
        table.add_row(line.segment, f"{line.customers:,}", f"{line.bought:.1%}", f"{line.money:.1%}")
    return table


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _matrix(result: DemoResult) -> Table:
    """Return the matrix of moves, from a row to a column."""
    moves = {(step.from_, step.to): step.moves for step in result.matrix}
    names = [line.segment for line in result.segments]
    known = {name for step in result.matrix for name in (step.from_, step.to)}
    rows = [n for n in (NEW, *names) if n in known]
    columns = [n for n in (*names, ERASED) if n in known]
    table = Table(title="\nmoves from (row) to (column)", title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row, *(f"{moves[row, c]:,}" if (row, c) in moves else "·" for c in columns))
    return table
