"""`segstream replay|backfill`: the orders of a file to the topic of orders."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from segmentation.entries import DAY_MS
from segmentation.events import iso
from stream.commands.options import AsJson, From, Speed, Until, backfill_name_of
from stream.orders.files import OrderFileError, check_readable, read_orders
from stream.orders.rows import LeftOutReason, parse_at
from stream.orders.sorting import in_time_order
from stream.progress import progress_bar
from stream.replay.preconditions import check_target
from stream.replay.publisher import BackfillPart, ReplayReport
from stream.replay.publisher import replay as replay_rows
from stream.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from stream.orders.rows import OrderRow
    from stream.orders.sorting import InTimeOrder

app = typer.Typer(no_args_is_help=True, help="Orders from files.")

_INTERRUPTED: Final = 130  # as shells tell a program that Ctrl-C has ended


class FileFormat(StrEnum):
    """What a row of a file is."""

    ORDERS = "orders"
    LINES = "lines"


File = Annotated[Path, typer.Argument(metavar="FILE", help="Orders: .csv, .csv.gz, .parquet, .txt (CDNOW's too).")]
Format = Annotated[
    FileFormat | None, typer.Option("--format", show_default="what the header says", help="What a row is.")
]


@dataclass(frozen=True, slots=True)
class _ReplayRequest:
    """What is to be sent, and how. Instants in ms."""

    file: Path
    file_format: FileFormat | None
    from_ms: int | None
    until_ms: int | None
    speed: float | None = None
    backfill: BackfillPart | None = None

    def __post_init__(self) -> None:
        """Raise typer.BadParameter where there is nothing between the instants."""
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
    """Send a file's orders, by time, to the topic of orders. Sending a file twice changes nothing."""
    _send(_ReplayRequest(file, file_format, from_ms, until, speed), as_json=as_json)


@app.command()
def backfill(
    file: File,
    *,
    name: Annotated[
        str,
        typer.Option("--id", parser=backfill_name_of, metavar="NAME", help="Names the back-fill; 1 to 200 characters."),
    ],
    file_format: Format = None,
    from_ms: From = None,
    until: Until = None,
    no_finish: Annotated[
        bool, typer.Option("--no-finish", help="More files follow under this id: don't say yet that all is sent.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send a file's orders, marked as history: `backfill: NAME` on each, then `backfill.finished` to every partition.

    Their customers are muted until then; then each is told of at most once. Sending a file twice changes nothing.
    """
    _send(
        _ReplayRequest(file, file_format, from_ms, until, backfill=BackfillPart(name, not no_finish)), as_json=as_json
    )


def _send(wish: _ReplayRequest, *, as_json: bool) -> None:
    """Read the file, sort it, send it, and tell what came of it. Ends with 130 where it was interrupted."""
    settings = load_settings()
    check_readable(wish.file)
    asyncio.run(check_target(settings, wish.until_ms))
    left_out: Counter[str] = Counter()
    rows = read_orders(
        wish.file,
        format=None if wish.file_format is None else wish.file_format.value,
        currency=settings.currency,
        counts=left_out,
    )
    dates = _Dates(time.time_ns() // 1_000_000, settings, wish, left_out)
    with ExitStack() as stack:
        with progress_bar(f"reading {wish.file.name}") as told:
            ordered = stack.enter_context(
                in_time_order(dates.checked(rows), left_out=left_out, reading=lambda n: told(n, ""))
            )
        if not ordered.total:
            raise OrderFileError(
                f"{wish.file}: no row can be used.", hint=f"Left out: {_by_reason(left_out) or 'none'}."
            )
        if settings.time == "wall" and dates.old_rows:
            typer.echo(
                f"SEGSTREAM_TIME is wall: {dates.old_rows:,} of these rows are more than a day old, and scored as of now "
                "all the same. Set it to event to go by their dates.",
                err=True,
            )
        report = asyncio.run(_sent(settings, ordered, wish, left_out))
    _tell(report, settings, as_json=as_json)
    if report.interrupted:
        raise typer.Exit(_INTERRUPTED)


@dataclass(slots=True)
class _Dates:
    """Leaves out what the shards would refuse for its date, and counts the rows to be sent that are more than a day old."""

    now_ms: int
    settings: Settings
    wish: _ReplayRequest
    left_out: Counter[str]
    old_rows: int = 0

    def checked(self, rows: Iterable[OrderRow]) -> Iterator[OrderRow]:
        """Give on the rows that can be sent."""
        latest_ms = self.now_ms + self.settings.future_tolerance_s * 1000
        earliest_ms = parse_at(self.settings.earliest_date.isoformat())
        begin_ms, end_ms = self.wish.from_ms or 0, self.now_ms - DAY_MS
        if self.wish.until_ms is not None:
            end_ms = min(end_ms, self.wish.until_ms)
        for row in rows:
            if not earliest_ms <= row.at_ms <= latest_ms:
                reason = LeftOutReason.DATE if row.at_ms < earliest_ms else LeftOutReason.DATED_AHEAD
                self.left_out[reason.value] += 1
                continue
            self.old_rows += begin_ms <= row.at_ms < end_ms
            yield row


def _by_reason(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(left_out.items()))


async def _sent(settings: Settings, rows: InTimeOrder, wish: _ReplayRequest, left_out: Counter[str]) -> ReplayReport:
    """Send until done, or until Ctrl-C or a SIGTERM: then what was handed over is still acknowledged."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with progress_bar("sending", rows.total) as told:
        return await replay_rows(
            settings,
            rows,
            speed=wish.speed,
            from_ms=wish.from_ms,
            until_ms=wish.until_ms,
            backfill=wish.backfill,
            left_out=left_out,
            stop=stop,
            progress=lambda sent, at_ms: told(sent, iso(at_ms)[:10]),
        )


def _tell(report: ReplayReport, settings: Settings, *, as_json: bool) -> None:
    for currency, rows in report.other_currencies.items():
        typer.echo(
            f"{rows:,} rows are in {currency}, this deployment in {settings.currency}: they end in the dead letters. "
            f"Set SEGSTREAM_CURRENCY={currency} if all is in it.",
            err=True,
        )
    typer.echo(msgspec.json.encode(report) if as_json else _line(report))
    if report.interrupted:
        from_here = f" With --from {report.last_at} it begins where this one ended." if report.last_at else ""
        typer.echo(
            f"interrupted: the same command again sends the rest, and what was sent already changes nothing.{from_here}",
            err=True,
        )
    elif report.backfill is not None and not report.finished:
        typer.echo(f"back-fill {report.backfill} isn't finished: its last file goes without --no-finish.", err=True)


def _line(report: ReplayReport) -> str:
    sent = ", ".join(f"{rows:,} {kind}" for kind, rows in report.sent.items()) or "nothing"
    line = f"sent {sent} in {report.seconds:.1f} s ({report.rows_per_s:,.0f} rows/s)"
    if report.clocks:
        line += f", {report.clocks:,} advances of the clock"
    if report.last_at:
        line += f", up to {report.last_at}"
    if report.left_out:
        line += f"; left out {_by_reason(report.left_out)}"
    if report.finished:
        line += f"; back-fill {report.backfill} is finished"
    offsets = ", ".join(f"{partition}: {offset}" for partition, offset in sorted(report.last_offsets.items()))
    return f"{line}; last offsets {offsets or 'none'}"
