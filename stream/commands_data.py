"""`segstream replay|tail|export|customer|score`: orders in, and what has become of them."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from segmentation.events import iso
from segmentation.money import format_units
from stream.customer import CustomerReport, Score, sentence
from stream.customer import customer as look_up
from stream.customer import score as score_figures
from stream.export import ExportReport
from stream.export import export as export_states
from stream.model_names import read_active, read_published
from stream.options import AsJson, AsOf, From, Speed, Until, amount_of, days_of
from stream.order_files import OrderFileError, check_readable, read_orders
from stream.order_rows import parse_at
from stream.progress import progress_bar
from stream.replay import DAY_MS, ReplayReport, check
from stream.replay import replay as replay_rows
from stream.settings import Settings, load_settings
from stream.tail import Tailed
from stream.tail import tail as follow
from stream.time_order import in_time_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from stream.order_rows import Row
    from stream.time_order import InTimeOrder

app = typer.Typer(no_args_is_help=True, help="Orders in, and what has become of them.")

_INTERRUPTED = 130  # as shells tell a program that Ctrl-C has ended
_ENTRIES_SHOWN = 20


class FileFormat(StrEnum):
    """What a row of a file is."""

    ORDERS = "orders"
    LINES = "lines"


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Orders: .csv, .csv.gz, .parquet, .txt (CDNOW's too).")],
    *,
    file_format: Annotated[
        FileFormat | None, typer.Option("--format", show_default="what the header says", help="What a row is.")
    ] = None,
    speed: Speed = None,
    from_ms: From = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Send a file's orders, by time, to the topic of orders. Sending a file twice changes nothing."""
    if from_ms is not None and until is not None and from_ms > until:
        raise typer.BadParameter(f"--from {iso(from_ms)} is later than --until {iso(until)}")
    settings = load_settings()
    check_readable(file)
    asyncio.run(check(settings, until))
    left_out: Counter[str] = Counter()
    rows = read_orders(
        file, format=None if file_format is None else file_format.value, currency=settings.currency, counts=left_out
    )
    old = _OldRows(time.time_ns() // 1_000_000 - DAY_MS, from_ms, until)
    with ExitStack() as stack:
        with progress_bar(f"reading {file.name}") as told:
            ordered = stack.enter_context(in_time_order(old.counted(rows), reading=lambda n: told(n, "")))
        if not ordered.total:
            raise OrderFileError(f"{file}: no row can be used.", hint=f"Left out: {_by_reason(left_out) or 'none'}.")
        if settings.time == "wall" and old.rows:
            typer.echo(
                f"SEGSTREAM_TIME is wall: {old.rows:,} of these rows are more than a day old, and scored as of now all the same. "
                "Set it to event to go by their dates.",
                err=True,
            )
        report = asyncio.run(_replayed(settings, ordered, speed, from_ms, until, left_out))
    _tell_replay(report, settings, as_json=as_json)
    if report.interrupted:
        raise typer.Exit(_INTERRUPTED)


@dataclass(slots=True)
class _OldRows:
    """Counts the rows to be sent that are dated before an instant (ms)."""

    before_ms: int
    from_ms: int | None
    until_ms: int | None
    rows: int = 0

    def counted(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Give the rows on, all of them."""
        begin_ms = 0 if self.from_ms is None else self.from_ms
        end_ms = self.before_ms if self.until_ms is None else min(self.until_ms, self.before_ms)
        for row in rows:
            self.rows += begin_ms <= row.at_ms < end_ms
            yield row


def _by_reason(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(left_out.items()))


async def _replayed(
    settings: Settings,
    rows: InTimeOrder,
    speed: float | None,
    from_ms: int | None,
    until_ms: int | None,
    left_out: Counter[str],
) -> ReplayReport:
    """Replay until done, or until Ctrl-C or a SIGTERM: then what was handed over is still acknowledged."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with progress_bar("sending", rows.total) as told:
        return await replay_rows(
            settings,
            rows,
            speed=speed,
            from_ms=from_ms,
            until_ms=until_ms,
            left_out=left_out,
            stop=stop,
            progress=lambda sent, at_ms: told(sent, iso(at_ms)[:10]),
        )


def _tell_replay(report: ReplayReport, settings: Settings, *, as_json: bool) -> None:
    for currency, rows in report.other_currencies.items():
        typer.echo(
            f"{rows} rows are in {currency}, this deployment in {settings.currency}: they end in the dead letters. "
            f"Set SEGSTREAM_CURRENCY={currency} if all is in it.",
            err=True,
        )
    if as_json:
        typer.echo(msgspec.json.encode(report))
        return
    sent = ", ".join(f"{rows:,} {kind}" for kind, rows in report.sent.items()) or "nothing"
    line = f"sent {sent} in {report.seconds:.1f} s ({report.rows_per_s:,.0f} rows/s)"
    if report.clocks:
        line += f", {report.clocks:,} advances of the clock"
    if report.last_at:
        line += f", up to {report.last_at}"
    if report.left_out:
        line += f"; left out {_by_reason(report.left_out)}"
    offsets = ", ".join(f"{partition}: {offset}" for partition, offset in sorted(report.last_offsets.items()))
    typer.echo(f"{line}; last offsets {offsets or 'none'}")
    if report.interrupted:
        typer.echo(
            "interrupted: the same command again sends the rest, and what was sent already changes nothing.", err=True
        )


@app.command()
def tail(
    what: Annotated[Tailed, typer.Argument(help="Moves, campaign actions, or records that couldn't be used.")],
    *,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="All there are, not only new ones.")] = False,
    until_idle: Annotated[
        float | None,
        typer.Option(min=0, metavar="S", show_default="never", help="End this many seconds after the last record."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", show_default="never", help="End after this many.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Follow what comes out, a line each, as it is committed. Ends with Ctrl-C, or as told."""
    with suppress(KeyboardInterrupt):
        asyncio.run(
            follow(
                load_settings(),
                what,
                typer.echo,
                from_beginning=from_beginning,
                until_idle_s=until_idle,
                limit=limit,
                as_json=as_json,
            )
        )


@app.command()
def export(
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .csv or .parquet file to write.")],
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> None:
    """Write every customer's recency, frequency, monetary value, segment and number of moves to a file."""
    settings = load_settings()
    published = asyncio.run(read_published(settings))
    with progress_bar("exporting") as told:
        report = export_states(settings, published, out, as_of_ms=as_of, progress=lambda done: told(done, ""))
    typer.echo(msgspec.json.encode(report) if as_json else _told_export(report))


def _told_export(report: ExportReport) -> str:
    at = report.earliest_as_of or "no clock yet"
    if report.latest_as_of != report.earliest_as_of:
        at += f" to {report.latest_as_of}"
    line = f"{report.customers:,} customers as of {at} in {report.file}"
    return line + (f", {report.incomplete:,} of them incomplete" if report.incomplete else "")


@app.command()
def customer(
    customer_id: Annotated[str, typer.Argument(metavar="ID", help="The customer's id, as the orders give it.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Tell what is known of a customer: events, figures, segment, and the next move by time alone."""
    settings = load_settings()
    report = look_up(settings, asyncio.run(read_published(settings)), customer_id)
    if as_json:
        typer.echo(msgspec.json.encode(report))
    else:
        _show_customer(report, settings)


def _show_customer(report: CustomerReport, settings: Settings) -> None:
    console = Console(highlight=False)
    if report.erased_at is not None:
        console.print(
            f"{report.customer_id} was erased at {report.erased_at} (partition {report.partition}): nothing else is known",
            markup=False,
        )
        return
    recency = "no order stands" if report.recency_days is None else f"last order {report.recency_days:.2f} days before"
    console.print(f"{report.customer_id} as of {report.as_of} (partition {report.partition})", markup=False)
    console.print(
        f"  {recency}; orders in the last {settings.window_days} days: {report.frequency}, net "
        f"{report.monetary} {settings.currency}" + (", incomplete" if report.incomplete else ""),
        markup=False,
    )
    moved = f", moved there {report.last_move_at}" if report.last_move_at else ""
    console.print(f"  segment {report.segment or 'none yet'}{moved}, move {report.sequence}", markup=False)
    if report.next is not None:
        console.print(f"  {sentence(report.next, parse_at(report.next.at))}", markup=False)
    table = Table("time", "event", "amount")
    for entry in report.entries[:_ENTRIES_SHOWN]:
        table.add_row(entry.at, entry.kind, entry.amount)
    console.print(table)
    if (more := len(report.entries) - _ENTRIES_SHOWN) > 0:
        console.print(f"  and {more} earlier ones (--json lists all)", markup=False)


@app.command()
def score(
    *,
    recency_days: Annotated[
        float, typer.Option(parser=days_of, metavar="DAYS", help="Days since the last order, 0 or more.")
    ],
    frequency: Annotated[int, typer.Option(min=0, help="Orders in the window.")],
    monetary: Annotated[int, typer.Option(parser=amount_of, metavar="DECIMAL", help="Money spent in the window, net.")],
    as_json: AsJson = False,
) -> None:
    """Tell in which segment of the active model such figures lie, and what to do about it."""
    model = asyncio.run(read_active(load_settings()))
    found = score_figures(model, recency_days, frequency, monetary)
    if as_json:
        typer.echo(msgspec.json.encode(found))
    else:
        _show_score(found, f"{recency_days:g} days, {frequency} orders, {format_units(monetary)}")


def _show_score(found: Score, figures: str) -> None:
    typer.echo(f"{figures}: {found.segment}. {found.action}")
    table = Table("segment", "distance")
    for name, distance in sorted(found.distances.items(), key=lambda row: row[1]):
        table.add_row(name, f"{distance:.3f}")
    Console(highlight=False).print(table)
    typer.echo(f"model {found.model_version}")
