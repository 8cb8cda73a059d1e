"""A training run from beginning to end: read the customers, learn a model, publish and report it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import msgspec

from segmentation.event_text import iso
from segmentation.rates import ONE_CURRENCY, Conversion, Rates
from stream.errors import SegstreamError
from stream.orders.dates import AcceptedDates
from stream.rates.topic import read_rates
from trainer.errors import PublishError, SnapshotError
from trainer.prospects.foresee import foreseen
from trainer.registry.contents import Signature
from trainer.registry.publish import publish, read_lineage
from trainer.registry.reports import NoReport, keep
from trainer.report.render import write_report
from trainer.rhythm.learn import learn_by_recipe
from trainer.snapshot.orders import rates_in_file, read_book, take_from_book
from trainer.snapshot.redis import take
from trainer.snapshot.sampled_histories import book_of_sample
from trainer.training.learn import Stopwatch, held_back
from trainer.training.naming import Lineage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydantic import SecretStr

    from segmentation.model import SegmentModel
    from stream.settings import DeploymentSettings
    from trainer.outcome import TrainingOutcome, Verdict
    from trainer.snapshot.orders import OrderBook
    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.learn import TrainingResult
    from trainer.training.plan import TrainingPlan
    from trainer.training.search import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """The task of one run, except how it trains.

    `file`: orders to read instead of Redis; `rates`: those of other currencies for it, instead of Kafka's;
    `replica_url`: a Redis to read instead of the deployment's. `status`: "auto" activates a model that moves few enough
    customers, and publishes another one as a candidate. `without_kafka`: neither models nor rates are read, so ids and
    names start from the beginning; only with `dry_run`. `by`, `reason`: who publishes, and why.
    """

    as_of_ms: int | None = None
    file: Path | None = None
    rates: Path | None = None
    replica_url: SecretStr | None = None
    status: Literal["auto", "candidate", "activate"] = "auto"
    force: bool = False
    dry_run: bool = False
    without_kafka: bool = False
    out: Path | None = None
    by: str = "segtrainer"
    reason: str = ""


def run(
    settings: DeploymentSettings,
    plan: TrainingPlan,
    job: Job,
    *,
    now_ms: int,
    clock_s: Callable[[], float],
    progress: Progress,
) -> TrainingOutcome:
    """Train once. Raises TrainerError; then nothing was published, but see PublishError.

    1. Read the active model from the models topic.
    2. Read the snapshot, from Redis or a file.
    3. Make the model (`learn_by_recipe`), and add what its segments will do (`foreseen`). Where the gates refuse every
       fit, the outcome says so: nothing is published.
    4. Write the model's file: a folder that can't be written stops the run before anything is published.
    5. Publish, unless another model became active since 1.
    6. Keep the report of a published model in Kafka. If that fails, the run has still succeeded.
    7. Write the report as files: report.html, report.md, and report.json, which holds the outcome.
    """
    if job.without_kafka and not job.dry_run:
        raise PublishError("a model trained without the models topic can't be published.", hint="Add --dry-run.")
    _check_as_of(settings, job.as_of_ms, now_ms)
    watch = Stopwatch(clock_s)
    lineage = _lineage(settings, job, watch)
    progress("reading the customers", 0, 1)
    with watch.step("snapshot"):
        book, snapshot = _snapshot(settings, job, now_ms)
    result = learn_by_recipe(
        snapshot,
        plan,
        lineage,
        source=job.file.name if job.file else "Redis",
        now_ms=now_ms,
        watch=watch,
        progress=progress,
        force=job.force,
        book=book,
    )
    if result.trained is not None:
        with watch.step("prospects"):
            outcome = foreseen(result.outcome, snapshot, result.trained, lineage, settings.currency)
        result = replace(result, outcome=outcome)
    model = result.trained.model if result.trained else None
    if job.out is not None and model is not None:
        _write(job.out, f"model-{model.version}.json", model.to_json())
    verdict, why = _verdict(result, job)
    activation = None
    if model is not None and verdict in ("active", "candidate"):
        with watch.step("publication"):
            activation = _publish(settings, model, lineage, job, activate=verdict == "active", now_ms=now_ms)
    outcome = msgspec.structs.replace(
        _decided(result.outcome, verdict, why, activation), timings=tuple(watch.timings), currency=settings.currency
    )
    if verdict in ("active", "candidate"):
        _keep(settings, outcome, job.out)
    if job.out is not None:
        _report(outcome, job.out)
    return outcome


def _check_as_of(settings: DeploymentSettings, as_of_ms: int | None, now_ms: int) -> None:
    """Raise SnapshotError for an instant to come: everybody would seem silent since today."""
    if as_of_ms is not None and as_of_ms > accepted_dates(settings, now_ms).latest_ms:
        raise SnapshotError(
            f"--as-of {iso(as_of_ms)} is in the future; it is {iso(now_ms)} now.", hint="Give a time that has come."
        )


def accepted_dates(settings: DeploymentSettings, now_ms: int) -> AcceptedDates:
    """Return the dates that the deployment's shards accept now."""
    earliest, tolerance_s = settings.earliest_date, settings.future_tolerance_s
    return AcceptedDates.at(now_ms, earliest_date=earliest, future_tolerance_s=tolerance_s)


def _lineage(settings: DeploymentSettings, job: Job, watch: Stopwatch) -> Lineage:
    if job.without_kafka:
        return Lineage()
    with watch.step("models topic"):
        return read_lineage(settings)


def _snapshot(settings: DeploymentSettings, job: Job, now_ms: int) -> tuple[OrderBook | None, CustomerSnapshot]:
    """Return the customers, and their orders: of the file that they were read from, or of a sample of the states."""
    if job.file is not None:
        dates = accepted_dates(settings, now_ms)
        book = read_book(job.file, settings.rules, settings.currency, conversion_of(settings, job), dates)
        return book, take_from_book(book, job.file, job.as_of_ms)
    source: DeploymentSettings = settings
    if job.replica_url is not None:
        # The replica itself, whatever the Sentinels call the primary.
        directly = {"redis_url": job.replica_url, "redis_sentinels": None, "redis_sentinel_master": None}
        source = settings.model_copy(update=directly)
    snapshot = take(source, job.as_of_ms, now_ms=now_ms)
    return book_of_sample(snapshot, settings.rules), snapshot


def conversion_of(settings: DeploymentSettings, job: Job) -> Conversion:
    """Return the way from the other currencies of the settings, by a file of rates or those in Kafka."""
    others = settings.all_currencies - {settings.currency}
    if job.rates is not None:
        if not others:
            message = "--rates is given, but no other currency is set."
            raise SnapshotError(message, hint="Set SEGSTREAM_OTHER_CURRENCIES to those that the orders are in.")
        return Conversion(others, rates_in_file(job.rates, settings.currency, others))
    if not others:
        return ONE_CURRENCY
    if job.without_kafka:
        return Conversion(others, Rates(settings.currency))
    try:
        return Conversion(others, asyncio.run(read_rates(settings)))
    except SegstreamError as error:
        message = f"the rates of {', '.join(sorted(others))} can't be read: {error}"
        raise SnapshotError(message, hint="Give them as a file with --rates FILE.") from error


def _verdict(result: TrainingResult, job: Job) -> tuple[Verdict, str | None]:
    """Return the verdict, and a sentence with its reason unless the choice of the fit gives it already."""
    if result.trained is None:
        return "refused", None
    status: Verdict = "active" if job.status == "activate" or result.may_activate else "candidate"
    why = None
    if job.status == "candidate":
        status, why = "candidate", "It is a candidate, as requested."
    elif not result.may_activate:
        over = "; ".join(held_back(gate) for gate in result.holding_back)
        asked = job.status == "activate"
        why = f"Activated as requested, though {over}." if asked else f"It stays a candidate: {over}."
    if not job.dry_run:
        return status, why
    return "dry-run", f"Dry run: nothing was published; the model would be {status}. {why or ''}".rstrip()


def _decided(outcome: TrainingOutcome, verdict: Verdict, why: str | None, activation: int | None) -> TrainingOutcome:
    decision = msgspec.structs.replace(
        outcome.decision,
        verdict=verdict,
        why=outcome.decision.why + ((why,) if why else ()),
        activation=activation,
    )
    return msgspec.structs.replace(outcome, decision=decision)


def _publish(
    settings: DeploymentSettings, model: SegmentModel, lineage: Lineage, job: Job, *, activate: bool, now_ms: int
) -> int | None:
    published = publish(
        settings,
        model,
        activate=activate,
        event_time=settings.time == "event",
        now_ms=now_ms,
        signed=Signature.now(job.by, now_ms, job.reason),
        expected=lineage,
    )
    return published.number


def _write(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise PublishError(f"{path} can't be written: {error.strerror}.", hint="Give another --out.") from None
    log.info("wrote %s", path)


def _keep(settings: DeploymentSettings, outcome: TrainingOutcome, folder: Path | None) -> None:
    """Keep the report. If that fails, the run hasn't: the model is published."""
    where = f"It is only in {folder}." if folder else "With --out DIR a run writes it to files too."
    try:
        keep(settings, outcome)
    except NoReport as error:
        log.warning("model %s is published, but its report isn't kept: %s %s", outcome.version, error, where)
    except Exception:
        log.exception("model %s is published, but its report can't be made. %s", outcome.version, where)


def _report(outcome: TrainingOutcome, folder: Path) -> None:
    try:
        write_report(outcome, folder)
    except OSError as error:
        raise PublishError(
            f"the report can't be written to {folder}: {error.strerror}; the run itself has ended "
            f"({outcome.decision.verdict}).",
            hint="Give another --out.",
        ) from None
