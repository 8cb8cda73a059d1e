"""One run: the fleet, its input, what befalls it, and how it comes to rest."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable
from typing import Any, Final

from aiokafka import TopicPartition

from segmentation.step import PROFILES
from stream.settings import Settings
from stream.storage.heads import Stored
from tests.recovery.rig.feed import FeedRecord
from tests.recovery.rig.profile_feed import ProfileFeed
from tests.recovery.rig.replacing import Replace
from tests.simulation.case import Case
from tests.simulation.choices import Choices
from tests.simulation.fleet import GROUP, STEPS, SimulatedFleet, settings_of
from tests.simulation.operating import Operator
from tests.simulation.plot import ABORTED, COMMITTED, DAY_MS, START_MS, Plot, PlotRecord
from tests.simulation.servers.broker import SimulatedBroker
from tests.simulation.servers.kafka_clients import SimulatedKafka
from tests.simulation.servers.logs import TransactionSpan
from tests.simulation.servers.redis_client import RedisPlace
from tests.simulation.servers.redis_server import Data, SimulatedRedisServer, copied
from tests.simulation.troubles import SKEWS_MS, Troubles
from tests.simulation.virtual_loop import WORLD, Host, VirtualLoop
from tests.simulation.wire import SimulatedWire

SETTLE_S: Final = 600.0  # a dispatcher with two records a turn takes its time for all orders
LOOK_S: Final = 0.25
REST_S: Final = 2.0  # after which everything must still be as it was
LAST_WORDS_S: Final = 1.0
SILENCE_DAYS: Final = 400
YOUNG_DAYS: Final = 300  # less than the window
SNAPSHOTS: Final = 16  # the last states of Redis that it may fall back to
UPSTREAM: Final = 1_000_000  # the id of the producer of orders
INPUT_BATCH_GAP_S: Final = 0.05
# That pass after a scene in wall time, so that what campaigns hold back is over while there are troubles.
PAUSES_MS: Final = (0, 0, 0, 60_000, 1_800_000, 5 * 3_600_000, 11 * 3_600_000, 2 * DAY_MS)


class Unsettled(Exception):
    """The fleet doesn't come to rest."""


class SimulatedWorld:
    """Everything of one run."""

    def __init__(self, case: Case, inputs: dict[TopicPartition, list[Any]] | None = None) -> None:
        """`inputs`: the records of another run, to be scored again; None: those of the case's plot."""
        self.case = case
        self.choices = choices = Choices(case.seed, case.given)
        rates = case.rates
        self.loop = loop = VirtualLoop(choices, shuffles=rates["order"], steps=rates["step"])
        self.wire = SimulatedWire(loop, choices, delays=rates["delay"], breaks=rates["break"], ends=rates["end"])
        self.broker = SimulatedBroker(loop, choices, rates)
        self.settings = self.settings_after() if inputs is not None else self._settings(after=False)
        self.published: list[float] = []
        self.jumped_ms = 0
        self._healed = False  # the troubles are over
        self.broker.now_ms = self.wall_ms
        self.broker.note = self.note
        server = SimulatedRedisServer()
        self.place = RedisPlace(server)
        self.kafka = SimulatedKafka(self.broker, self.wire)
        self.stopped: list[str] = []
        self.operator = Operator(self)
        self.fleets = [
            SimulatedFleet(
                loop,
                self.kafka,
                self.place,
                self.settings,
                step,
                self.wall_ms,
                self.published,
                self.operator.note_stopped,
            )
            for step in STEPS[: 2 if case.dispatchers else 1]
        ]
        self.streams = self.fleets[0].streams
        for topic in self._topics():
            self.broker.create(topic, case.partitions)
        self.trace: list[str] = []
        self.acknowledged: list[tuple[int, bytes]] = []
        self.snapshots: list[Data] = []
        self._inputs = inputs
        self._plot = Plot(
            case.seed,
            partitions=case.partitions,
            customers=case.customers,
            wall=case.wall,
            litter=case.litter,
            merges=case.merges,
            most_days=YOUNG_DAYS if case.one_id else None,
        )
        has_profiles = len(self.fleets) > 1 and case.profiles and inputs is None
        self._profiles = ProfileFeed(case.seed, case.partitions) if has_profiles else None
        self._profiles_come = random.Random(f"{case.seed}:told")
        self._pauses = random.Random(f"{case.seed}:pauses")
        self.rests: list[int] = []  # when (ms) all that was sent before had been read
        self.fed = False
        self._skews = choices.stream("skew", rates["skew"])
        self.troubles = Troubles(self, choices.stream("world", rates["world"]))
        loop.disturb = self.troubles.disturb
        self.wire.strike = self.troubles.strike
        server.on_write = self.snapshot

    def _topics(self) -> list[str]:
        each = [fleet.streams for fleet in self.fleets]
        names = [t for s in each for t in (*s.pinned(), s.latest, s.dead_letters) if t]
        return list(dict.fromkeys(names))

    @property
    def hosts(self) -> list[Host]:
        """All processes."""
        return [host for fleet in self.fleets for host in fleet.hosts]

    def shards(self) -> list[tuple[SimulatedFleet, int]]:
        """Return all shards."""
        return [(fleet, p) for fleet in self.fleets for p in range(self.case.partitions)]

    def wall_ms(self) -> int:
        """Return the right wall clock. It starts long after event time."""
        return START_MS + 9_000 * DAY_MS + self.jumped_ms + int(self.loop.time() * 1000)

    def settings_after(self) -> Settings:
        """Return the settings at the end."""
        return self._settings(after=True)

    def _settings(self, *, after: bool) -> Settings:
        case = self.case
        return settings_of(case.wall, case.partitions, case.turn, case.adopts, case.change, after)

    def note(self, line: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.loop.time():9.3f}  {line}")

    def digest(self) -> str:
        """Return a digest of the trace and of every log."""
        made = hashlib.sha256("\n".join(self.trace).encode())
        for tp, log in sorted(self.broker.logs.items()):
            made.update(repr((tp, [(e.key, e.value, e.headers, e.timestamp, e.marker) for e in log.entries])).encode())
        made.update(repr(sorted(self.place.server.data.items())).encode())
        return made.hexdigest()

    async def play(self) -> None:
        """Run from beginning to rest. Raises Unsettled."""
        for fleet, count in zip(self.fleets, (self.case.workers, self.case.dispatchers), strict=False):
            for _ in range(count):
                self.start_process(fleet)
        if self.case.change and self._inputs is None:
            self.operator.change_settings()
        feeding = self.loop.create_task(self._feed(), context=WORLD)
        if self._inputs is None:
            await self.loop.create_task(self.troubles.run(), context=WORLD)
        await feeding
        self.troubles.heal()
        self._healed = True
        if self.case.wall:
            await self._pass_time()
        await self._settle()
        if self._profiles:
            await self._have_last_words(self._profiles)
        if self.case.one_id and self._inputs is None:
            # All merges are read on all shards. Only now may time pass that folds orders away.
            await self._send(self._plot.silence(SILENCE_DAYS), 0)
            await self._settle()
        if self.case.change and not self.case.wall and self._inputs is None:
            # Customers that a takeover touched are looked at when the clock passes; then nobody may be left to move.
            await self._send(self._plot.silence(1), 0)
            await self._settle()

    def start_process(self, fleet: SimulatedFleet) -> None:
        wrong = self._skews.next()
        host = fleet.start(lag_s=(wrong % 7) / 2)
        # Under a clock that is a day late, what is held back by campaigns would wait for a day after the run has ended.
        right = self._healed and fleet is not self.fleets[0]
        host.clock_error_ms = SKEWS_MS[wrong % len(SKEWS_MS)] if wrong and not right else 0
        self.note(f"{host.name} starts")

    async def _feed(self) -> None:
        if self._inputs is not None:
            self.published += [0.0] * 100
            for tp, entries in self._inputs.items():
                log = self.broker.logs[tp]
                for entry in entries:
                    span = (
                        None
                        if entry.span is None
                        else TransactionSpan(entry.span.first, outcome=bool(entry.span.outcome))
                    )
                    log.entries.append(entry._replace(span=span))
                log.wake()
            return
        case = self.case
        plot = self._plot
        for number in range(case.scenes):
            scene = plot.scene(number, self.wall_ms(), case.skipped)
            if scene.starts is not None:
                self.published.append(self.loop.time())
                self.note(f"model {scene.starts} is published")
            if self._profiles and self._profiles_come.random() < case.profiles / 100:
                said = _records(self._profiles.some(plot.customers, plot.at_ms, self.wall_ms()))
                await self._send([] if number in case.skipped else said, 0, self._profiles_topic)
            await self._send(scene.records, scene.transaction)
            await asyncio.sleep(scene.pause_ms / 1000)
            if self._profiles and case.wall:
                self.jumped_ms += self._pauses.choice(PAUSES_MS)
        await asyncio.sleep(1.0)
        self.fed = True
        if not case.one_id:
            await self._send(plot.silence(SILENCE_DAYS), 0)

    async def _pass_time(self) -> None:
        """Send a few records more in wall time, by right clocks, and let so many days pass that everyone moves."""
        scene = self._plot.scene(self.case.scenes, self.wall_ms(), self.case.skipped)
        await self._send(scene.records, 0)
        await asyncio.sleep(LAST_WORDS_S)
        if self._profiles:
            await self._settle()  # what was sent before this long time is known after it
        self.jumped_ms += SILENCE_DAYS * DAY_MS

    async def _have_last_words(self, profiles: ProfileFeed) -> None:
        """Let customers order and fall silent once more, when it is known what each of them consents to."""
        plot = self._plot
        await self._send(_records(profiles.last(plot.customers, plot.at_ms)), 0, self._profiles_topic)
        await self._settle()
        await self._send(plot.orders(self.wall_ms()), 0)
        if self.case.wall:
            await self._settle()
            self.jumped_ms += SILENCE_DAYS * DAY_MS
            await self._settle()
            self.jumped_ms += DAY_MS  # a night is over
        else:
            await self._send(plot.silence(SILENCE_DAYS), 0)
            await self._settle()
            await self._send(plot.silence(1), 0)
        await self._settle()

    @property
    def _profiles_topic(self) -> str:
        return self.fleets[1].streams.sides[PROFILES]

    async def _send(self, records: list[PlotRecord], transaction: int, topic: str = "") -> None:
        """Send records as the shops' producer does: outside transactions, or in one that is committed or aborted.

        `topic`: the orders' where none is given.
        """
        about, topic = topic, topic or self.streams.input
        tps = sorted({TopicPartition(topic, r.partition) for r in records})
        how = ("", " in a transaction", " and aborted")[transaction]
        self.note(f"{len(records)} {'profiles' if about else 'records'} are sent{how}")
        if transaction:
            for tp in tps:
                self.broker.logs[tp]._open[UPSTREAM] = TransactionSpan(len(self.broker.logs[tp].entries))
        for record in records:
            log = self.broker.logs[TopicPartition(topic, record.partition)]
            log.append([(record.key, record.value, ())], self.wall_ms(), log._open.get(UPSTREAM))
            if transaction != ABORTED and not about:
                self.acknowledged.append((record.partition, record.value))
        if transaction:
            await asyncio.sleep(INPUT_BATCH_GAP_S)
            for tp in tps:
                self.broker.logs[tp].mark(UPSTREAM, 0, self.wall_ms(), committed=transaction == COMMITTED)

    async def _settle(self) -> None:
        """Wait until every record is scored, and nothing has been written for a while."""
        deadline, seen, since = self.loop.time() + SETTLE_S, -1, 0.0
        while True:
            if (written := self._written()) != seen or not self._is_settled():
                seen, since = written, self.loop.time()
            elif self.loop.time() - since > (REST_S if self._inputs is None else 0):
                self.rests.append(self.wall_ms())
                return
            self.troubles.restart_ended()
            if self.loop.time() > deadline:
                raise Unsettled(self._shown())
            await asyncio.sleep(LOOK_S)

    def _written(self) -> int:
        return sum(len(log.entries) for log in self.broker.logs.values())

    def _is_settled(self) -> bool:
        if self.operator.is_busy():
            return False
        for fleet, p in self.shards():
            head = self.head(fleet, p)
            end = self.broker.logs[TopicPartition(fleet.streams.input, p)].stable
            if head is None or head["offset"] < end or head["cursor"] is not None or self._misses(fleet, p, head):
                return False
            due = self.place.server.data.get(fleet.keys(p).due.encode(), {})
            # A turn takes some of them. In event time they wait for a record.
            clock = head["clock"] if fleet is self.fleets[0] else self.wall_ms()
            if self.case.wall and any(at < clock for at in due.values()):
                return False
            for topic, offset in head.get("sides", {}).items():
                if offset < self.broker.logs[TopicPartition(topic, p)].stable:
                    return False
        return all(log.stable == len(log.entries) for log in self.broker.logs.values())

    def _misses(self, fleet: SimulatedFleet, partition: int, head: dict[str, Any]) -> bool:
        """Return whether a shard has lost something that no owner has noticed yet: one may still be taking it over."""
        keys, data = fleet.keys(partition), self.place.server.data
        names = keys.states, keys.customers, keys.due, keys.tombstones, keys.pieces
        there = Stored(*(len(data.get(name.encode(), ())) for name in names))
        return head["stored"] is not None and Stored(*head["stored"]) != there

    def head(self, fleet: SimulatedFleet, partition: int) -> dict[str, Any] | None:
        """Return the head of a shard in Redis."""
        raw = self.place.server.data.get(fleet.keys(partition).head.encode())
        return None if raw is None else json.loads(raw)

    def _shown(self) -> str:
        boards = [
            f"{host.name}-{p}: {status.state} {status.reason} {status.detail}"
            for fleet in self.fleets
            for host, board in fleet.boards.items()
            if host.alive
            for p, status in board.shards.items()
        ]
        heads = [self.head(*shard) for shard in self.shards()]
        return f"{boards}, heads {heads}"

    def fences(self, fleet: SimulatedFleet) -> list[tuple[int, int]]:
        """Return (partition, ms) of each fencing of a former owner."""
        names = {f"{GROUP}-{fleet.streams.input}-{p}": p for p in range(self.case.partitions)}
        return [(names[name], at) for name, at in self.broker.fencings if name in names]

    def snapshot(self) -> None:
        """Keep the content of Redis as it is now."""
        if self._inputs is None:
            self.snapshots.append(copied(self.place.server.data))
            del self.snapshots[:-SNAPSHOTS]


def _records(said: list[FeedRecord]) -> list[PlotRecord]:
    return [PlotRecord(record.partition, record.key, record.value) for record in said]


Change = Callable[[Replace], None]
