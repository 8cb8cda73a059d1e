"""`segstream dead-letters redrive`: records that couldn't be used, sent back after a fix."""

from __future__ import annotations

import asyncio
import signal
from enum import StrEnum
from typing import Annotated, Final

import msgspec
import typer

from segmentation.events import Reason
from stream.commands.options import AsJson
from stream.dead_letters.reasons import FIXABLE
from stream.dead_letters.redrive import RedriveReport, redrive
from stream.dead_letters.routing import LEFT_REASONS, Selection
from stream.progress import progress_bar
from stream.settings import Settings, load_settings

app = typer.Typer(no_args_is_help=True, help="Records that couldn't be used.")

_INTERRUPTED: Final = 130  # as shells tell a program that Ctrl-C has ended


class RedriveTopic(StrEnum):
    """Whose dead letters."""

    ORDERS = "orders"
    CHANGES = "changes"


@app.callback()
def _group() -> None:
    """Keep `redrive` a command of its own, though it is the only one."""


@app.command("redrive")
def redrive_command(
    *,
    reason: Annotated[
        list[Reason] | None,
        typer.Option(metavar="REASON", show_default=", ".join(FIXABLE), help="Only this reason; may be repeated."),
    ] = None,
    topic: Annotated[
        RedriveTopic, typer.Option(help="Dead letters of the orders, or of the moves.")
    ] = RedriveTopic.ORDERS,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", show_default="all", help="At most so many.")] = None,
    controls: Annotated[bool, typer.Option("--controls", help="Controls (clocks, models) too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing, tell what would be sent.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters back to where they came from, each once; those with a wrong key to be keyed anew."""
    settings = load_settings()
    letters = (
        settings.orders_dead_letters_topic if topic is RedriveTopic.ORDERS else settings.changes_dead_letters_topic
    )
    selection = Selection(frozenset(str(r) for r in (reason or FIXABLE)), controls)
    report = asyncio.run(_redriven(settings, letters, selection, limit, dry_run=dry_run))
    typer.echo(msgspec.json.encode(report).decode() if as_json else summary(report))
    for why, count in report.left.items():
        typer.echo(f"{count:,} left: {LEFT_REASONS[why]}.", err=True)
    if report.interrupted:
        typer.echo("interrupted: the same command again sends the rest.", err=True)
        raise typer.Exit(_INTERRUPTED)


async def _redriven(
    settings: Settings, letters: str, selection: Selection, limit: int | None, *, dry_run: bool
) -> RedriveReport:
    """Redrive until done, or until Ctrl-C or a SIGTERM: then what is under way is still committed."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with progress_bar(f"reading {letters}") as show:
        return await redrive(
            settings,
            letters,
            selection,
            limit=limit,
            dry_run=dry_run,
            stop=stop,
            progress=lambda done, total, sent: show(done, f"of {total:,}; {sent:,} sent back"),
        )


def summary(report: RedriveReport) -> str:
    """Write the report for people.

    >>> summary(RedriveReport("d", {"step_failed": 2}, {"orders": 2}, {}, False, False, False))
    'sent back 2: 2 step_failed; to orders'
    >>> summary(RedriveReport("d", {}, {}, {}, True, False, False))
    'would send back 0: d has nothing (more) of these reasons'
    """
    line = f"{'would send' if report.dry_run else 'sent'} back {sum(report.sent.values()):,}: "
    if not report.sent:
        return f"{line}{report.topic} has nothing (more) of these reasons"
    line += ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.sent.items()))
    line += f"; to {', '.join(sorted(report.to))}"
    return line + ("; there may be more (--limit)" if report.limited else "")
