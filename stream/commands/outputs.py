"""`segstream tail`: the records of an output topic, as they are committed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated

import typer

from segmentation.events import Reason
from stream.commands.options import AsJson
from stream.outputs.kinds import OutputKind
from stream.terminal import echo

app = typer.Typer()


@app.command()
def tail(
    what: Annotated[
        OutputKind,
        typer.Argument(
            help="Moves, campaign actions, deliveries to endpoints, or dead letters: records that couldn't be used."
        ),
    ],
    *,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with the oldest record, not with the next new one.")
    ] = False,
    until_idle: Annotated[
        float | None,
        typer.Option(min=0, metavar="S", show_default="never", help="End this many seconds after the last record."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", show_default="never", help="End after this many records.")
    ] = None,
    reason: Annotated[
        list[Reason] | None,
        typer.Option(metavar="REASON", show_default="all", help="Only dead letters with this reason; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Follow the moves, the campaign actions, their deliveries or the dead letters.

    Prints a line for each record as it is committed. Ends on Ctrl-C, or as --limit or --until-idle say.
    """
    from stream.outputs.tail import tail as follow
    from stream.settings import load_settings

    with suppress(KeyboardInterrupt):
        asyncio.run(
            follow(
                load_settings(),
                what,
                echo,
                from_beginning=from_beginning,
                until_idle_s=until_idle,
                limit=limit,
                as_json=as_json,
                reasons=reason or (),
            )
        )
