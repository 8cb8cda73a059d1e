"""The troubles of a fleet: processes die, stop and start again; networks break; Redis falls behind; logs shrink."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiokafka import TopicPartition

from segmentation.step import ORDERS
from stream.storage.heads import decode_store_head
from tests.simulation.choices import Stream
from tests.simulation.servers.redis_server import SimulatedRedisServer, copied
from tests.simulation.virtual_loop import WORLD, Host

if TYPE_CHECKING:
    from tests.simulation.world import SimulatedWorld

STEP_S: Final = 0.1
MOST_HOSTS: Final = 3  # of a step, by themselves
LAST_S: Final = 5.0  # troubles come for at least so long
LENGTHS_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0, 7.0, 12.0)
SKEWS_MS: Final = (-86_400_000, -5_000, -300, 300, 5_000, 86_400_000)


class Troubles:
    """Disturbs a run, as its decisions say."""

    def __init__(self, world: SimulatedWorld, stream: Stream) -> None:
        self._world = world
        self._stream = stream
        self._over = False
        self._loses = world.choices.stream("lose", world.case.rates["lose"])
        self._parts = world.choices.stream("part", world.case.rates.get("part", 0))
        self.has_lost = False  # a part of Redis, behind an intact head
        self._kinds = [
            self._kill, self._kill, self._suspend, self._suspend, self._cut_off, self._drop_links, self._hold,
            self._roll_back, self._fail_over, self._restart_redis, self._tidy, self._leave, self._add, self._skew,
            self._expire,
        ]  # fmt: skip

    async def run(self) -> None:
        """Start again what died, until the troubles are over."""
        world = self._world
        while not world.fed or world.loop.time() < LAST_S:
            await asyncio.sleep(STEP_S)
            self.restart_ended()

    def strike(self) -> None:
        """Disturb the fleet before a request arrives: while much is under way, much is tried."""
        if (value := self._stream.next()) and not self._over:
            self._kinds[value % len(self._kinds)](value // len(self._kinds))
        if (value := self._loses.next()) and not self._over and not self.has_lost:
            self._lose(value)
        if (value := self._parts.next()) and not self._over and not self._world.operator.is_busy():
            self._lose_entries(value)

    def heal(self) -> None:
        """End all troubles."""
        world = self._world
        self._over = True
        world.note("the troubles end")
        world.wire.calm = True
        world.wire.held_until.clear()
        world.broker.calm = True
        world.wire.cut("redis", but_to=world.place.server)  # nobody stays with an old primary
        for host in world.hosts:
            host.cut_until.clear()
            host.clock_error_ms = 0
            if host.suspended and host.alive:
                world.loop.resume(host)
        self.restart_ended()

    def restart_ended(self) -> None:
        """Start a process in place of each that ended, as a supervisor does."""
        world = self._world
        for fleet in world.fleets:
            for host in [h for h in fleet.hosts if not h.alive]:
                fleet.forget(host)
                world.start_process(fleet)

    def disturb(self, host: Host, value: int) -> None:
        """Disturb a process between two steps of it."""
        if self._over or not host.alive or host.suspended:
            return
        if value % 3 == 0:
            self._pause(host, LENGTHS_S[value // 3 % len(LENGTHS_S)])
        else:
            self._die(host)

    def _some(self, value: int) -> Host | None:
        alive = [h for h in self._world.hosts if h.alive]
        return alive[value % len(alive)] if alive else None

    def _die(self, host: Host) -> None:
        self._world.note(f"{host.name} is killed")
        host.alive = False

    def _pause(self, host: Host, seconds: float) -> None:
        self._world.note(f"{host.name} is suspended for {seconds} s")
        host.suspended = True
        self._world.loop.call_later(seconds, self._resume, host, context=WORLD)

    def _resume(self, host: Host) -> None:
        if host.alive and host.suspended:
            self._world.note(f"{host.name} continues")
            self._world.loop.resume(host)

    def _kill(self, value: int) -> None:
        if host := self._some(value):
            self._die(host)

    def _suspend(self, value: int) -> None:
        host = self._some(value)
        if host and not host.suspended:
            self._pause(host, LENGTHS_S[value // 8 % len(LENGTHS_S)])

    def _cut_off(self, value: int) -> None:
        if host := self._some(value):
            server, seconds = self._server(value // 8), LENGTHS_S[value // 16 % len(LENGTHS_S)]
            self._world.note(f"{host.name} is cut off from {server} for {seconds} s")
            host.cut_until[server] = self._world.loop.time() + seconds
            self._world.wire.cut(server, host)

    def _server(self, value: int) -> str:
        """Return the server whose connections break. Where ends may be too low, no request to Kafka is repeated."""
        return "redis" if value % 2 or self._world.case.rates["low"] else "kafka"

    def _drop_links(self, value: int) -> None:
        server = self._server(value)
        self._world.note(f"all connections to {server} break")
        self._world.wire.cut(server)

    def _hold(self, value: int) -> None:
        server, seconds = ("kafka", "redis")[value % 2], LENGTHS_S[value // 2 % len(LENGTHS_S)]
        self._world.note(f"{server} stands still for {seconds} s")
        self._world.wire.held_until[server] = self._world.loop.time() + seconds

    def _roll_back(self, value: int) -> None:
        """Restore Redis from a snapshot."""
        world = self._world
        if (past := self._past(value)) is not None:
            world.note("redis is rolled back")
            world.place.server.data = copied(past)
            if value % 8 < 4:  # other shards' owners may have loaded the scripts again
                world.place.server.scripts.clear()
            if value % 2:
                world.wire.cut("redis")

    def _past(self, value: int) -> dict[bytes, object] | None:
        """Return a snapshot in which every shard has a head: without one the shard would rightly stop."""
        world = self._world
        heads = [fleet.keys(p).head.encode() for fleet, p in world.shards()]
        usable = [s for s in world.snapshots if all(h in s for h in heads)]
        return usable[-1 - value // 2 % len(usable)] if usable else None

    def _fail_over(self, value: int) -> None:
        """Promote a replica that lags. Old connections stay with the old primary for a while."""
        world = self._world
        if (past := self._past(value)) is not None:
            world.note("redis fails over to a replica that lags")
            server = SimulatedRedisServer(copied(past))
            server.on_write = world.snapshot
            if value % 8 >= 4:  # as above
                server.scripts = dict(world.place.server.scripts)
            world.place.server = server
            world.loop.call_later(LENGTHS_S[value // 32 % len(LENGTHS_S)], world.wire.cut, "redis", context=WORLD)

    def _restart_redis(self, value: int) -> None:
        self._world.note("redis restarts")
        self._world.place.server.scripts.clear()
        self._world.wire.cut("redis")

    def _tidy(self, value: int) -> None:
        """Compact the compacted topics."""
        world = self._world
        world.note("the compacted topics are compacted")
        compacted = {t for s in (f.streams for f in world.fleets) for t in (s.heads, s.latest, s.tombstones)}
        for tp, log in world.broker.logs.items():
            if tp.topic in compacted:
                log.compact()

    def _expire(self, value: int) -> None:
        """Delete the beginnings of the logs, as far as no Redis can fall back any more (retention)."""
        world = self._world
        if world.case.rates["lose"] or world.case.rates.get("part") or world.case.change:
            return  # these need the whole logs
        world.note("the beginnings of the logs expire")
        needed: dict[TopicPartition, list[int]] = {}
        for fleet, p in world.shards():
            key, streams = fleet.keys(p).head.encode(), fleet.streams
            for data in (world.place.server.data, *world.snapshots):
                head = decode_store_head(data[key]) if key in data else None
                needed.setdefault(TopicPartition(streams.input, p), []).append(head.offset if head else 0)
                needed.setdefault(TopicPartition(streams.output, p), []).append(head.position if head else 0)
                if orders := streams.sides.get(ORDERS):
                    needed.setdefault(TopicPartition(orders, p), []).append(head.sides.get(orders, 0) if head else 0)
        for tp, offsets in needed.items():
            world.broker.logs[tp].delete_before(min(offsets))

    def _leave(self, value: int) -> None:
        """Stop a process in good order."""
        host = self._some(value)
        for fleet in self._world.fleets:
            if host and (supervisor := fleet.supervisors.get(host)):
                self._world.note(f"{host.name} is asked to stop")
                supervisor.stop()

    def _add(self, value: int) -> None:
        fleet = self._world.fleets[value % len(self._world.fleets)]
        if len(fleet.hosts) < MOST_HOSTS:
            self._world.start_process(fleet)

    def _skew(self, value: int) -> None:
        if host := self._some(value):
            host.clock_error_ms = SKEWS_MS[value // 8 % len(SKEWS_MS)]
            self._world.note(f"{host.name}'s clock is wrong by {host.clock_error_ms} ms")

    def _lose(self, value: int) -> None:
        """Let a part of a shard vanish from Redis, or all of it."""
        world = self._world
        fleet, p = world.shards()[value % len(world.shards())]
        keys = fleet.keys(p)
        data = world.place.server.data
        there = [key.encode() for key in keys.all() if key.encode() in data]
        if keys.head.encode() not in there:
            return
        self.has_lost = True
        key, much = there[value // 4 % len(there)], value // 64 % 3
        if much == 0 and isinstance(data[key], dict):
            entry = sorted(data[key])[value // 256 % len(data[key])]
            world.note(f"redis loses {entry!r} of {key!r}")
            del data[key][entry]
            if not data[key]:
                del data[key]
        else:
            gone = there if much == 1 else [key]
            world.note(f"redis loses {gone}")
            for one in gone:
                del data[one]

    def _lose_entries(self, value: int) -> None:
        """Let states of a shard vanish from Redis, or what else is kept of its customers."""
        world = self._world
        fleet, p = world.shards()[value % len(world.shards())]
        keys, data = fleet.keys(p), world.place.server.data
        key = (keys.states, keys.states, keys.customers, keys.due, keys.tombstones)[value // 8 % 5].encode()
        if keys.head.encode() not in data or key not in data:
            return
        self.has_lost = True
        gone = sorted(data[key])[value // 64 % len(data[key]) :]
        world.note(f"redis loses {gone} of {key!r}")
        for entry in gone:
            del data[key][entry]
        if not data[key]:
            del data[key]
