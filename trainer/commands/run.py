"""`segtrainer run`: one training run, with its progress on stderr and its outcome on stdout."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stream.clock import now_ms
from stream.renamed_options import accepting
from stream.terminal import echo
from trainer.commands.options import AsJson, By, Reason, settings_and_log
from trainer.commands.run_output import print_tables, without_customers
from trainer.errors import GatesFailed, PlanError
from trainer.training.recipe import NAMES, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stream.settings import DeploymentSettings
    from trainer.outcome import TrainingOutcome
    from trainer.run import Job
    from trainer.training.plan import TrainingPlan
    from trainer.training.search import Progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", cls=accepting({"--alone": "--without-kafka"}))(run_command)


def instant(text: str) -> int:
    """Return an instant of ISO 8601 as ms since 1970; without a zone it is UTC. Raises typer.BadParameter."""
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
    """Return the value as it is. Raises typer.BadParameter where a plan would refuse it later."""
    try:
        if text is not None:
            parse(text)
    except PlanError as error:
        raise typer.BadParameter(str(error)) from None
    return text


def _checked_recipe(name: str | None) -> str | None:
    if name is not None and (reason := refusal(name)):
        raise typer.BadParameter(reason)
    return name


Recipe = Annotated[
    str | None,
    typer.Option(
        metavar=f"[{'|'.join(NAMES)}]",
        help="Basis of the segments. rhythm: each customer's own clock, and kinds of steady customers. rfm: recency, "
        "frequency and money, the best silhouette that passes the gates. textbook: untransformed features and the best "
        "silhouette. tutorial: as textbook, without customers of |z| >= 3, and the elbow.",
        show_default="rhythm",
        callback=_checked_recipe,
    ),
]
Ks = Annotated[
    str | None,
    typer.Option(
        "--k",
        help="Numbers of segments (rhythm: of kinds) to try: 5, 2-8 or 3,5,8.",
        show_default="2-4, for rfm 4-8",
        callback=_checked_ks,
    ),
]
Transforms = Annotated[
    str | None,
    typer.Option(
        help="Transform of each feature before scaling: yeo-johnson, log1p or identity; several separated by commas. "
        "Not for rhythm.",
        show_default="yeo-johnson",
        callback=_checked_transforms,
    ),
]
Seed = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of all random numbers.", show_default="42")]
MinCustomers = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Fewest customers to train on; for rhythm fewest steady ones to tell kinds.",
        show_default="200, for rhythm 50",
    ),
]
OrdersFile = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        dir_okay=False,
        help="Read orders from a file (docs/how-to/files.md) instead of the customers in Redis.",
    ),
]
RatesFile = Annotated[
    Path | None,
    typer.Option(
        "--rates",
        metavar="FILE",
        dir_okay=False,
        help="With --from: convert orders in SEGSTREAM_OTHER_CURRENCIES by the rates in this file "
        "(docs/how-to/currencies.md).",
        show_default="those of `segstream rates load`",
    ),
]
AsOf = Annotated[
    int | None,
    typer.Option(
        metavar="TIME",
        parser=instant,
        help="Instant of the snapshot, ISO 8601 (UTC if it names no zone). Default: now; in event time the shards' "
        "clock; with --from the last event of the file.",
    ),
]
Candidate = Annotated[bool, typer.Option("--candidate", help="Publish the model without activating it.")]
Activate = Annotated[bool, typer.Option("--activate", help="Activate the model however many customers it moves.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Where no fit passes the gates, publish the one with the best silhouette. With rhythm: take new kinds "
        "however many customers they move.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Publish nothing.")]
WithoutKafka = Annotated[
    bool,
    typer.Option(
        "--without-kafka",
        help="Don't read the models topic: no comparison, new segment ids and names. Only with --dry-run.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        file_okay=False,
        help="Write model-VERSION.json, report.html, report.md and report.json to this folder.",
    ),
]


def run_command(
    *,
    recipe: Recipe = None,
    k: Ks = None,
    transform: Transforms = None,
    seed: Seed = None,
    min_customers: MinCustomers = None,
    file: OrdersFile = None,
    rates: RatesFile = None,
    as_of: AsOf = None,
    candidate: Candidate = False,
    activate: Activate = False,
    force: Force = False,
    dry_run: DryRun = False,
    without_kafka: WithoutKafka = False,
    by: By = None,
    reason: Reason = "",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Train a model on the customers, and publish it.

    Activates the model if it moves few enough of the customers.
    """
    from trainer.run import Job
    from trainer.training.settings import TrainingSettings

    if without_kafka and not dry_run:
        raise typer.BadParameter("--without-kafka needs --dry-run: the model can't be published without Kafka")
    if rates is not None and file is None:
        raise typer.BadParameter("--rates needs --from: the states in Redis have their rates already")
    status = _status(candidate=candidate, activate=activate)
    settings = settings_and_log()
    training = TrainingSettings.load(recipe=recipe, k=k, transform=transform, seed=seed, min_customers=min_customers)
    job = Job(
        as_of_ms=as_of,
        file=file,
        rates=rates,
        replica_url=training.redis_url,
        status=status,
        force=force,
        dry_run=dry_run,
        without_kafka=without_kafka,
        out=out,
        by=by or "segtrainer",
        reason=reason,
    )
    outcome = _run(settings, training.plan(), job)
    if as_json:
        echo(json.dumps(without_customers(outcome)))
    else:
        print_tables(outcome)
    _raise_if_refused(outcome)


def _status(*, candidate: bool, activate: bool) -> Literal["auto", "candidate", "activate"]:
    if candidate and activate:
        raise typer.BadParameter("--candidate and --activate exclude each other")
    return "candidate" if candidate else "activate" if activate else "auto"


def _run(settings: DeploymentSettings, plan: TrainingPlan, job: Job) -> TrainingOutcome:
    """Run the training under the deployment's lock, a dry run without it."""
    from trainer.lock import training_lock
    from trainer.run import run

    with nullcontext() if job.dry_run else training_lock(settings), _progress_bar() as progress:
        return run(settings, plan, job, now_ms=now_ms(), clock_s=time.perf_counter, progress=progress)


def _raise_if_refused(outcome: TrainingOutcome) -> None:
    """Raise GatesFailed for a refused model, with the first reason: an alarm at night quotes only this line."""
    if outcome.decision.verdict == "refused":
        raise GatesFailed(
            " ".join(outcome.decision.why[:2]),
            hint="Ask for another --k or --transform, change the limits of the gates, or use --force.",
        )


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    """Show the progress of a run on stderr where that is a terminal."""
    from rich import progress
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

    from stream.consoles import error_console

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = error_console()
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading the models topic", total=None)

        def show_step(step: str, done: int, total: int) -> None:
            bar.update(task, description=step, completed=done, total=total)

        yield show_step
