"""`segstream dead-letters redrive`: dead letters sent back, after the cause has been fixed."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from segmentation.events import Reason
from stream.commands.options import AsJson
from stream.dead_letters.reasons import FIXABLE
from stream.hosting.interruption import INTERRUPTED, interruption
from stream.terminal import echo

if TYPE_CHECKING:
    from stream.dead_letters.redrive import RedriveReport
    from stream.dead_letters.routing import Selection
    from stream.settings import Settings

app = typer.Typer(
    name="dead-letters",
    no_args_is_help=True,
    help="Send dead letters back after you have fixed the cause.",
)


class RedriveTopic(StrEnum):
    """The topic whose dead letters are sent back."""

    ORDERS = "orders"
    CHANGES = "changes"


Reasons = Annotated[
    list[Reason] | None,
    typer.Option(
        metavar="REASON",
        show_default=", ".join(FIXABLE),
        help="Only dead letters with this reason; may be repeated.",
    ),
]


@app.callback()
def _group() -> None:
    # Makes Typer keep `redrive` as a command of a group, although it is the only one.
    pass


@app.command("redrive")
def redrive_command(
    *,
    reason: Reasons = None,
    topic: Annotated[
        RedriveTopic, typer.Option(help="The dead letters of the orders or of the moves.")
    ] = RedriveTopic.ORDERS,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", show_default="all", help="Send at most this many.")
    ] = None,
    controls: Annotated[bool, typer.Option("--controls", help="Also send control records (clocks, models).")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; show what would be sent.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters back to where they came from, each once.

    Those with a wrong key are keyed again on the way.
    """
    from stream.dead_letters.routing import LEFT_REASONS, Selection
    from stream.settings import load_settings

    settings = load_settings()
    source = settings.orders_dead_letters_topic if topic is RedriveTopic.ORDERS else settings.changes_dead_letters_topic
    selection = Selection(frozenset(str(r) for r in (reason or FIXABLE)), controls)
    report = asyncio.run(_redriven(settings, source, selection, limit, dry_run=dry_run))
    echo(msgspec.json.encode(report).decode() if as_json else summary(report))
    for why, count in report.left.items():
        echo(f"{count:,} left: {LEFT_REASONS[why]}.", err=True)
    if report.interrupted:
        echo("interrupted: run the same command again to send the rest.", err=True)
        raise typer.Exit(INTERRUPTED)


async def _redriven(
    settings: Settings, source: str, selection: Selection, limit: int | None, *, dry_run: bool
) -> RedriveReport:
    """Redrive until done, or until Ctrl-C or a SIGTERM; the records at hand are still committed then."""
    from stream.dead_letters.redrive import redrive
    from stream.progress import progress_bar

    stop = interruption()
    with progress_bar(f"reading {source}") as show:
        return await redrive(
            settings,
            source,
            selection,
            limit=limit,
            dry_run=dry_run,
            stop=stop,
            progress=lambda done, total, sent: show(done, f"of {total:,}; {sent:,} sent back"),
        )


def summary(report: RedriveReport) -> str:
    """Return the report as a line for people.

    >>> from stream.dead_letters.redrive import RedriveReport
    >>> summary(RedriveReport("d", {"step_failed": 2}, {"orders": 2}, {}, False, False, False))
    'sent back 2: 2 step_failed; to orders'
    >>> summary(RedriveReport("d", {}, {}, {}, True, False, False))
    'would send back 0: d has no (more) dead letters with these reasons'
    """
    line = f"{'would send' if report.dry_run else 'sent'} back {sum(report.sent.values()):,}: "
    if not report.sent:
        return f"{line}{report.topic} has no (more) dead letters with these reasons"
    line += ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.sent.items()))
    line += f"; to {', '.join(sorted(report.to))}"
    return line + ("; there may be more (--limit)" if report.limited else "")
