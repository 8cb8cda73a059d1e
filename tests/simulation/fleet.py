"""The processes of a run: workers and dispatchers with the real engine on the simulated Kafka and Redis."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import aiokafka.producer.producer
import aiokafka.producer.sender

import stream.engine
from segmentation.decisions import CompiledModel
from segmentation.step import Activation, Step
from stream.engine import ledger, log_reader, turns
from stream.engine.flow_control import FlowControl, TurnSlots
from stream.engine.ownership import ShardContext
from stream.engine.shard import Shard
from stream.engine.store import ShardStore
from stream.engine.supervisor import Supervisor
from stream.kafka.streams import Streams, streams_of
from stream.metrics import Metrics
from stream.repair import rebuild, reconfigure
from stream.settings import Settings
from stream.status import held_back
from stream.status.board import ShownShard, StatusBoard
from stream.status.held_back import HeldBack
from stream.storage.heads import StoreHead
from stream.storage.keys import ShardKeys, status_key
from stream.worker import steps
from tests.recovery.rig.feed import variant
from tests.simulation.servers.group import SimulatedGroup, SimulatedMembership
from tests.simulation.servers.kafka_clients import ProducerOfRun, SimulatedClient, SimulatedConsumer, SimulatedKafka
from tests.simulation.servers.redis_client import RedisPlace, SimulatedRedis
from tests.simulation.virtual_loop import Host, VirtualLoop

GROUP: Final = "simulated"
SALT: Final = b"salt"
# How soon a transaction is begun again while markers of the one before are missing: with the engine's 2 ms most of a
# run would be such requests.
AGAIN_S: Final = 0.02
STEPS: Final = ("scoring", "campaigns")
# Settings before and after a change, for each of its ways: customers are scored again, or records are read again. The
# larger window needs orders that had left the smaller one.
CHANGES: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "": ({}, {}),
    "dwell": ({"dwell_hours": 2_000.0}, {"dwell_hours": 0.0}),
    "window": ({"window_days": 40}, {"window_days": 600}),
}
RULES: Final = Path(__file__).parent / "rules.yaml"
# Short, so that each of them expires; as the recovery tests'.
SHORT: Final[dict[str, Any]] = {
    "due_slice": 3,
    "rescore_slice": 3,
    "session_timeout_ms": 3_000,
    "redis_timeout_s": 1.5,
    "commit_timeout_s": 6.0,
    "transaction_timeout_ms": 4_000,
    "backoff_max_s": 2.0,
    "due_poll_ms": 1_000,
    "group": GROUP,
    "erasure_salt": "salt",
}


class WatchedBoard(StatusBoard):
    """A status board whose run sees each shard that stops."""

    def __init__(self, stopped: Callable[[int, str, str], None], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._stopped = stopped

    async def put(
        self, shard: ShownShard, state: str, head: StoreHead | None = None, *, reason: str = "", detail: str = ""
    ) -> bool:
        if state == "quarantined":
            self._stopped(shard.partition, reason, f"quarantined ({reason}): {shard}: {detail}")
        return await super().put(shard, state, head, reason=reason, detail=detail)


@cache
def settings_of(wall: bool, partitions: int, turn: int, adopts: bool, change: str, after: bool) -> Settings:
    """Return the settings of a run, made once for each kind of run.

    `adopts`: a new model's moves set off no action. `change`: what changes in the middle. `after`: it has changed.
    """
    kind = SHORT | {"time": "wall" if wall else "event", "model_moves": "adopt" if adopts else "act"}
    return Settings(**kind, **CHANGES[change][after], rules_file=RULES, partitions=partitions, turn_max_orders=turn)


class UnseenMetric:
    """A metric that nobody looks at."""

    def labels(self, *_: str) -> UnseenMetric:
        return self

    def inc(self, _: float = 1) -> None: ...

    set = observe = inc


class UnseenMetrics:
    """The metrics of all runs, by the names of the real ones."""

    def __init__(self) -> None:
        for name in vars(Metrics()):
            setattr(self, name, UnseenMetric())

    def forget_shard(self, *_: object) -> None: ...


@cache
def metrics() -> Any:
    return UnseenMetrics()


@cache
def step_of(settings: Settings, step: str) -> Step:
    return steps.step_of(settings, step)


@cache
def model_of(number: int) -> CompiledModel:
    # As the worker's feed does, with the names of all models.
    return CompiledModel.of(variant(number), GROUP, {s.id: s.name for n in (0, 1) for s in variant(n).segments})


class SimulatedModels:
    """The models that one worker knows: each some time after it was published."""

    def __init__(self, published: list[float], clock_s: Callable[[], float], lag_s: float) -> None:
        """`published`: when each model was."""
        self._published = published
        self._clock_s = clock_s
        self._lag_s = lag_s

    def _known(self) -> int:
        now = self._clock_s() - self._lag_s
        return sum(at <= now for at in self._published)

    def latest(self) -> Activation:
        known = self._known()
        return Activation(known, f"v{known - 1}") if known else Activation()

    def compiled(self, version: str) -> object | None:
        number = int(version[1:])
        return model_of(number) if number < self._known() else None

    def refuses(self, version: str) -> bool:
        return False


class SimulatedFleet:
    """The processes of one step: the workers, or the dispatchers."""

    def __init__(
        self,
        loop: VirtualLoop,
        kafka: SimulatedKafka,
        place: RedisPlace,
        settings: Settings,
        step: str,
        wall_ms: Callable[[], int],
        published: list[float],
        stopped: Callable[[SimulatedFleet, int, str, str], None],
    ) -> None:
        """`published`: when each model was. `stopped`: told of each shard that is quarantined."""
        self.step = step_of(settings, step)
        self.hosts: list[Host] = []
        self._loop = loop
        self._stopped = partial(stopped, self)
        self._kafka = kafka
        self._place = place
        self.settings = settings
        self._wall_ms = wall_ms
        self._published = published
        self.streams: Streams = streams_of(settings, step)
        self.group = SimulatedGroup(loop, settings.partitions, settings.session_timeout_ms / 1000)
        self.boards: dict[Host, StatusBoard] = {}
        self.supervisors: dict[Host, Supervisor] = {}
        self._started = 0

    def keys(self, partition: int) -> ShardKeys:
        return ShardKeys(GROUP, self.streams.input, partition)

    @property
    def status_key(self) -> bytes:
        """The key of the shards' statuses in Redis."""
        return status_key(GROUP, self.streams.input).encode()

    def change_settings(self, settings: Settings) -> None:
        """Give other settings to the processes that start from now on."""
        self.settings, self.step = settings, step_of(settings, self.step.name)

    def start(self, lag_s: float = 0.0) -> Host:
        """Start a process. `lag_s`: how much later than others it learns of a model."""
        self._started += 1
        host = Host(f"{'w' if self.step.name == 'scoring' else 'd'}{self._started}")
        self.hosts.append(host)
        task = host.start(self._loop, self._work(host, lag_s))
        task.add_done_callback(partial(self._note_end, host))
        return host

    def forget(self, host: Host) -> None:
        """Drop a process that has ended."""
        self.hosts.remove(host)
        self.boards.pop(host, None)
        self.supervisors.pop(host, None)

    @staticmethod
    def _note_end(host: Host, task: asyncio.Task[None]) -> None:
        host.alive = False
        if not task.cancelled():
            task.exception()

    async def _work(self, host: Host, lag_s: float) -> None:
        settings, streams, step = self.settings, self.streams, self.step
        client = cast("Any", SimulatedRedis(self._place, self._kafka.wire, settings.redis_timeout_s))
        membership = cast("Any", SimulatedMembership(self.group, self._kafka.wire, host.name))

        def now_ms() -> int:
            return self._wall_ms() + host.clock_error_ms

        board = self.boards[host] = WatchedBoard(self._stopped, client, GROUP, streams.input, host.name, now_ms)
        scores = self.step.name == "scoring"
        models = SimulatedModels(self._published, self._loop.time, lag_s) if scores else None
        slots = TurnSlots(settings.turns_at_once)

        def make(partition: int) -> Shard:
            store = ShardStore(client, self.keys(partition), SALT)
            context = ShardContext(settings, streams, partition, step, store, membership)
            return Shard(context, models, metrics(), board, slots, now_ms)

        supervisor = self.supervisors[host] = Supervisor(membership, make, settings.partitions)
        await supervisor.run()


@contextmanager
def installed(loop: asyncio.AbstractEventLoop, kafka: SimulatedKafka, place: RedisPlace, seed: int) -> Iterator[None]:
    """Let the engine work in the simulated world: its clients, its clock, its chance and its tokens.

    Production code has no switches: attributes of the engine's modules are replaced, and put back afterwards.
    """
    rng = random.Random(f"{seed}:engine")
    time = SimpleNamespace(monotonic=loop.time)
    chance = SimpleNamespace(uniform=lambda a, b: a + (b - a) * rng.random())
    tokens = SimpleNamespace(token_hex=lambda n: f"{rng.getrandbits(8 * n):0{2 * n}x}")
    replaced: list[tuple[Any, str, Any]] = []

    def replace(where: Any, name: str, value: Any) -> None:
        replaced.append((where, name, getattr(where, name)))
        setattr(where, name, value)

    for module in engine_modules():
        for name, value in (("time", time), ("random", chance), ("secrets", tokens)):
            if hasattr(module, name):
                replace(module, name, value)
    for module in (rebuild, reconfigure):
        replace(module, "connect", lambda settings: SimulatedRedis(place, kafka.wire, settings.redis_timeout_s))
    replace(reconfigure, "random", chance)
    replace(held_back, "HeldBack", partial(HeldBack, clock_s=loop.time))
    replace(turns, "FlowControl", partial(FlowControl, clock_s=loop.time))
    replace(aiokafka.producer.producer, "AIOKafkaClient", partial(SimulatedClient, kafka))
    replace(aiokafka.producer.sender, "BACKOFF_OVERRIDE", AGAIN_S)
    replace(ledger, "shorten_transaction_retries", lambda: None)
    replace(ledger, "AIOKafkaProducer", ProducerOfRun)
    replace(log_reader, "AIOKafkaConsumer", partial(SimulatedConsumer, kafka))
    try:
        yield
    finally:
        for where, name, value in reversed(replaced):
            setattr(where, name, value)


@cache
def engine_modules() -> list[Any]:
    """Return the modules of the engine."""
    return [
        importlib.import_module(f"stream.engine.{module.name}")
        for module in pkgutil.iter_modules(stream.engine.__path__)
    ]
