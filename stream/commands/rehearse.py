"""`segstream rehearse`: what a model and its campaigns would have done with past orders, before anything is sent."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from stream.clock import now_ms
from stream.commands.options import AsJson, instant_of
from stream.commands.replay import FileFormat
from stream.terminal import echo

if TYPE_CHECKING:
    from segmentation.model import SegmentModel
    from stream.rehearsal.rehearse import Rehearsal
    from stream.settings import Settings

app = typer.Typer()

_REPORT = "rehearsal.html"
_FIGURES = "rehearsal.json"


@app.command()
def rehearse(
    orders: Annotated[
        Path, typer.Option("--from", metavar="FILE", help="A file of orders, as `segstream replay` takes it.")
    ],
    since: Annotated[
        int,
        typer.Option(
            parser=instant_of,
            metavar="TIME",
            help="Start the model at this instant (ISO 8601; UTC if it names no zone).",
        ),
    ],
    *,
    until: Annotated[
        int | None,
        typer.Option(parser=instant_of, metavar="TIME", help="End before this instant.", show_default="the last order"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION|FILE", help="A model on the topic, or a file of one.", show_default="the active model"
        ),
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(help="A file of campaign rules.", show_default="SEGSTREAM_RULES_FILE")
    ] = None,
    file_format: Annotated[
        FileFormat | None,
        typer.Option("--format", show_default="by the header", help="Content of a row: an order or an order line."),
    ] = None,
    discount_share: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Part of an order that a discount takes off, where its action names none."),
    ] = 0.1,
    processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="Number of processes.", show_default="one for each core")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help=f"Folder for {_REPORT} and {_FIGURES}; it is made.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how often customers would have moved, and which campaigns would have acted, on the orders of a file.

    Everything happens in memory: nothing is sent, and no worker is needed. Orders before --since make the customers
    known; then the model starts.
    """
    from stream.progress import progress_bar
    from stream.rehearsal.page import page
    from stream.rehearsal.rehearse import RehearsalRequest
    from stream.rehearsal.rehearse import rehearse as run
    from stream.settings import load_settings

    settings = load_settings(**({} if rules is None else {"rules_file": rules}))
    request = RehearsalRequest(
        file=orders,
        file_format=None if file_format is None else file_format.value,
        currency=settings.currency,
        model=_model(settings, model).to_json(),
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
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / _REPORT).write_text(page(report), encoding="utf-8")
        (out / _FIGURES).write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    for line in [msgspec.json.encode(report)] if as_json else summary(report):
        echo(line)
    if out is not None:
        echo(f"report: {out / _REPORT}", err=True)


def _model(settings: Settings, wanted: str | None) -> SegmentModel:
    """Return the model of a file, of a version on the topic, or the active one."""
    from stream.models.listing import find_model
    from stream.models.topic import read_published
    from stream.rehearsal.rehearse import model_of_file

    if wanted is not None and Path(wanted).is_file():
        return model_of_file(Path(wanted))
    published = asyncio.run(read_published(settings))
    return published.require_active() if wanted is None else find_model(published, wanted)


def _rules_text(settings: Settings) -> str:
    from segmentation.campaign_rules import default_rules

    return default_rules() if settings.rules_file is None else settings.rules_file.read_text("utf-8")


def summary(report: Rehearsal) -> list[str]:
    """Return the figures as lines for people."""
    from stream.rehearsal.sentences import headlines

    lines = headlines(report)
    for one in report.campaigns:
        anyway = f"; {one.bought_anyway:,} of {one.followed:,} ordered within 30 days" if one.followed else ""
        lines.append(f"  {one.campaign}: {one.actions:,} ({one.action}){anyway}")
    left_out = ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(report.left_out.items()))
    lines.append(
        f"{report.orders:,} rows in {report.seconds:.1f} s ({report.orders_per_s:,.0f} rows/s)"
        + (f"; left out {left_out}" if left_out else "")
    )
    return lines
