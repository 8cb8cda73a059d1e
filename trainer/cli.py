"""`segtrainer run`: the customers' states in, a named segment model out, published and active unless told otherwise."""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from segmentation.events import RejectedEvent, iso, millis
from segmentation.model import Transform
from trainer import life_cli
from trainer.errors import PublishError, TrainerError
from trainer.fit import MIN_CUSTOMERS, Recipe, Trained, train
from trainer.publish import Activation, publish, read_lineage
from trainer.settings import load_settings
from trainer.snapshot import Snapshot, take

log = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Learn the segments from the customers' states.")

# Wide enough for every column where the output isn't a terminal.
_WIDTH: Final = 140


@app.callback()
def _commands() -> None:
    """Learn the segments from the customers' states, and publish them to the workers."""


def _instant(text: str) -> int:
    """Read ISO 8601 as milliseconds since 1970."""
    try:
        at = datetime.fromisoformat(text)
        return millis(at if at.tzinfo else at.replace(tzinfo=UTC), "--as-of")
    except (ValueError, RejectedEvent) as error:
        raise typer.BadParameter(f"{error}; expected ISO 8601 like 2011-12-10T00:00:00Z") from None


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A segment as it is shown: how many customers, their part of all (0 to 1), and their medians."""

    id: int
    name: str
    customers: int
    share: float
    recency_days: float | None
    frequency: float | None
    monetary: float | None
    action: str


@app.command()
def run(
    *,
    k: Annotated[int, typer.Option("--k", min=2, max=16, help="How many segments.")] = 5,
    transform: Annotated[
        Transform, typer.Option(help="What each feature goes through before scaling.")
    ] = "yeo-johnson",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Where the random starts of K-Means begin.")] = 42,
    as_of: Annotated[
        int | None,
        typer.Option(
            metavar="TIME",
            parser=_instant,
            help="Instant of the snapshot, ISO 8601; UTC if without zone. Default: now; in event time the shards' clock.",
        ),
    ] = None,
    min_customers: Annotated[int, typer.Option(min=2, help="With fewer customers nothing is trained.")] = MIN_CUSTOMERS,
    candidate: Annotated[bool, typer.Option("--candidate", help="Publish the model without activating it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Publish nothing.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Write the model here too, as model-VERSION.json."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train on the live states, name the segments, publish the model and activate it."""
    settings = load_settings()
    logging.basicConfig(stream=sys.stderr, level=settings.log_level, format="%(levelname)s %(name)s: %(message)s")
    # A library's own news are for whoever asks for them.
    logging.getLogger("aiokafka").setLevel(logging.WARNING if settings.log_level == "INFO" else settings.log_level)
    now_ms = time.time_ns() // 1_000_000
    snapshot = take(settings, as_of, now_ms=now_ms)
    trained = train(snapshot, Recipe(k, transform, seed, min_customers), read_lineage(settings))
    if out is not None:
        _write(trained, out)
    published = Activation(None, trained.model.version)
    if not dry_run:
        event_time = settings.time == "event"
        published = publish(settings, trained.model, activate=not candidate, event_time=event_time, now_ms=now_ms)
    outcome = "dry-run" if dry_run else "candidate" if candidate else "active"
    if as_json:
        typer.echo(json.dumps(_report(snapshot, trained, published, outcome)))
    else:
        _print(snapshot, trained, published, outcome)


def segment_rows(snapshot: Snapshot, trained: Trained) -> list[SegmentRow]:
    """Count and measure each segment, in the model's order. Medians are None where nobody is in it."""
    rows = []
    for index, segment in enumerate(trained.model.segments):
        inside = trained.labels == index
        count = int(np.count_nonzero(inside))
        recency, frequency, monetary = (
            float(np.median(column[inside])) if count else None
            for column in (snapshot.recency_days, snapshot.frequency, snapshot.monetary)
        )
        share = count / len(trained.labels)
        rows.append(SegmentRow(segment.id, segment.name, count, share, recency, frequency, monetary, segment.action))
    return rows


def _report(snapshot: Snapshot, trained: Trained, published: Activation, outcome: str) -> dict[str, object]:
    training = trained.model.training
    return {
        "outcome": outcome,
        "version": published.version,
        "parent": trained.model.parent,
        "activation": published.number,
        "as_of": iso(snapshot.as_of_ms),
        "customers": training.customers,
        "left_out": snapshot.left_out,
        "silhouette": training.silhouette,
        "inertia": training.inertia,
        "segments": [
            {field: getattr(row, field) for field in SegmentRow.__slots__} for row in segment_rows(snapshot, trained)
        ],
    }


def _print(snapshot: Snapshot, trained: Trained, published: Activation, outcome: str) -> None:
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    table = Table(title=f"Segments as of {iso(snapshot.as_of_ms)}", caption="recency, frequency, monetary: medians")
    table.add_column("segment")
    for heading in ("customers", "share", "recency (days)", "frequency", "monetary"):
        table.add_column(heading, justify="right")
    table.add_column("action")
    for row in segment_rows(snapshot, trained):
        medians = [
            "-" if median is None else f"{median:,.{decimals}f}"
            for median, decimals in ((row.recency_days, 1), (row.frequency, 0), (row.monetary, 2))
        ]
        table.add_row(row.name, f"{row.customers:,}", f"{row.share:.1%}", *medians, row.action)
    console.print(table)
    silhouette = trained.model.training.silhouette
    quality = "no silhouette" if silhouette is None else f"silhouette {silhouette:.3f}"
    told = {
        "active": f"active as activation {published.number}",
        "candidate": "published as candidate, not active",
        "dry-run": "not published (dry run)",
    }[outcome]
    customers = f"{len(snapshot.customers):,} customers, {snapshot.left_out:,} left out"
    console.print(f"{customers}; {quality}; version {published.version}: {told}", highlight=False)


def _write(trained: Trained, folder: Path) -> None:
    path = folder / f"model-{trained.model.version}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(trained.model.to_json())
    except OSError as error:
        raise PublishError(f"{path} can't be written: {error.strerror}.", hint="Give another --out.") from None
    log.info("wrote %s", path)


life_cli.register(app)


def main() -> None:
    """Run the command line: exit code 0, 1 (failed: one line on stderr says what to do), 2 (usage)."""
    try:
        app()
    except TrainerError as error:
        typer.echo(f"segtrainer: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
