"""Keep the reports of training runs in Kafka: the machine of a run, and its disk, may not exist any more later.

There is one record for each published model, under its version, on a compacted topic. It holds the page and the
Markdown as the run wrote them, and the outcome without the single customers: with them it would have 1.5 MB, more than
Kafka accepts by default, and without them it has about 40 KB. It contains no customer ids.
"""

from __future__ import annotations

import asyncio
import zlib
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stream.kafka.clients import raise_if_denied
from stream.kafka.refusals import explained
from trainer.errors import TrainerError
from trainer.registry.publish import read_models
from trainer.registry.topic import REQUEST_MS, read_whole, started
from trainer.report.render import html, markdown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from stream.settings import DeploymentSettings
    from trainer.outcome import TrainingOutcome
    from trainer.registry.contents import TopicContents

TIMEOUT_S: Final = 30.0  # for all of a reading, or of a writing
# Far above any report: larger content is refused while it is decompressed.
_LARGEST_BYTES: Final = 32 * 1024 * 1024
_LISTED: Final = 10  # versions that an error names, at most


class NoReport(TrainerError):
    """A report isn't kept, can't be read, or can't be kept. The model itself isn't affected."""


class KeptReport(msgspec.Struct, frozen=True, kw_only=True):
    """The kept report of a run. `outcome`: the outcome's JSON, with `sample` null.

    The outcome is passed on unread, because another version of the trainer may have written it.
    """

    format: Literal[1] = 1
    version: str
    outcome: msgspec.Raw
    html: str
    markdown: str

    @classmethod
    def of(cls, outcome: TrainingOutcome) -> Self:
        """Return the report of a run that made a model. Raises ValueError where the outcome has no version."""
        if outcome.version is None:
            raise ValueError("the outcome has no version: expected that of a run that made a model")
        bare = msgspec.structs.replace(outcome, sample=None)
        return cls(
            version=outcome.version,
            outcome=msgspec.Raw(bare.to_json()),
            html=html(outcome),
            markdown=markdown(outcome),
        )

    def to_bytes(self) -> bytes:
        """Return the value of its record: JSON, compressed by zlib."""
        return zlib.compress(msgspec.json.encode(self), level=9)

    @classmethod
    def from_bytes(cls, version: str, value: bytes) -> Self:
        """Parse the value of a version's record. Raises NoReport where it isn't its report."""
        try:
            report = msgspec.json.decode(_unpacked(value), type=cls)
        except (zlib.error, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _broken(version, str(error)) from None
        if report.version != version:
            raise _broken(version, f"it is that of model {report.version}")
        return report


def keep(settings: DeploymentSettings, outcome: TrainingOutcome) -> None:
    """Write the report of a run under the version of its model; it replaces an earlier one. Raises NoReport."""
    report = KeptReport.of(outcome)
    asyncio.run(_write(settings, report.version, report.to_bytes()))


def find(settings: DeploymentSettings, version: str | None = None) -> KeptReport:
    """Return the report of a model, by its version or the beginning of it; None: of the active model.

    Raises NoReport, PublishError.
    """
    published = read_models(settings)
    kept = asyncio.run(_read(settings))
    name = choose(version, published, kept)
    return KeptReport.from_bytes(name, kept[name])


def choose(version: str | None, published: TopicContents, kept: Iterable[str]) -> str:
    """Return the version that is meant, of the models on the topic and those with a report. Raises NoReport."""
    kept = list(kept)
    if version is None:
        if published.active is None:
            raise NoReport("no model is active, and no VERSION was given.", hint=_kept_reports(kept))
        name = published.active.version
    else:
        there = dict.fromkeys((*published.versions, *kept))
        found = [name for name in there if name == version] or [name for name in there if name.startswith(version)]
        if len(found) > 1:
            raise NoReport(
                f"{len(found)} models have a version that begins with {version!r}: {_listed(found)}.",
                hint="Give more characters of it.",
            )
        if not found:
            raise NoReport(f"no model has a version that begins with {version!r}.", hint=_kept_reports(kept))
        [name] = found
    if name not in kept:
        raise NoReport(
            f"no report of model {name} is kept: reports weren't kept yet when it was published, something else than "
            "`segtrainer run` published it, or the run has warned that its report isn't kept.",
            hint=_kept_reports(kept),
        )
    return name


def write(report: KeptReport, folder: Path) -> None:
    """Write report.html, report.md and report.json into a folder, which is created if needed. Raises NoReport."""
    files = {
        "report.json": bytes(report.outcome) + b"\n",
        "report.md": report.markdown.encode(),
        "report.html": report.html.encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise NoReport(f"{folder} can't be written: {error.strerror}.", hint="Give another --out.") from None


def _kept_reports(kept: list[str]) -> str:
    if not kept:
        return "No reports are kept; `segtrainer run` keeps the report of each model that it publishes."
    return f"Reports are kept of {_listed(kept)}."


def _listed(versions: list[str]) -> str:
    """Return the latest versions, and the number of older ones.

    >>> _listed(["a", "b"]), _listed([str(n) for n in range(12)])
    ('a, b', '2 older ones, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11')
    """
    older = len(versions) - _LISTED
    return ", ".join(([f"{older} older ones"] if older > 0 else []) + versions[-_LISTED:])


def _broken(version: str, what: str) -> NoReport:
    return NoReport(
        f"the record of model {version} isn't a report that this segtrainer reads: {what}.",
        hint="A newer segtrainer may have written it; nothing but the report is lost.",
    )


def _unpacked(value: bytes) -> bytes:
    """Decompress a report. Raises zlib.error."""
    stream = zlib.decompressobj()
    content = stream.decompress(value, _LARGEST_BYTES)
    if not stream.eof:
        raise zlib.error("it is cut off, or far too large")
    return content


async def _write(settings: DeploymentSettings, version: str, value: bytes) -> None:
    async with _translated(settings), _producer(settings) as producer:
        await raise_if_denied(producer, [settings.reports_topic])
        _expect_topic(settings, (await producer.client.fetch_all_metadata()).topics())
        await producer.send_and_wait(settings.reports_topic, value, key=version.encode(), partition=0)


async def _read(settings: DeploymentSettings) -> dict[str, bytes]:
    """Read the topic to its end. Return the latest value of each version, in the order of the records."""
    found: dict[str, bytes] = {}
    async with _translated(settings):
        records = await read_whole(settings, settings.reports_topic, lambda there: _expect_topic(settings, there))
    for record in records:
        name = (record.key or b"").decode(errors="replace")
        found.pop(name, None)
        if record.value is not None:
            found[name] = record.value
    return found


def _expect_topic(settings: DeploymentSettings, existing: set[str]) -> None:
    """Raise NoReport where the topic doesn't exist: a broker might otherwise create it with settings of its own."""
    if settings.reports_topic not in existing:
        raise NoReport(f"no topic {settings.reports_topic}.", hint="Run `segstream topics create`.")


def _producer(settings: DeploymentSettings) -> AbstractAsyncContextManager[Any]:
    return started(AIOKafkaProducer(**settings.kafka_client(), acks="all", request_timeout_ms=REQUEST_MS))


@asynccontextmanager
async def _translated(settings: DeploymentSettings) -> AsyncIterator[None]:
    """Limit the block to TIMEOUT_S, and translate Kafka's errors to NoReport."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield
    except (KafkaError, OSError) as error:  # TimeoutError is an OSError
        if not isinstance(error, TimeoutError):
            raise NoReport(str(await explained(settings, error))) from error
        raise NoReport(
            f"Kafka at {settings.kafka_bootstrap_servers}: no answer within {TIMEOUT_S:.0f} s.",
            hint=f"Check that the brokers run, and that this user may read and write topic {settings.reports_topic}.",
        ) from error
