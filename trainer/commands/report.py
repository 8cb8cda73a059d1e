"""`segtrainer report`: the report of the run that made a model, wherever that ran."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stream.terminal import echo, echo_lines
from trainer.commands.options import settings_and_log


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report_command)


def report_command(
    version: Annotated[
        str | None,
        typer.Argument(
            metavar="VERSION",
            help="Version as `segtrainer list` shows it, or the beginning of it. Default: the active model's.",
            show_default=False,
        ),
    ] = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, help="Write report.html, report.md and report.json to this folder."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the run's outcome, without single customers, as one JSON object on stdout."),
    ] = False,
) -> None:
    """Show the report of the run that made a model.

    Prints it as Markdown; with --out, writes it as files, with the page as the run wrote it.
    """
    from trainer.registry.reports import find, write

    report = find(settings_and_log(), version)
    if out is not None:
        write(report, out)
    if as_json:
        echo_lines(bytes(report.outcome))
    elif out is not None:
        echo(f"{report.version}: {out / 'report.html'}, report.md and report.json")
    else:
        echo_lines(report.markdown)
