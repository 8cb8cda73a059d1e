"""`segtrainer`: the trainer's command line."""

from __future__ import annotations

import sys

import typer

from stream.errors import SegstreamError
from stream.terminal import echo
from trainer.commands import models, report, run, schedule

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    help="Train the segment model on the customers' states.",
)


@app.callback()
def _commands() -> None:
    """Train the segment model on the customers' states, and publish it to the workers."""


run.register(app)
models.register(app)
report.register(app)
schedule.register(app)


def main() -> None:
    """Run the command line. Exit codes: 0; 1 an error, in one line on stderr; 2 usage; 3 and 4 as in errors.py."""
    try:
        app()
    except SegstreamError as error:
        echo(f"segtrainer: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
