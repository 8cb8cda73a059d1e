"""`segstream erase ID`: everything of a customer is forgotten."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from stream.commands.options import AsJson, instant_of
from stream.customers.erase import Erasure
from stream.customers.erase import erase as erase_customer
from stream.settings import load_settings

app = typer.Typer(help="Everything of a customer is forgotten.")

At = Annotated[
    int | None,
    typer.Option(
        parser=instant_of,
        metavar="TIME",
        show_default="now; in event time the shard's clock",
        help="Erase what is dated up to this instant (ISO 8601).",
    ),
]
Wait = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for the worker to have done it.")]


@app.command()
def erase(
    customer_id: Annotated[str, typer.Argument(metavar="ID", help="The customer's id.")],
    *,
    at: At = None,
    wait: Wait = 30.0,
    as_json: AsJson = False,
) -> None:
    """Erase a customer, and tell what the logs still hold, and until when. Ends with 1 where no worker has done it in time."""
    told = asyncio.run(erase_customer(load_settings(), customer_id, at, wait_s=wait))
    if as_json:
        typer.echo(msgspec.json.encode(told).decode())
    else:
        _show(told)
    if not told.done:
        raise typer.Exit(1)


def _show(told: Erasure) -> None:
    where = f"partition {told.partition}, offset {told.offset}"
    if told.done:
        typer.echo(f"{told.customer_id}: erased, everything up to {told.erased_until} ({where}).")
        typer.echo("Redis holds a keyed hash of the id, that instant and the number of the last move; nothing else.")
    else:
        typer.echo(
            f"{told.customer_id}: the erasure is sent ({where}), but no worker has taken it yet: `segstream status` says why. "
            "It is done as soon as one does; nothing need be sent again."
        )
    typer.echo(
        "What the logs may still hold, and until when (a segment of the log goes as a whole, so it may take longer):"
    )
    width = max((len(kept.topic) for kept in told.kept), default=0)
    for kept in told.kept:
        until = kept.until or ("compaction" if kept.policy == "compact" else "for ever")
        typer.echo(f"  {kept.topic:<{width}}  {until:<24}  {kept.holds}")
    typer.echo("A topic's retention.ms shortens that: docs/how-to/erase-a-customer.md says what needs which topic.")
