"""The commands for who is on call: status, retry, rebuild."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, cast

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from segmentation.backfills import Backfill
from segmentation.events import iso
from stream.engine.rebuild import Rebuilder
from stream.engine.status_board import ShardStatus
from stream.kafka.clients import kafka_consumer, partitions_of, redis_client
from stream.settings import Settings, load_settings
from stream.storage.heads import StoreHead, decode_store_head
from stream.storage.keys import ShardKeys, status_key

app = typer.Typer()
STALE_S: Final = 10.0  # an owner that hasn't shown itself for this long is gone, or can't reach Redis


class StepName(StrEnum):
    """Whose shards."""

    SCORING = "scoring"
    CAMPAIGNS = "campaigns"


@dataclass(frozen=True, slots=True)
class ShardReport:
    """One shard, as Redis and Kafka see it."""

    step: str
    partition: int
    owner: str
    state: str
    reason: str
    detail: str
    offset: int
    end: int
    lag: int
    clock: str | None
    model: str
    rescoring: bool
    customers: int
    due: int
    backfills: tuple[Backfill, ...]  # those that mute their customers


def input_topic(settings: Settings, step: str) -> str:
    """What a step reads. Raises ValueError where there is no such step."""
    return settings.orders_topic if StepName(step) is StepName.SCORING else settings.changes_topic


async def end_offsets(settings: Settings, topic: str) -> dict[int, int]:
    """The offset behind the last committed record, by partition. Raises KafkaUnreachable, TopicMissing."""
    async with kafka_consumer(settings) as consumer:
        ends = await consumer.end_offsets(await partitions_of(consumer, [topic]))
    return {tp.partition: end for tp, end in ends.items()}


def report(settings: Settings, step: str) -> list[ShardReport]:
    """Every shard of a step, in the order of the partitions."""
    topic = input_topic(settings, step)
    ends = asyncio.run(end_offsets(settings, topic))
    rows = []
    with redis_client(settings) as redis:
        shown = cast("dict[bytes, bytes]", redis.hgetall(status_key(settings.group, topic)))
        for partition in sorted(ends):
            keys = ShardKeys(settings.group, topic, partition)
            raw = redis.get(keys.head)
            head = decode_store_head(raw) if isinstance(raw, bytes) else None
            told = shown.get(str(partition).encode())
            status = msgspec.json.decode(told, type=ShardStatus) if told else None
            rows.append(
                _row(step, partition, ends[partition], head, status, redis.hlen(keys.states), redis.zcard(keys.due))
            )
    return rows


def _row(
    step: str, partition: int, end: int, head: StoreHead | None, status: ShardStatus | None, customers: Any, due: Any
) -> ShardReport:
    gone = status is None or time.time() - status.at > STALE_S
    state = "no owner" if status is None or (gone and status.state != "quarantined") else status.state
    offset = head.offset if head else 0
    return ShardReport(
        step=step,
        partition=partition,
        owner=status.owner if status else "",
        state=state,
        reason=status.reason if status else "",
        detail=status.detail if status else "",
        offset=offset,
        end=end,
        lag=max(end - offset, 0),
        clock=iso(head.clock) if head and head.clock >= 0 else None,
        model=head.version if head else "",
        rescoring=head is not None and head.cursor is not None,
        customers=customers,
        due=due,
        backfills=tuple(row for row in head.backfills.rows if not row.closed) if head else (),
    )


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
    rows = report(settings, step)
    while wait and time.monotonic() < deadline and not settled(rows):
        time.sleep(0.2)
        rows = report(settings, step)
    if as_json:
        for row in rows:
            typer.echo(msgspec.json.encode(row).decode())
    else:
        _print(rows, expiry_ms=settings.backfill_expiry_ms)
    if any(row.state == "quarantined" for row in rows) or (wait and not settled(rows)):
        raise typer.Exit(1)


def settled(rows: list[ShardReport]) -> bool:
    """Whether everything that was sent has been scored."""
    return all(row.lag == 0 and not row.rescoring for row in rows)


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


def open_backfills(rows: list[ShardReport], expiry_ms: int) -> list[str]:
    """A line for each back-fill that isn't finished everywhere."""
    found: dict[str, list[Backfill]] = {}
    for row in rows:
        for backfill in row.backfills:
            found.setdefault(backfill.id, []).append(backfill)
    return [
        f"back-fill {name} is open on {len(parts)} of {len(rows)} shards since {iso(min(p.since for p in parts))}, its last record came at "
        f"{iso(max(p.last for p in parts))}: its customers are muted until `segstream backfill` ends it, or until "
        f"{iso(max(p.last for p in parts) + expiry_ms)} if nothing more comes"
        for name, parts in sorted(found.items())
    ]


@app.command()
def retry(
    *,
    step: Step = StepName.SCORING,
    partition: Annotated[int | None, typer.Option(help="One shard.", show_default="all")] = None,
) -> None:
    """Let quarantined shards try again, once their reason has been mended."""
    settings = load_settings()
    rows = report(settings, step)
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
    from stream.worker.app import step_of, streams_of

    rebuilder = Rebuilder(settings, streams_of(settings, step), step_of(settings, step))
    async for line in rebuilder.rebuild(only, from_what_is_left=from_what_is_left):
        typer.echo(line)
