"""The run of a demo: Kafka, Valkey, workers, dispatcher and trainer on this machine, all real, with real orders."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from segmentation.event_text import iso
from stream.demo.processes import DemoProcesses
from stream.demo.report import DemoResult, Throughput
from stream.demo.result import LOGS, read_result
from stream.demo.source import DemoError, DemoOrders, DemoRequest, opened
from stream.demo.view import DemoProgress
from stream.kafka import topics
from stream.kafka.clients import kafka_consumer, partitions_of
from stream.local.stack import Endpoints, LocalStack
from stream.private_files import private_folder
from stream.replay.publisher import replay
from stream.settings import Settings, load_settings
from stream.settings_sources import PREFIX
from stream.status.report import report as shard_reports
from stream.status.report import settled

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from stream.demo.view import View
    from stream.status.report import ShardReport

T = TypeVar("T")

SERVERS: Final = "servers"
_PARTITIONS: Final = 8
_POLL_S: Final = 0.1
# The same as the script `segtrainer`, but started by this interpreter, whatever the PATH is.
_TRAINER: Final = "from trainer.cli import main; main()"
# A shard that makes no progress for so long is stuck: session time-outs and takeovers take a few seconds.
_STUCK_S: Final = 60.0
# The folder of downloads belongs to the machine; the demo sets every other setting itself.
_KEPT_VARIABLES: Final = {f"{PREFIX}CACHE_DIR"}


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """How to run a demo. `speed`: a multiple of the orders' own timing, after the training; None: without waiting."""

    folder: Path
    workers: int = 2
    speed: float | None = None


class _MoveSegments(msgspec.Struct, rename={"from_": "from"}):
    """The part of a move that the live display needs."""

    from_: str | None
    to: str | None


_move_segments = msgspec.json.Decoder(_MoveSegments)


@contextmanager
def demo(request: DemoRequest, plan: DemoPlan, view: View, clock: Callable[[], int]) -> Iterator[DemoResult]:
    """Run the demo, yield its result while everything is still running, then stop everything. `clock`: now in ms.

    Points the environment of this process at the demo's servers, for its child processes and for its caller. The
    servers' data is deleted at the end unless the demo failed. Raises SegstreamError.
    """
    began_s = time.monotonic()
    _check_folder(plan.folder)
    with ExitStack() as stack:
        with view.shown():
            view.phase(f"reading the orders of {request.source}")
            orders = stack.enter_context(opened(request, lambda rows: view.note(f"{rows:,} rows")))
            _make_folder(plan.folder)
            stack.push(_Cleanup(plan.folder))
            view.phase("starting Kafka and Valkey")
            servers = stack.enter_context(LocalStack(plan.folder / SERVERS, report=view.note))
            settings = _own_settings(servers.endpoints, orders.currency)
            asyncio.run(topics.create(settings))
            processes = DemoProcesses(plan.folder / LOGS, plan.folder / SERVERS)
            stack.callback(processes.end)
            throughputs = asyncio.run(_DemoRun(settings, orders, plan, view, processes, clock).run())
            view.phase("reading the published records again")
            result = read_result(settings, orders, throughputs, plan.folder, began_s=began_s, now_ms=clock())
        yield result


class _Cleanup:
    """Keeps the servers' logs and deletes their data; after a failure it keeps everything, for inspection."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Clean up after the servers have stopped; an exit callback of an ExitStack."""
        del error
        if kind is not None and issubclass(kind, Exception):
            return
        for server in ("kafka", "valkey"):
            log = self._folder / SERVERS / server / "server.log"
            if log.exists():
                log.replace(self._folder / LOGS / f"{server}.log")
        shutil.rmtree(self._folder / SERVERS, ignore_errors=True)


def _check_folder(folder: Path) -> None:
    """Raise DemoError unless the folder is new or empty, so that no other files mix with the demo's."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DemoError(f"{folder} exists and isn't an empty folder.", hint="Choose a new or an empty folder.")


def _make_folder(folder: Path) -> None:
    """Create the demo's folders. Raises DemoError."""
    try:
        private_folder(folder)
        (folder / "logs").mkdir()
        (folder / "servers").mkdir()
    except OSError as error:
        raise DemoError(
            f"{folder} can't be created: {error.strerror}.", hint="Choose another folder with --out."
        ) from error


def _own_settings(endpoints: Endpoints, currency: str) -> Settings:
    """Point this process and its child processes at the demo's servers, without the user's own settings."""
    for name in [n for n in os.environ if n.startswith(PREFIX) and n not in _KEPT_VARIABLES]:
        del os.environ[name]
    os.environ.update(endpoints.environment())
    chosen = {"group": "demo", "time": "event", "currency": currency, "partitions": str(_PARTITIONS)}
    os.environ.update({f"{PREFIX}{name.upper()}": value for name, value in chosen.items()})
    return load_settings()


def _owned_by(workers: int, rows: list[ShardReport]) -> bool:
    """Return whether every shard has an owner, and at least `workers` processes share them."""
    owners = {row.owner for row in rows}
    return "" not in owners and len(owners) >= workers


class _DemoRun:
    """A run on started servers: history, training, then the other orders, with all processes watched meanwhile."""

    def __init__(
        self,
        settings: Settings,
        orders: DemoOrders,
        plan: DemoPlan,
        view: View,
        processes: DemoProcesses,
        clock: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._orders = orders
        self._plan = plan
        self._view = view
        self._processes = processes
        self._clock = clock
        self._progress = DemoProgress(total=orders.total)
        # In addition to cancelling: a consumer was seen to swallow a cancellation, and would have run for ever.
        self._ending = asyncio.Event()

    async def run(self) -> tuple[Throughput, Throughput]:
        """Run all phases; return the throughput of merging the history and of scoring the rest. Raises DemoError."""
        orders = self._orders
        following = asyncio.create_task(self._follow())
        try:
            self._view.phase(f"starting {self._plan.workers} workers and a dispatcher")
            for number in range(1, self._plan.workers + 1):
                self._processes.start(f"worker-{number}", "-m", "stream.cli", "worker")
            self._processes.start("dispatcher", "-m", "stream.cli", "dispatch")
            await self._watched(self._all_owned(), following)
            day = iso(orders.train_at_ms)[:10]
            self._view.phase(f"merging the orders before {day}, without publishing moves")
            history = await self._watched(self._replayed(None, orders.train_at_ms, None), following)
            self._view.phase(f"training the model as of {day}, and publishing every customer's first segment")
            await self._watched(self._trained(), following)
            await self._watched(self._settled("scoring"), following)
            self._view.phase("scoring the other orders in event time, each as of its own instant")
            live = self._replayed(orders.train_at_ms, orders.until_ms, self._plan.speed)
            scoring = await self._watched(live, following)
            self._view.phase("waiting for the campaign actions")
            await self._watched(self._settled("campaigns"), following)
        finally:
            self._ending.set()
            await asyncio.gather(following, return_exceptions=True)
        return history, scoring

    async def _watched(self, work: Coroutine[Any, Any, T], following: asyncio.Task[None]) -> T:
        """Do the work; meanwhile watch the processes and show the progress. Raises DemoError if a process has ended."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({task}, timeout=_POLL_S))[0]:
                self._processes.check()
                if following.done():
                    following.result()
                self._view.tick(self._progress)
            return task.result()
        finally:
            if not task.done():
                self._ending.set()
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _replayed(self, from_ms: int | None, until_ms: int | None, speed: float | None) -> Throughput:
        """Send the rows before an instant, and wait until they are merged or scored."""
        progress, before = self._progress, self._progress.sent
        began_s = time.monotonic()

        def sent(rows: int, at_ms: int) -> None:
            progress.sent, progress.at = before + rows, iso(at_ms)[:10]
            progress.orders_per_s = rows / max(time.monotonic() - began_s, 1e-9)

        rows = self._orders.rows.before(until_ms)
        report = await replay(
            self._settings,
            rows,
            speed=speed,
            from_ms=from_ms,
            until_ms=until_ms,
            stop=self._ending,
            progress=sent,
        )
        progress.sent, progress.orders_per_s = before + sum(report.sent.values()), 0.0
        await self._settled("scoring")
        return Throughput(sum(report.sent.values()), round(time.monotonic() - began_s, 3))

    async def _trained(self) -> None:
        """Train and publish a model in a separate process. Raises DemoError."""
        trainer = self._processes.start(
            "trainer", "-c", _TRAINER, "run", "--recipe", "rhythm", "--out", str(self._plan.folder)
        )
        while trainer.exit_code is None:  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(_POLL_S)
        if trainer.exit_code:
            raise trainer.failed()
        for model in self._plan.folder.glob("model-*.json"):
            model.replace(self._plan.folder / "model.json")

    async def _all_owned(self) -> None:
        """Wait until every shard of both steps has an owner, and all workers own shards of the scoring."""
        for step, workers in (("scoring", self._plan.workers), ("campaigns", 1)):
            await self._until(step, partial(_owned_by, workers))

    async def _settled(self, step: str) -> None:
        """Wait until a step has processed all records, also for the trained model. Raises DemoError."""
        await self._until(step, settled)

    async def _until(self, step: str, reached: Callable[[list[ShardReport]], bool]) -> None:
        """Wait until a step's shards meet a condition. Raises DemoError if one is quarantined, or none progresses."""
        seen: object = None
        moved_s = time.monotonic()
        while True:
            rows = await asyncio.to_thread(shard_reports, self._settings, step, self._clock())
            if step == "scoring":
                self._progress.lag = sum(row.lag for row in rows)
            for row in rows:
                if row.state == "quarantined":
                    raise DemoError(
                        f"shard {row.partition} of {step} has stopped ({row.reason}): {row.detail}", hint=self._look()
                    )
            if reached(rows):
                return
            # Without their states: a shard that fails again and again changes those too.
            now = [(row.offset, row.model, row.clock, row.due, self._progress.moves) for row in rows]
            if now != seen:
                seen, moved_s = now, time.monotonic()
            elif time.monotonic() - moved_s > _STUCK_S:
                raise self._stuck(step, rows)
            await asyncio.sleep(_POLL_S)

    def _stuck(self, step: str, rows: list[ShardReport]) -> DemoError:
        detail = next(
            (f" (shard {row.partition}: {row.reason or row.state} {row.detail})" for row in rows if row.lag), ""
        )
        return DemoError(
            f"{step} has made no progress for {_STUCK_S:.0f} s, with {sum(row.lag for row in rows):,} records left"
            f"{detail}.",
            hint=self._look(),
        )

    def _look(self) -> str:
        return f"Look at the logs in {self._plan.folder / LOGS}."

    async def _follow(self) -> None:
        """Count moves and actions as they are committed, for the progress."""
        names = (self._settings.changes_topic, self._settings.actions_topic)
        progress = self._progress
        async with kafka_consumer(self._settings) as consumer:
            consumer.assign(await partitions_of(consumer, names))
            while not self._ending.is_set():
                for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                    if partition.topic == self._settings.actions_topic:
                        progress.actions += len(records)
                        continue
                    progress.moves += len(records)
                    for move in (_move_segments.decode(record.value) for record in records):
                        if move.from_ is not None:
                            progress.segments[move.from_] -= 1
                        if move.to is not None:
                            progress.segments[move.to] += 1
