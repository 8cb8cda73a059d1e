"""The commands for who is on call: status, retry, rebuild."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from stream.clock import now_ms
from stream.engine.rebuild import Rebuilder
from stream.engine.shard_report import ShardReport, input_topic, open_backfills, report, settled
from stream.engine.step_name import StepName
from stream.settings import Settings, load_settings
from stream.storage.client import redis_client
from stream.storage.keys import status_key

app = typer.Typer()


Step = Annotated[StepName, typer.Option(help="scoring (orders) or campaigns (moves).")]


@app.command()
def status(
    *,
    step: Step = StepName.SCORING,
    wait: Annotated[
        float, typer.Option(help="Wait up to this many seconds until nothing lags and nothing is rescored.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a shard.")] = False,
) -> None:
    """Each shard's owner, lag, clock, model and, if it stopped, the reason. Ends with 1 if any is quarantined (or still lags)."""
    settings = load_settings()
    deadline = time.monotonic() + wait
    rows = report(settings, step, now_ms())
    while wait and time.monotonic() < deadline and not settled(rows):
        time.sleep(0.2)
        rows = report(settings, step, now_ms())
    if as_json:
        for row in rows:
            typer.echo(msgspec.json.encode(row).decode())
    else:
        _print(rows, expiry_ms=settings.backfill_expiry_ms)
    if any(row.state == "quarantined" for row in rows) or (wait and not settled(rows)):
        raise typer.Exit(1)


def _print(rows: list[ShardReport], *, expiry_ms: int) -> None:
    table = Table("shard", "state", "lag", "clock", "model", "customers", "owner", box=None, pad_edge=False)
    for row in rows:
        model = f"{row.model}{' (rescoring)' if row.rescoring else ''}"
        table.add_row(
            str(row.partition), row.state, f"{row.lag:,}", row.clock or "", model, f"{row.customers:,}", row.owner
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for row in rows:
        if row.reason:
            console.print(f"shard {row.partition}: {row.reason}: {row.detail}", markup=False)
    for line in open_backfills(rows, expiry_ms):
        console.print(line, markup=False)


@app.command()
def retry(
    *,
    step: Step = StepName.SCORING,
    partition: Annotated[int | None, typer.Option(help="One shard.", show_default="all")] = None,
) -> None:
    """Let quarantined shards try again, once their reason has been mended."""
    settings = load_settings()
    rows = report(settings, step, now_ms())
    asked = [row.partition for row in rows if row.state == "quarantined" and partition in {None, row.partition}]
    if asked:
        with redis_client(settings) as redis:
            redis.hdel(status_key(settings.group, input_topic(settings, step)), *map(str, asked))
    typer.echo(f"asked to try again: {', '.join(map(str, asked)) or 'none is quarantined'}")


@app.command()
def rebuild(
    *,
    step: Step = StepName.SCORING,
    partition: Annotated[int | None, typer.Option(help="One shard.", show_default="all")] = None,
    from_what_is_left: Annotated[
        bool,
        typer.Option(
            "--from-what-is-left",
            help="Go on where the logs don't reach back to their beginning: figures start with what they have.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Make Redis anew from Kafka: empties the shards; their owners take them over from the start of the logs.

    Moves aren't told again: what was announced is read back from the output topic.
    """
    settings = load_settings()
    if not yes:
        typer.confirm(
            f"Empty Redis for {step} of group {settings.group!r} and read everything again from Kafka?", abort=True
        )
    asyncio.run(_rebuild(settings, step, partition, from_what_is_left=from_what_is_left))
    retry(step=step, partition=partition)


async def _rebuild(settings: Settings, step: str, only: int | None, *, from_what_is_left: bool = False) -> None:
    from stream.kafka.streams import streams_of
    from stream.worker.steps import step_of

    rebuilder = Rebuilder(settings, streams_of(settings, step), step_of(settings, step))
    async for line in rebuilder.rebuild(only, from_what_is_left=from_what_is_left):
        typer.echo(line)
