"""`segstream demo`: the whole way of an order on this machine, with one command."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from stream.commands.options import instant_of, speed_of
from stream.demo.source import CDNOW, DemoRequest
from stream.demo.view import choose_view, result_console, show_result, verdict
from stream.settings import load_settings
from stream.settings_sources import PREFIX

if TYPE_CHECKING:
    from stream.demo.report import DemoResult

app = typer.Typer()


@app.command()
def demo(
    *,
    source: Annotated[
        str, typer.Option(metavar="cdnow|simulate|FILE", help="69,659 real orders, a seeded shop, or your own orders.")
    ] = CDNOW,
    orders: Annotated[int, typer.Option(min=1, metavar="N", help="Orders of the simulated shop.")] = 50_000,
    speed: Annotated[
        float | None,
        typer.Option(
            parser=speed_of,
            metavar="X|max",
            show_default="max",
            help="Times the orders' own pace, after the training; max: as fast as it goes.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=8, help="Worker processes.")] = 2,
    train_at: Annotated[
        int | None,
        typer.Option(
            parser=instant_of,
            metavar="TIME",
            show_default="cdnow: 1997-10-01; simulate: after 40 % of the orders; FILE: after 60 % of its time",
            help="Orders before this instant are history, on which the model is trained.",
        ),
    ] = None,
    until: Annotated[
        int | None,
        typer.Option(
            parser=instant_of,
            metavar="TIME",
            show_default="cdnow: 1998-07-01; else the last order",
            help="Orders from this instant on are left out, and the clock ends there.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, show_default="out/demo-NOW", help="New folder for what comes out."
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave all running at the end, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object on stdout.")] = False,
) -> None:
    """Kafka, Valkey, trainer, workers and dispatcher, all real, on this machine, with real orders. Ends with a report.

    Nothing is left running, and no setting of yours counts but SEGSTREAM_CACHE_DIR and SEGSTREAM_CURRENCY.
    """
    # Here, so that the other commands don't wait for what only the demo imports.
    from stream.demo.run import DemoPlan
    from stream.demo.run import demo as run

    wish = DemoRequest(source, orders, train_at, until, load_settings().currency)
    folder = out or Path("out") / f"demo-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    # Right after topics were made, its clients tell of leaders as missing that they find a moment later; what matters is raised.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    # Ctrl-C stops everything on the way out, also where a script's shell had it ignored; SIGTERM is the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with run(wish, DemoPlan(folder.expanduser().resolve(), workers, speed), choose_view()) as result:
        _tell(result, as_json=as_json)
        if keep:
            _wait(folder.resolve())
        else:
            typer.echo("Stopping everything.", err=True)
    if not result.check.passed:
        typer.echo(f"segstream: {verdict(result)}", err=True)
        raise typer.Exit(1)


def _tell(result: DemoResult, *, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(result))
    else:
        show_result(result, result_console())
    sys.stdout.flush()


def _wait(folder: Path) -> None:
    """Tell how to reach what runs and how to stop it, and wait for that."""
    file = folder / "env"
    variables = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    file.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items())))
    typer.echo(
        f"Everything still runs. In another terminal: source {shlex.quote(str(file))}; segstream status", err=True
    )
    typer.echo(f"Stop it with Ctrl-C here, or with: kill {os.getpid()}", err=True)
    with suppress(KeyboardInterrupt):
        while True:
            signal.pause()
