"""`segstream demo`: the whole pipeline on this machine, with one command."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from segmentation.event_text import instant
from stream.clock import now_ms
from stream.commands.options import Speed, instant_of
from stream.renamed_options import accepting
from stream.terminal import echo

if TYPE_CHECKING:
    from stream.demo.report import DemoResult

app = typer.Typer()

Source = Annotated[
    str,
    typer.Option(
        metavar="cdnow|simulate|FILE", help="69,659 real orders, the orders of a simulated shop, or your own orders."
    ),
]
TrainAt = Annotated[
    int | None,
    typer.Option(
        parser=instant_of,
        metavar="TIME",
        show_default="cdnow: 1997-10-01; simulate: after 40 % of the orders; FILE: after 60 % of its time",
        help="Train the model on the orders before this instant.",
    ),
]
Until = Annotated[
    int | None,
    typer.Option(
        parser=instant_of,
        metavar="TIME",
        show_default="cdnow: 1998-07-01; else the last order",
        help="Leave out orders from this instant on, and end the clock there.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", file_okay=False, show_default="out/demo-NOW", help="New folder for the results."),
]
KeepRunning = Annotated[bool, typer.Option("--keep-running", help="Leave everything running at the end, until Ctrl-C.")]


@app.command(cls=accepting({"--keep": "--keep-running"}))
def demo(
    *,
    source: Source = "cdnow",
    orders: Annotated[int, typer.Option(min=1, metavar="N", help="Number of orders of the simulated shop.")] = 50_000,
    speed: Speed = None,
    workers: Annotated[int, typer.Option(min=1, max=8, help="Number of worker processes.")] = 2,
    train_at: TrainAt = None,
    until: Until = None,
    out: Out = None,
    keep_running: KeepRunning = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")] = False,
) -> None:
    """Run the whole pipeline on this machine, with real orders.

    Starts its own Kafka, Valkey, workers, dispatcher and trainer, shows the result, and stops everything. Of your
    settings it uses only SEGSTREAM_CACHE_DIR and SEGSTREAM_CURRENCY. --speed applies to the orders after the training.
    """
    from stream.demo.run import DemoPlan
    from stream.demo.run import demo as run
    from stream.demo.source import DemoRequest
    from stream.demo.view import choose_view, verdict
    from stream.settings import load_settings

    request = DemoRequest(source, orders, train_at, until, load_settings().currency)
    folder = out or Path("out") / f"demo-{instant(now_ms()):%Y%m%dT%H%M%SZ}"
    # Right after topics are created the clients log missing leaders, which they soon find; real errors are raised.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    # Ctrl-C stops everything on the way out, even if a script's shell had it ignored; SIGTERM does the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with run(request, DemoPlan(folder.expanduser().resolve(), workers, speed), choose_view(), now_ms) as result:
        _show(result, as_json=as_json)
        if keep_running:
            _wait(folder.resolve())
        else:
            echo("Stopping everything.", err=True)
    if not result.check.passed:
        echo(f"segstream: {verdict(result)}", err=True)
        raise typer.Exit(1)


def _show(result: DemoResult, *, as_json: bool) -> None:
    from stream.demo.view import result_console, show_result

    if as_json:
        echo(msgspec.json.encode(result))
    else:
        show_result(result, result_console())
    sys.stdout.flush()


def _wait(folder: Path) -> None:
    """Print how to use and how to stop the demo, and wait until it is stopped."""
    from stream.private_files import write_private
    from stream.settings_sources import PREFIX

    file = folder / "env"
    variables = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    lines = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items()))
    write_private(file, lines.encode())  # it may hold a password
    echo(
        f"Everything is still running. In another terminal: source {shlex.quote(str(file))}; segstream status",
        err=True,
    )
    echo(f"Stop it with Ctrl-C here, or with: kill {os.getpid()}", err=True)
    with suppress(KeyboardInterrupt):
        while True:
            signal.pause()
