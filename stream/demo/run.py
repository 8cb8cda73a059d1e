"""The whole way of an order on this machine: Kafka, Valkey, workers, dispatcher and trainer, all real, and real orders."""

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

from segmentation.events import iso
from stream.clock import now_ms
from stream.demo.processes import DemoProcesses
from stream.demo.report import DemoResult, Throughput
from stream.demo.result import LOGS, read_result
from stream.demo.source import DemoError, DemoOrders, DemoRequest, opened
from stream.demo.view import DemoProgress
from stream.engine.shard_report import report, settled
from stream.kafka import topics
from stream.kafka.clients import kafka_consumer, partitions_of
from stream.local.stack import Endpoints, LocalStack
from stream.replay.publisher import replay
from stream.settings import Settings, load_settings
from stream.settings_sources import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from stream.demo.view import View
    from stream.engine.shard_report import ShardReport

T = TypeVar("T")

SERVERS: Final = "servers"
_PARTITIONS: Final = 8
_POLL_S: Final = 0.1
# What the script `segtrainer` holds: started by this interpreter, whatever the PATH says.
_TRAINER: Final = "from trainer.cli import main; main()"
# A shard that makes no progress for so long won't: session time-outs and takeovers take a few seconds.
_STUCK_S: Final = 60.0
# Where downloads lie is a matter of the machine; every other setting is the demo's own.
_KEPT_VARIABLES: Final = {f"{PREFIX}CACHE_DIR"}


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """How to go about it. `speed`: times the orders' own pace, after the training; None: as fast as it goes."""

    folder: Path
    workers: int = 2
    speed: float | None = None


class _MoveSegments(msgspec.Struct, rename={"from_": "from"}):
    """What the live picture needs of a move."""

    from_: str | None
    to: str | None


_told = msgspec.json.Decoder(_MoveSegments)


@contextmanager
def demo(wish: DemoRequest, plan: DemoPlan, view: View) -> Iterator[DemoResult]:
    """Run the whole, and give what came out while everything still runs; then all of it is stopped.

    Sets the environment of this process to the demo's servers, for its children and for who comes after. The servers' data
    is deleted at the end unless the demo failed. Raises SegstreamError.
    """
    began_s = time.monotonic()
    _check_folder(plan.folder)
    with ExitStack() as stack:
        with view.shown():
            view.phase(f"reading the orders of {wish.source}")
            orders = stack.enter_context(opened(wish, lambda rows: view.note(f"{rows:,} rows")))
            _make_folder(plan.folder)
            stack.push(_Cleanup(plan.folder))
            view.phase("starting Kafka and Valkey")
            servers = stack.enter_context(LocalStack(plan.folder / SERVERS, report=view.note))
            settings = _own_settings(servers.endpoints, orders.currency)
            asyncio.run(topics.create(settings))
            children = DemoProcesses(plan.folder / LOGS, plan.folder / SERVERS)
            stack.callback(children.end)
            paces = asyncio.run(_DemoRun(settings, orders, plan, view, children).play())
            view.phase("reading again what was published")
            result = read_result(settings, orders, paces, plan.folder, began_s)
        yield result


class _Cleanup:
    """Keeps the servers' logs and deletes their data; after a failure all stays, to be looked at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Do so, once the servers have stopped."""
        del error
        if kind is not None and issubclass(kind, Exception):
            return
        for server in ("kafka", "valkey"):
            log = self._folder / SERVERS / server / "server.log"
            if log.exists():
                log.replace(self._folder / LOGS / f"{server}.log")
        shutil.rmtree(self._folder / SERVERS, ignore_errors=True)


def _check_folder(folder: Path) -> None:
    """Raise DemoError where there is something already that files could be mixed up with."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DemoError(f"{folder} is there already.", hint="Choose a folder that is new or empty.")


def _make_folder(folder: Path) -> None:
    """Make the demo's folders. Raises DemoError."""
    try:
        (folder / "logs").mkdir(parents=True)
        (folder / "servers").mkdir()
    except OSError as error:
        raise DemoError(f"{folder} can't be made: {error.strerror}.", hint="Choose another one with --out.") from error


def _own_settings(endpoints: Endpoints, currency: str) -> Settings:
    """Point this process and its children at the demo's servers; nothing of the user's own deployment counts here."""
    for name in [n for n in os.environ if n.startswith(PREFIX) and n not in _KEPT_VARIABLES]:
        del os.environ[name]
    os.environ.update(endpoints.environment())
    chosen = {"group": "demo", "time": "event", "currency": currency, "partitions": str(_PARTITIONS)}
    os.environ.update({f"{PREFIX}{name.upper()}": value for name, value in chosen.items()})
    return load_settings()


def _owned_by(workers: int, rows: list[ShardReport]) -> bool:
    """Tell whether every shard has an owner, and so many share them."""
    owners = {row.owner for row in rows}
    return "" not in owners and len(owners) >= workers


class _DemoRun:
    """The play itself, once the servers run: history, training, the rest; and the watch over all processes meanwhile."""

    def __init__(
        self, settings: Settings, orders: DemoOrders, plan: DemoPlan, view: View, children: DemoProcesses
    ) -> None:
        self._settings = settings
        self._orders = orders
        self._plan = plan
        self._view = view
        self._children = children
        self._picture = DemoProgress(total=orders.total)
        # Beside cancelling: a consumer under way was seen to swallow that, and would have gone on for ever.
        self._ending = asyncio.Event()

    async def play(self) -> tuple[Throughput, Throughput]:
        """Return how fast the history was merged, and the rest scored. Raises DemoError."""
        orders = self._orders
        following = asyncio.create_task(self._follow())
        try:
            self._view.phase(f"starting {self._plan.workers} workers and a dispatcher")
            for number in range(1, self._plan.workers + 1):
                self._children.start(f"worker-{number}", "-m", "stream.cli", "worker")
            self._children.start("dispatcher", "-m", "stream.cli", "dispatch")
            await self._watched(self._all_owned(), following)
            day = iso(orders.train_at_ms)[:10]
            self._view.phase(f"history up to {day}, merged in silence")
            history = await self._watched(self._replayed(None, orders.train_at_ms, None), following)
            self._view.phase(f"training the model as of {day}, and announcing every customer once")
            await self._watched(self._trained(), following)
            await self._watched(self._settled("scoring"), following)
            self._view.phase("the rest in event time, every order scored as of its own instant")
            live = self._replayed(orders.train_at_ms, orders.until_ms, self._plan.speed)
            pace = await self._watched(live, following)
            self._view.phase("waiting for the campaigns' actions")
            await self._watched(self._settled("campaigns"), following)
        finally:
            self._ending.set()
            await asyncio.gather(following, return_exceptions=True)
        return history, pace

    async def _watched(self, work: Coroutine[Any, Any, T], following: asyncio.Task[None]) -> T:
        """Do the work, look after the processes and show the picture meanwhile. Raises DemoError where one has ended."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({task}, timeout=_POLL_S))[0]:
                self._children.check()
                if following.done():
                    following.result()
                self._view.tick(self._picture)
            return task.result()
        finally:
            if not task.done():
                self._ending.set()
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _replayed(self, from_ms: int | None, until_ms: int | None, speed: float | None) -> Throughput:
        """Send the rows up to an instant, and wait until they are merged or scored."""
        picture, before = self._picture, self._picture.sent
        began_s = time.monotonic()

        def sent(rows: int, at_ms: int) -> None:
            picture.sent, picture.at = before + rows, iso(at_ms)[:10]
            picture.orders_per_s = rows / max(time.monotonic() - began_s, 1e-9)

        rows = self._orders.rows.before(until_ms)
        told = await replay(
            self._settings,
            rows,
            speed=speed,
            from_ms=from_ms,
            until_ms=until_ms,
            stop=self._ending,
            progress=sent,
        )
        picture.sent, picture.orders_per_s = before + sum(told.sent.values()), 0.0
        await self._settled("scoring")
        return Throughput(sum(told.sent.values()), round(time.monotonic() - began_s, 3))

    async def _trained(self) -> None:
        """Train and publish a model as a process of its own. Raises DemoError."""
        trainer = self._children.start(
            "trainer", "-c", _TRAINER, "run", "--k", "5", "--force", "--out", str(self._plan.folder)
        )
        while trainer.exit_code is None:  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(_POLL_S)
        if trainer.exit_code:
            raise trainer.failed()
        for model in self._plan.folder.glob("model-*.json"):
            model.replace(self._plan.folder / "model.json")

    async def _all_owned(self) -> None:
        """Wait until every shard of both steps has been taken over, those of scoring by all the workers."""
        for step, workers in (("scoring", self._plan.workers), ("campaigns", 1)):
            await self._until(step, partial(_owned_by, workers))

    async def _settled(self, step: str) -> None:
        """Wait until a step has worked off all that was sent, also on the trained model. Raises DemoError."""
        await self._until(step, settled)

    async def _until(self, step: str, reached: Callable[[list[ShardReport]], bool]) -> None:
        """Look at a step's shards until they are there. Raises DemoError for one in quarantine, or if nothing moves any more."""
        seen: object = None
        moved_s = time.monotonic()
        while True:
            rows = await asyncio.to_thread(report, self._settings, step, now_ms())
            if step == "scoring":
                self._picture.lag = sum(row.lag for row in rows)
            for row in rows:
                if row.state == "quarantined":
                    raise DemoError(
                        f"shard {row.partition} of {step} has stopped ({row.reason}): {row.detail}", hint=self._look()
                    )
            if reached(rows):
                return
            # Not their states: a shard that fails again and again changes those too.
            now = [(row.offset, row.model, row.clock, row.due, self._picture.moves) for row in rows]
            if now != seen:
                seen, moved_s = now, time.monotonic()
            elif time.monotonic() - moved_s > _STUCK_S:
                raise self._stuck(step, rows)
            await asyncio.sleep(_POLL_S)

    def _stuck(self, step: str, rows: list[ShardReport]) -> DemoError:
        told = next(
            (f" (shard {row.partition}: {row.reason or row.state} {row.detail})" for row in rows if row.lag), ""
        )
        return DemoError(
            f"{step} has made no progress for {_STUCK_S:.0f} s, with {sum(row.lag for row in rows):,} records to go{told}.",
            hint=self._look(),
        )

    def _look(self) -> str:
        return f"Look at the logs in {self._plan.folder / LOGS}."

    async def _follow(self) -> None:
        """Count moves and actions as they are committed, for the picture."""
        names = (self._settings.changes_topic, self._settings.actions_topic)
        picture = self._picture
        async with kafka_consumer(self._settings) as consumer:
            consumer.assign(await partitions_of(consumer, names))
            while not self._ending.is_set():
                for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                    if partition.topic == self._settings.actions_topic:
                        picture.actions += len(records)
                        continue
                    picture.moves += len(records)
                    for move in (_told.decode(record.value) for record in records):
                        if move.from_ is not None:
                            picture.segments[move.from_] -= 1
                        if move.to is not None:
                            picture.segments[move.to] += 1
