"""`segstream status|retry|migrate|rebuild|skip-lost|reshard`: the shards, for operators."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from stream.clock import now_ms
from stream.kafka.step_name import StepName
from stream.renamed_options import accepting
from stream.terminal import echo

if TYPE_CHECKING:
    from stream.settings import Settings
    from stream.status.report import ShardReport

app = typer.Typer()


Step = Annotated[StepName, typer.Option(help="The shards of the scoring (orders) or of the campaigns (moves).")]
Partition = Annotated[int | None, typer.Option(help="Only the shard of this partition.", show_default="all")]


@app.command()
def status(
    *,
    step: Step = StepName.SCORING,
    wait: Annotated[
        float,
        typer.Option(help="Wait up to this many seconds until each shard has an owner, and none lags or is rescored."),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per shard on stdout.")] = False,
) -> None:
    """Show each shard's owner, lag, clock, model and problem.

    Exits with 0 if each shard has an owner and works. Exits with 1, and a line on stderr, if one is quarantined or
    failing or has no owner; with --wait also if one still lags or records wait behind an open transaction.
    """
    from stream.settings import load_settings
    from stream.status.report import TAKING_OVER, owned, problems, report, settled

    settings = load_settings()
    deadline = time.monotonic() + wait
    rows = report(settings, step, now_ms())
    while wait and time.monotonic() < deadline and not (settled(rows) and owned(rows)):
        time.sleep(0.2)
        rows = report(settings, step, now_ms())
    if as_json:
        for row in rows:
            echo(msgspec.json.encode(row))
    else:
        _print(rows, expiry_ms=settings.backfill_expiry_ms)
    wrong = problems(rows)
    taking = sum(row.state == TAKING_OVER for row in rows)
    if wait and (taking or not settled(rows)):
        behind = sum(row.lag + row.held_back + sum(row.side_lag.values()) for row in rows)
        rescoring = sum(row.rescoring for row in rows)
        found = f"{behind:,} records wait, {rescoring} shards are being rescored, {taking} taken over"
        wrong.append(f"not settled after {wait:g} s: {found}")
    for line in wrong:
        echo(f"segstream: {line}.", err=True)
    if wrong:
        raise typer.Exit(1)


def _print(rows: list[ShardReport], *, expiry_ms: int) -> None:
    from stream.consoles import console, table
    from stream.status.report import open_backfills

    cells = (
        (
            str(row.partition),
            row.state,
            f"{row.lag:,}{f' (+{row.held_back:,} held back)' if row.held_back else ''}",
            row.clock or "",
            f"{row.model}{' (rescoring)' if row.rescoring else ''}",
            f"{row.customers:,}",
            row.owner,
        )
        for row in rows
    )
    console(160).print(table(("shard", "state", "lag", "clock", "model", "customers", "owner"), cells))
    for row in rows:
        if row.reason:
            echo(f"shard {row.partition}: {row.reason}: {row.detail}")
        for source, lag in row.side_lag.items():
            if lag:
                echo(f"shard {row.partition}: {lag:,} {source} not joined yet")
        if row.former_states:
            echo(f"shard {row.partition}: {row.former_states:,} states of a former format left (segstream migrate)")
        if row.warning:
            echo(f"shard {row.partition}: warning: {row.warning}")
    for line in open_backfills(rows, expiry_ms):
        echo(line)


@app.command()
def retry(*, step: Step = StepName.SCORING, partition: Partition = None) -> None:
    """Let quarantined shards try again after you fixed the cause."""
    from stream.settings import load_settings
    from stream.status.report import retry_quarantined

    retried = retry_quarantined(load_settings(), step, now_ms(), partition)
    echo(f"trying again: {', '.join(map(str, retried)) or 'no shard, as none is quarantined'}")


@app.command()
def migrate(
    *,
    wait: Annotated[
        float, typer.Option(help="Wait up to this many seconds until no state of a former format is left.")
    ] = 3_600,
) -> None:
    """Wait until the workers have rewritten all states of a former format.

    After an upgrade each worker does that by itself, between its turns: this command only watches, may be ended at any
    time, and needs no stop. Exits with 1, and a line on stderr for each shard with states left, if time runs out.
    """
    from stream.settings import load_settings
    from stream.status.report import migrated, report

    settings = load_settings()
    deadline = time.monotonic() + wait
    shown = -1
    while True:
        rows = report(settings, StepName.SCORING, now_ms())
        left = sum(row.former_states for row in rows)
        if migrated(rows):
            echo(f"all states of {len(rows)} shards are in the present format")
            return
        if left != shown:
            echo(f"{left:,} states of a former format left, in {sum(row.former_states > 0 for row in rows)} shards")
            shown = left
        if time.monotonic() >= deadline:
            break
        time.sleep(min(1.0, max(deadline - time.monotonic(), 0.0)))
    for row in rows:
        if not migrated([row]):
            why = row.detail or f"{row.state}, owner {row.owner or 'none'}"
            echo(f"segstream: shard {row.partition} has {row.former_states:,} states left: {why}.", err=True)
    raise typer.Exit(1)


@app.command(cls=accepting({"--from-what-is-left": "--allow-truncated-logs"}))
def rebuild(
    *,
    step: Step = StepName.SCORING,
    partition: Partition = None,
    allow_truncated_logs: Annotated[
        bool,
        typer.Option(
            "--allow-truncated-logs",
            help="Rebuild even if the logs have lost records at their beginning or end, or were made anew: figures "
            "start with what they still hold, and shards go on where their input begins now.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask for confirmation.")] = False,
) -> None:
    """Rebuild the contents of Redis from Kafka.

    Empties the shards; their owners then read the logs from the start. No move is published again: those already
    published are read back from the output topic.
    """
    from stream.settings import load_settings

    settings = load_settings()
    if not yes:
        typer.confirm(
            f"Empty Redis for {step} of group {settings.group!r} and read everything again from Kafka?", abort=True
        )
    asyncio.run(_rebuild(settings, step, partition, allow_truncated_logs=allow_truncated_logs))
    retry(step=step, partition=partition)


@app.command("skip-lost")
def skip_lost(
    *,
    step: Step = StepName.SCORING,
    partition: Partition = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask for confirmation.")] = False,
) -> None:
    """Let shards go on where their input begins now, although it has lost records.

    For a topic whose retention has overtaken the workers, or that was deleted and made anew. The customers' states stay
    as they are; records that nobody has read are lost.
    """
    from stream.settings import load_settings

    settings = load_settings()
    if not yes:
        typer.confirm(
            f"Let {step} of group {settings.group!r} go on without the records that its input has lost?", abort=True
        )
    asyncio.run(_skip_lost(settings, step, partition))
    retry(step=step, partition=partition)


async def _skip_lost(settings: Settings, step: str, only: int | None) -> None:
    from stream.kafka.streams import streams_of
    from stream.repair.skip_lost import LossSkipper
    from stream.worker.steps import step_of

    async for line in LossSkipper(settings, streams_of(settings, step), step_of(settings, step)).skip(only):
        echo(line)


async def _rebuild(settings: Settings, step: str, only: int | None, *, allow_truncated_logs: bool = False) -> None:
    from stream.kafka.streams import streams_of
    from stream.repair.rebuild import LogShortened, Rebuilder
    from stream.reshard.journal import read_journal
    from stream.reshard.rebuild import ReshardedRebuilder
    from stream.worker.steps import step_of

    streams = streams_of(settings, step)
    reshards = [reshard for reshard in await read_journal(settings) if step in reshard.steps]
    if reshards:
        try:
            async for line in ReshardedRebuilder(settings, streams, step_of, reshards).rebuild(only):
                echo(line)
        except LogShortened:  # before anything is changed
            if not allow_truncated_logs:
                raise
        else:
            return
    resharded = [shard.head for shard in reshards[-1].steps[step].inherited] if reshards else []
    rebuilder = Rebuilder(settings, streams, step_of(settings, step), resharded=resharded)
    async for line in rebuilder.rebuild(only, allow_truncated_logs=allow_truncated_logs):
        echo(line)


@app.command()
def reshard(
    *,
    partitions: Annotated[
        int, typer.Option(min=2, help="The new number of partitions, larger than now: Kafka can't reduce it.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask for confirmation.")] = False,
) -> None:
    """Move a deployment that is in use to more partitions.

    Gives the topics more partitions, and moves every customer's state, due time, last move and remains to the shard of
    the new count. No move is lost or published twice. Stop all workers and dispatchers first; producers may go on.
    After a crash, run the same command again: it goes on where it ended.
    """
    from stream.settings import load_settings

    asyncio.run(_reshard(load_settings(), partitions, dry_run=dry_run, yes=yes))


async def _reshard(settings: Settings, partitions: int, *, dry_run: bool, yes: bool) -> None:
    from stream.reshard.resharder import Resharder
    from stream.worker.steps import step_of

    resharder = Resharder(settings, partitions, step_of, echo)
    try:
        plan = await resharder.plan()
        for line in plan.lines():
            echo(line)
        if dry_run:
            return
        if not yes:
            typer.confirm(
                f"Move the group {settings.group!r} to {partitions} partitions? It can't be undone.", abort=True
            )
        await resharder.run(plan)
    finally:
        await resharder.close()
    echo(f"done. Set SEGSTREAM_PARTITIONS={partitions} for every process, then start the workers and dispatchers.")
