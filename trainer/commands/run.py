"""`segtrainer run`: one training run, told as it goes, and what came of it as a table or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stream.clock import now_ms
from stream.renamed_options import accepting
from trainer.commands.models import By, Reason
from trainer.errors import GatesFailed, PlanError
from trainer.training.recipe import RecipeName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.table import Table

    from trainer.outcome import Fit, SegmentFacts, TrainingOutcome
    from trainer.training.search import Progress as Hears

log = logging.getLogger(__name__)

# Wide enough for every column where the output isn't a terminal.
_WIDTH: Final = 140
_RECIPES: Final = "How to fit and choose. textbook: raw, the best silhouette. tutorial: |z| < 3, the elbow."


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", cls=accepting({"--alone": "--without-kafka"}))(run_command)


def instant(text: str) -> int:
    """Read ISO 8601 as milliseconds since 1970; UTC without a zone. Raises typer.BadParameter."""
    from segmentation.events import RejectedEvent, millis

    try:
        at = datetime.fromisoformat(text)
        return millis(at if at.tzinfo else at.replace(tzinfo=UTC), "--as-of")
    except (ValueError, RejectedEvent) as error:
        raise typer.BadParameter(f"{error}; expected ISO 8601 like 2011-12-10T00:00:00Z") from None


def _checked_ks(text: str | None) -> str | None:
    from trainer.training.plan import parse_ks

    return _checked(parse_ks, text)


def _checked_transforms(text: str | None) -> str | None:
    from trainer.training.plan import parse_transforms

    return _checked(parse_transforms, text)


def _checked(parse: Callable[[str], object], text: str | None) -> str | None:
    """Refuse as misuse what a plan would refuse later."""
    try:
        if text is not None:
            parse(text)
    except PlanError as error:
        raise typer.BadParameter(str(error)) from None
    return text


def run_command(
    *,
    recipe: Annotated[RecipeName | None, typer.Option(help=_RECIPES, show_default="default")] = None,
    k: Annotated[
        str | None,
        typer.Option("--k", help="How many segments: 5, 2-8 or 3,5,8.", show_default="4-8", callback=_checked_ks),
    ] = None,
    transform: Annotated[
        str | None,
        typer.Option(
            help="What each feature goes through before scaling: yeo-johnson, log1p, identity; several with commas.",
            show_default="yeo-johnson",
            callback=_checked_transforms,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Where everything random begins.", show_default="42")
    ] = None,
    min_customers: Annotated[
        int | None, typer.Option(min=2, help="With fewer customers nothing is trained.", show_default="200")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", dir_okay=False, help="Read orders from a file (docs/how-to/files.md), not Redis."
        ),
    ] = None,
    as_of: Annotated[
        int | None,
        typer.Option(
            metavar="TIME",
            parser=instant,
            help="Instant of the snapshot, ISO 8601; UTC if without zone. Default: now; in event time the shards' clock; of a file its last event.",
        ),
    ] = None,
    candidate: Annotated[bool, typer.Option("--candidate", help="Publish the model without activating it.")] = False,
    activate: Annotated[bool, typer.Option("--activate", help="Activate it however many customers it moves.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Publish the best fit even if none passes the gates.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Publish nothing.")] = False,
    without_kafka: Annotated[
        bool,
        typer.Option(
            "--without-kafka",
            help="Don't read the models topic: no comparison, new segment ids and names. Only with --dry-run.",
        ),
    ] = False,
    by: By = None,
    reason: Reason = "",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Write model, outcome and report here."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train a model on the customers, and publish it.

    Names the segments, and activates the model if it moves few enough of the customers.
    """
    from stream.settings import DeploymentSettings
    from trainer.lock import training_lock
    from trainer.run import Job, run
    from trainer.training.settings import TrainingSettings

    if candidate and activate:
        raise typer.BadParameter("--candidate and --activate exclude each other")
    if without_kafka and not dry_run:
        raise typer.BadParameter("--without-kafka needs --dry-run: the model can't be published without Kafka")
    settings = DeploymentSettings.load()
    logging.basicConfig(stream=sys.stderr, level=settings.log_level, format="%(levelname)s %(name)s: %(message)s")
    # A library's own news are for whoever asks for them.
    logging.getLogger("aiokafka").setLevel(logging.WARNING if settings.log_level == "INFO" else settings.log_level)
    training = TrainingSettings.load(recipe=recipe, k=k, transform=transform, seed=seed, min_customers=min_customers)
    job = Job(
        as_of_ms=as_of,
        file=file,
        replica_url=training.redis_url,
        status="candidate" if candidate else "activate" if activate else "auto",
        force=force,
        dry_run=dry_run,
        without_kafka=without_kafka,
        out=out,
        by=by or "segtrainer",
        reason=reason,
    )
    with nullcontext() if dry_run else training_lock(settings), _progress() as hear:
        outcome = run(
            settings,
            training.plan(),
            job,
            now_ms=now_ms(),
            clock_s=time.perf_counter,
            progress=hear,
        )
    if as_json:
        typer.echo(json.dumps(told(outcome)))
    else:
        show(outcome)
    if outcome.decision.verdict == "refused":
        # With the first reason: who hears of a failed run in the night sees this line alone.
        raise GatesFailed(
            " ".join(outcome.decision.why[:2]),
            hint="Ask for another --k or --transform, move the gates, or --force it.",
        )


@contextmanager
def _progress() -> Iterator[Hears]:
    """Show on stderr how far the run is, where somebody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("reading the models topic", total=None)

        def hear(what: str, done: int, total: int) -> None:
            shown.update(task, description=what, completed=done, total=total)

        yield hear


def told(outcome: TrainingOutcome) -> dict[str, Any]:
    """Give the outcome for machines: all of it but the single customers, which go to the file."""
    import msgspec

    content: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(outcome, sample=None))
    del content["sample"]
    return content


def show(outcome: TrainingOutcome) -> None:
    """Print the fits, the segments and the decision for people."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    if len(outcome.fits) > 1 or outcome.decision.verdict == "refused":
        console.print(_fits(outcome))
    if outcome.segments:
        console.print(_segments(outcome))
    if (comparison := outcome.comparison) is not None:
        console.print(
            f"Against the active model {comparison.version}: {comparison.moved:.1%} of the customers would move.",
            highlight=False,
        )
    for sentence in outcome.decision.why:
        console.print(sentence, highlight=False, markup=False)
    quality = outcome.quality
    status = {
        "active": f"active as activation {outcome.decision.activation}",
        "candidate": "published as candidate, not active",
        "dry-run": "not published (dry run)",
        "refused": "not published (refused)",
    }[outcome.decision.verdict]
    version = f"; version {outcome.version}" if outcome.version else ""
    console.print(f"{quality.customers:,} customers, {quality.left_out:,} left out{version}: {status}", highlight=False)


def _fits(outcome: TrainingOutcome) -> Table:
    from rich.table import Table

    table = Table(title="Fits", caption="bold: chosen; red: fails its gate")
    table.add_column("transform")
    for heading in ("k", "inertia", "silhouette", "stability", "smallest", "largest"):
        table.add_column(heading, justify="right")
    for fit in outcome.fits:
        failed = {gate.name for gate in fit.gates if not gate.passed}
        cells = [
            _cell(fit.inertia, ",.0f"),
            _cell(fit.silhouette, ".3f"),
            _cell(fit.stability, ".2f", red="stability" in failed),
            _cell(fit.smallest_share, ".1%", red="smallest share" in failed),
            _cell(fit.largest_share, ".1%", red="largest share" in failed),
        ]
        if fit.failure:
            cells = ["-"] * len(cells)
        table.add_row(fit.transform, str(fit.k), *cells, style=_style(fit))
    return table


def _style(fit: Fit) -> str:
    return "bold" if fit.chosen else ""


def _cell(value: float | None, form: str, *, red: bool = False) -> str:
    text = "-" if value is None else format(value, form)
    return f"[red]{text}[/red]" if red else text


def _segments(outcome: TrainingOutcome) -> Table:
    from rich.table import Table

    table = Table(title=f"Segments as of {outcome.as_of}", caption="recency, frequency, monetary: medians; money: sum")
    table.add_column("segment")
    for heading in ("customers", "share", "money", "recency (days)", "frequency", "monetary"):
        table.add_column(heading, justify="right")
    table.add_column("action")
    for segment in outcome.segments:
        table.add_row(*_row(segment))
    return table


def _row(segment: SegmentFacts) -> tuple[str, ...]:
    spreads = ((segment.recency_days, 1), (segment.frequency, 0), (segment.monetary, 2))
    medians = ["-" if spread is None else f"{spread.median:,.{decimals}f}" for spread, decimals in spreads]
    money = "-" if segment.money_share is None else f"{segment.money_share:.1%}"
    return (segment.name, f"{segment.customers:,}", f"{segment.share:.1%}", money, *medians, segment.action)
