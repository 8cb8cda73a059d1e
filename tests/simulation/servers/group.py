"""A consumer group in memory: generations, expired members, zombies. And a worker's membership in it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from tests.simulation.virtual_loop import HOST, WORLD
from tests.simulation.wire import Disconnected, SimulatedLink, SimulatedWire

KAFKA: Final = "kafka"
HEARTBEAT_S: Final = 1.0


class SimulatedGroup:
    """The coordinator of one group. Every rebalance revokes everything (the eager protocol)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, partitions: int, session_s: float) -> None:
        self._loop = loop
        self.partitions = partitions
        self._session_s = session_s
        self.generation = 0
        self._seen: dict[str, float] = {}  # member -> when it was last heard of
        self._joining: dict[str, asyncio.Future[Any]] | None = None  # None: no rebalance is under way
        self._assigned: dict[str, frozenset[int]] = {}

    def expire(self) -> None:
        """Drop the members that weren't heard of for a session."""
        now = self._loop.time()
        gone = [m for m, at in self._seen.items() if now - at > self._session_s and m not in (self._joining or {})]
        for member in gone:
            self.leave(member)

    def leave(self, member: str) -> None:
        if self._seen.pop(member, None) is not None:
            self._rebalance()
            self._finish()

    def _rebalance(self) -> None:
        if self._joining is None:
            self._joining = {}
            self._loop.call_later(self._session_s, self._end, self.generation, context=WORLD)

    def join(self, member: str) -> asyncio.Future[Any]:
        self._rebalance()
        assert self._joining is not None
        self._seen[member] = self._loop.time()
        answer = self._joining[member] = self._loop.create_future()
        self._finish()
        return answer

    def _finish(self) -> None:
        if self._joining is not None and self._joining.keys() >= self._seen.keys():
            self._end(self.generation)

    def _end(self, generation: int) -> None:
        """End a rebalance: who hasn't joined again is no member any more."""
        if self._joining is None or generation != self.generation:
            return
        joined, self._joining = self._joining, None
        now = self._loop.time()
        self._seen = dict.fromkeys(sorted(joined), now)
        self.generation += 1
        members = list(self._seen)
        shares: dict[str, set[int]] = {m: set() for m in members}
        taken: set[int] = set()
        most = -(-self.partitions // len(members)) if members else 0
        for member in members:  # sticky
            for p in sorted(self._assigned.get(member, ())):
                if p not in taken and len(shares[member]) < most:
                    shares[member].add(p)
                    taken.add(p)
        for p in range(self.partitions):
            if members and p not in taken:
                shares[min(members, key=lambda m: (len(shares[m]), m))].add(p)
        self._assigned = {m: frozenset(share) for m, share in shares.items()}
        for member, answer in joined.items():
            if not answer.done():
                answer.set_result((self.generation, self._assigned[member]))

    def heartbeat(self, member: str, generation: int) -> bool:
        """Return whether the member still has its place; else it must join again."""
        self.expire()
        if member not in self._seen or generation != self.generation:
            return False
        self._seen[member] = self._loop.time()
        return self._joining is None

    def commit(self, member: str, generation: int) -> bool:
        """Return whether an offset of this member and generation is accepted."""
        self.expire()
        return member in self._seen and generation == self.generation


class SimulatedMembership:
    """A worker's membership, with the methods of GroupMembership."""

    def __init__(self, group: SimulatedGroup, wire: SimulatedWire, member: str) -> None:
        self._group = group
        self._wire = wire
        self._member = member
        self._generation = -1
        self._link: SimulatedLink | None = None
        self.assigned: frozenset[int] = frozenset()
        self.changed = asyncio.Event()

    async def _call(self, work: Any, limit_s: float) -> Any:
        """Ask the coordinator; None: there was no answer in time."""
        if self._link is None or self._link.broken:
            self._link = self._wire.link(HOST.get(), KAFKA)
        try:
            async with asyncio.timeout(limit_s):
                return await self._wire.call(self._link, work)
        except (Disconnected, TimeoutError):
            self._link.broken = True
            return None

    async def count_partitions(self) -> int | None:
        return self._group.partitions

    async def start(self) -> None:
        """Join with the first poll."""

    async def stop(self) -> None:
        await self._call(lambda: self._group.leave(self._member), 2)

    async def poll(self) -> None:
        """Send a heartbeat, and join again where the group has changed."""
        if self._generation >= 0:
            kept = await self._call(lambda: self._group.heartbeat(self._member, self._generation), 2)
            if kept is None or kept:
                await asyncio.sleep(HEARTBEAT_S)
                return
        joined = await self._call(lambda: self._group.join(self._member), 20)
        if joined is None:
            await asyncio.sleep(HEARTBEAT_S / 4)
            return
        self._generation, self.assigned = joined
        self.changed.set()

    def identity(self) -> tuple[int, str]:
        return self._generation, self._member

    async def confirm(self, partition: int) -> bool:
        if partition not in self.assigned:
            return False
        return bool(await self._call(lambda: self._group.commit(self._member, self._generation), 5))

    async def report(self, offsets: Mapping[int, int]) -> bool:
        return bool(await self._call(lambda: self._group.commit(self._member, self._generation), 5))
