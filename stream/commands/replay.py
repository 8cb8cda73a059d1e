"""`segstream replay|backfill`: the orders of a file, sent to the orders topic."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from segmentation.event_text import iso
from stream.clock import now_ms
from stream.commands.interruption import INTERRUPTED, interruption
from stream.commands.options import AsJson, From, Speed, Until, backfill_id_of
from stream.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stream.orders.sorting import InTimeOrder
    from stream.replay.publisher import BackfillPart, ReplayReport
    from stream.settings import Settings

app = typer.Typer()


class FileFormat(StrEnum):
    """The kinds of rows in a file."""

    ORDERS = "orders"
    LINES = "lines"


File = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="A file of orders: .csv, .csv.gz, .parquet or .txt (also as CDNOW's)."),
]
Format = Annotated[
    FileFormat | None,
    typer.Option("--format", show_default="by the header", help="Content of a row: an order or an order line."),
]
BackfillId = Annotated[
    str,
    typer.Option("--id", parser=backfill_id_of, metavar="ID", help="The id of the backfill; 1 to 200 characters."),
]
NoFinish = Annotated[
    bool, typer.Option("--no-finish", help="Don't finish the backfill yet: more files follow under this id.")
]


@dataclass(frozen=True, slots=True)
class _ReplayRequest:
    """The rows to send, and their speed. Instants in ms."""

    file: Path
    file_format: FileFormat | None
    from_ms: int | None
    until_ms: int | None
    speed: float | None = None
    backfill: BackfillPart | None = None

    def check(self) -> None:
        """Raise typer.BadParameter if there is nothing between the instants."""
        if self.from_ms is not None and self.until_ms is not None and self.from_ms > self.until_ms:
            raise typer.BadParameter(f"--from {iso(self.from_ms)} is later than --until {iso(self.until_ms)}")


@app.command()
def replay(
    file: File,
    *,
    file_format: Format = None,
    speed: Speed = None,
    from_ms: From = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Send the orders of a file to the orders topic, by time. Sending a file twice changes nothing."""
    _send(_ReplayRequest(file, file_format, from_ms, until, speed), as_json=as_json)


@app.command()
def backfill(
    file: File,
    *,
    backfill_id: BackfillId,
    file_format: Format = None,
    from_ms: From = None,
    until: Until = None,
    no_finish: NoFinish = False,
    as_json: AsJson = False,
) -> None:
    """Send the orders of a file to the orders topic as history.

    Each order names the backfill, and at the end every partition gets a `backfill.finished`. Until then no move of
    their customers is published, and then at most one for each customer. Sending a file twice changes nothing.
    """
    from stream.replay.publisher import BackfillPart

    history = BackfillPart(backfill_id, not no_finish)
    _send(_ReplayRequest(file, file_format, from_ms, until, backfill=history), as_json=as_json)


def _send(request: _ReplayRequest, *, as_json: bool) -> None:
    """Read the file, sort it, send it, and report. Exits with 130 if it was interrupted."""
    from stream.orders.files import OrderFileError, check_readable, read_orders
    from stream.orders.sorting import in_time_order
    from stream.progress import progress_bar
    from stream.replay.dates import DateFilter
    from stream.replay.preconditions import check_target
    from stream.settings import load_settings

    request.check()
    settings = load_settings()
    check_readable(request.file)
    asyncio.run(check_target(settings, request.until_ms))
    left_out: Counter[str] = Counter()
    rows = read_orders(
        request.file,
        format=None if request.file_format is None else request.file_format.value,
        currency=settings.currency,
        counts=left_out,
    )
    dates = DateFilter(settings, left_out, now_ms=now_ms(), from_ms=request.from_ms, until_ms=request.until_ms)
    with ExitStack() as stack:
        with progress_bar(f"reading {request.file.name}") as show:
            ordered = stack.enter_context(
                in_time_order(dates.accepted(rows), left_out=left_out, reading=lambda n: show(n, ""))
            )
        if not ordered.total:
            raise OrderFileError(
                f"{request.file}: no row can be used.", hint=f"Left out: {_by_reason(left_out) or 'none'}."
            )
        if settings.time == "wall" and dates.old_rows:
            echo(
                f"SEGSTREAM_TIME is wall: {dates.old_rows:,} of these rows are more than a day old, but will be scored "
                "as of now. Set SEGSTREAM_TIME=event to score them as of their own dates.",
                err=True,
            )
        report = asyncio.run(_sent(settings, ordered, request, left_out))
    _show(report, settings, as_json=as_json)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)


def _by_reason(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(left_out.items()))


async def _sent(settings: Settings, rows: InTimeOrder, request: _ReplayRequest, left_out: Counter[str]) -> ReplayReport:
    """Send until done, or until Ctrl-C or a SIGTERM; the records at hand are still acknowledged then."""
    from stream.progress import progress_bar
    from stream.replay.publisher import replay as replay_rows

    stop = interruption()
    with progress_bar("sending", rows.total) as show:
        return await replay_rows(
            settings,
            rows,
            speed=request.speed,
            from_ms=request.from_ms,
            until_ms=request.until_ms,
            backfill=request.backfill,
            left_out=left_out,
            stop=stop,
            progress=lambda sent, at_ms: show(sent, iso(at_ms)[:10]),
        )


def _show(report: ReplayReport, settings: Settings, *, as_json: bool) -> None:
    taken = " and ".join(sorted(settings.all_currencies))
    for currency, rows in report.other_currencies.items():
        echo(
            f"{rows:,} rows are in {currency}, but this deployment takes {taken}: they become dead letters. Set "
            f"SEGSTREAM_CURRENCY={currency} if all orders are in it, or add it to SEGSTREAM_OTHER_CURRENCIES.",
            err=True,
        )
    echo(msgspec.json.encode(report) if as_json else _summary(report))
    if report.interrupted:
        from_here = f" With --from {report.last_at} it starts where this run ended." if report.last_at else ""
        echo(
            "interrupted: run the same command again to send the rest; what was already sent changes nothing."
            f"{from_here}",
            err=True,
        )
    elif report.backfill is not None and not report.finished:
        echo(f"backfill {report.backfill} isn't finished: send its last file without --no-finish.", err=True)


def _summary(report: ReplayReport) -> str:
    sent = ", ".join(f"{rows:,} {kind}" for kind, rows in report.sent.items()) or "nothing"
    line = f"sent {sent} in {report.seconds:.1f} s ({report.rows_per_s:,.0f} rows/s)"
    if report.clocks:
        line += f", {report.clocks:,} clock records"
    if report.last_at:
        line += f", up to {report.last_at}"
    if report.left_out:
        line += f"; left out {_by_reason(report.left_out)}"
    if report.finished:
        line += f"; backfill {report.backfill} is finished"
    offsets = ", ".join(f"{partition}: {offset}" for partition, offset in sorted(report.last_offsets.items()))
    return f"{line}; last offsets {offsets or 'none'}"
