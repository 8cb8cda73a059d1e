"""`segstream replay|backfill|rehearse`: the orders of a file, sent to the orders topic, or only tried out."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from segmentation.event_text import iso
from stream.clock import now_ms
from stream.commands.options import AsJson, FileFormat, Format, From, Speed, Until, backfill_id_of, instant_of
from stream.hosting.interruption import INTERRUPTED, interruption
from stream.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segmentation.model import SegmentModel
    from stream.orders.sorting import InTimeOrder
    from stream.rehearsal.rehearse import Rehearsal
    from stream.replay.publisher import BackfillPart, ReplayReport
    from stream.settings import Settings

app = typer.Typer()


File = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="A file of orders: .csv, .csv.gz, .parquet or .txt (also as CDNOW's)."),
]
BackfillId = Annotated[
    str,
    typer.Option("--id", parser=backfill_id_of, metavar="ID", help="The id of the backfill; 1 to 200 characters."),
]
NoFinish = Annotated[
    bool, typer.Option("--no-finish", help="Don't finish the backfill yet: more files follow under this id.")
]


PastOrders = Annotated[
    Path, typer.Option("--from", metavar="FILE", help="A file of orders, as `segstream replay` takes it.")
]
Since = Annotated[
    int,
    typer.Option(
        parser=instant_of,
        metavar="TIME",
        help="Start the model at this instant (ISO 8601; UTC if it names no zone).",
    ),
]
Before = Annotated[
    int | None,
    typer.Option(
        "--until", parser=instant_of, metavar="TIME", help="End at this instant.", show_default="the last order"
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="VERSION|FILE", help="A model on the topic, or a file of one.", show_default="the active model"
    ),
]
RulesFile = Annotated[
    Path | None, typer.Option("--rules", help="A file of campaign rules.", show_default="SEGSTREAM_RULES_FILE")
]
DiscountShare = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="Part of an order that a discount takes off, where its action names none."),
]
Processes = Annotated[
    int | None, typer.Option(min=1, max=64, help="Number of processes.", show_default="one for each core")
]
_PAGE: Final = "rehearsal.html"
_FIGURES: Final = "rehearsal.json"
Out = Annotated[Path | None, typer.Option(metavar="DIR", help=f"Folder for {_PAGE} and {_FIGURES}; it is made.")]


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


@app.command()
def rehearse(
    orders: PastOrders,
    since: Since,
    *,
    until: Before = None,
    model: Model = None,
    rules: RulesFile = None,
    file_format: Format = None,
    discount_share: DiscountShare = 0.1,
    processes: Processes = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Show how often customers would have moved, and which campaigns would have acted, on the orders of a file.

    Everything happens in memory: nothing is sent, and no worker is needed. Orders before --since make the customers
    known; then the model starts.
    """
    from stream.progress import progress_bar
    from stream.rehearsal.rehearse import RehearsalRequest
    from stream.rehearsal.rehearse import rehearse as run
    from stream.settings import load_settings

    settings = load_settings(**({} if rules is None else {"rules_file": rules}))
    request = RehearsalRequest(
        file=orders,
        file_format=None if file_format is None else file_format.value,
        currency=settings.currency,
        model=wanted_model(settings, model).to_json(),
        rules_text=_rules_text(settings),
        rules=settings.rules,
        dwell_ms=settings.dwell_ms,
        since_ms=since,
        until_ms=until,
        now_ms=now_ms(),
        discount_share=discount_share,
        processes=processes or os.cpu_count() or 1,
    )
    with progress_bar(f"rehearsing {orders.name}") as show:
        report = run(request, lambda done, of: show(done, f"of {of} shares of the customers"))
    _show_rehearsal(report, out, as_json=as_json)


def _show_rehearsal(report: Rehearsal, out: Path | None, *, as_json: bool) -> None:
    from stream.rehearsal.page import page
    from stream.rehearsal.sentences import summary

    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / _PAGE).write_text(page(report), encoding="utf-8")
        (out / _FIGURES).write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    for warning in report.warnings:
        echo(f"segstream: {warning}.", err=True)
    for line in [msgspec.json.encode(report)] if as_json else summary(report):
        echo(line)
    if out is not None:
        echo(f"report: {out / _PAGE}", err=True)


def wanted_model(settings: Settings, wanted: str | None) -> SegmentModel:
    """Return the model of a file, of a version on the topic, or the active one."""
    from stream.models.listing import find_model
    from stream.models.topic import read_published
    from stream.rehearsal.rehearse import model_of_file

    if wanted is not None and (wanted.endswith(".json") or Path(wanted).exists()):
        return model_of_file(Path(wanted))
    published = asyncio.run(read_published(settings))
    return published.require_active() if wanted is None else find_model(published, wanted)


def _rules_text(settings: Settings) -> str:
    from segmentation.campaign_rules import default_rules
    from stream.worker.rules_file import text_of

    return default_rules() if settings.rules_file is None else text_of(settings.rules_file)
