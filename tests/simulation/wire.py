"""The network between the processes and the servers: connections that delay, break, or deliver when nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from tests.simulation.choices import Choices
from tests.simulation.virtual_loop import WORLD, Host

LATENCY_S: Final = 0.001
DELAYS_S: Final = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 8.0)
LATE_S: Final = (0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 6.0)


class Disconnected(Exception):
    """The connection broke. The outcome of what was sent is unknown."""


class SimulatedLink:
    """One connection of a process to a server. What is sent on it arrives in order."""

    def __init__(self, host: Host | None, server: str, to: object = None) -> None:
        """`to`: what answers there, where another may take its place."""
        self.host = host
        self.server = server
        self.to = to
        self.broken = False
        self.arrives = 0.0  # the last request
        self.waiting: dict[asyncio.Future[Any], None] = {}

    def cut(self) -> None:
        """Break the connection. Requests under way may still arrive."""
        self.broken = True
        waiting, self.waiting = list(self.waiting), {}
        for answer in waiting:
            if not answer.done():
                answer.set_exception(Disconnected())


class SimulatedWire:
    """Carries requests."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, choices: Choices, *, delays: int, breaks: int, ends: int
    ) -> None:
        """One in so many requests is slow (`delays`), or its connection breaks. `ends`: the same for EndTxn."""
        self._loop = loop
        self._delays = choices.stream("delay", delays)
        self._breaks = choices.stream("break", breaks)
        self._ends = choices.stream("end", ends)
        self.strike: Callable[[], None] = lambda: None  # called before each request that arrives
        self.held_until: dict[str, float] = {}  # server -> when it answers again
        self.links: dict[SimulatedLink, None] = {}
        self.calm = False

    def link(self, host: Host | None, server: str, to: object = None) -> SimulatedLink:
        made = SimulatedLink(host, server, to)
        self.links[made] = None
        return made

    def cut(self, server: str, host: Host | None = None, *, but_to: object = None) -> None:
        """Break all connections to a server, or those of one process, or all but those `but_to` one."""
        for link in [k for k in self.links if k.server == server and host in {None, k.host}]:
            if but_to is not None and link.to is but_to:
                continue
            del self.links[link]
            link.cut()

    async def call(self, link: SimulatedLink, work: Callable[[], Any], *, ends: bool = False) -> Any:
        """Send a request and return its answer: what `work`, which runs on the server, returns or raises.

        `ends`: it ends a transaction. Raises Disconnected where the connection breaks.
        """
        if link.broken:
            raise Disconnected
        loop, now = self._loop, self._loop.time()
        begins = max(now, self.held_until.get(link.server, 0.0))
        if link.host is not None:
            begins = max(begins, link.host.cut_until.get(link.server, 0.0))
        slow, fate = self._delays.next(), (self._ends if ends else self._breaks).next()
        travel = LATENCY_S + (DELAYS_S[slow % len(DELAYS_S)] if slow and not self.calm else 0.0)
        link.arrives = arrives = max(link.arrives, begins + travel)
        answer: asyncio.Future[Any] = loop.create_future()
        link.waiting[answer] = None
        if fate and not self.calm:
            self._break(link, work, answer, arrives, fate)
        else:
            loop.call_at(arrives, self._arrive, link, work, answer, context=WORLD)
        try:
            return await answer
        finally:
            link.waiting.pop(answer, None)

    def _break(
        self, link: SimulatedLink, work: Callable[[], Any], answer: asyncio.Future[Any], arrives: float, fate: int
    ) -> None:
        kind, much = fate % 4, LATE_S[fate // 4 % len(LATE_S)]
        if kind == 1:  # it arrives, its answer doesn't
            self._loop.call_at(arrives, self._arrive, link, work, self._loop.create_future(), context=WORLD)
        elif kind >= 2:  # it arrives late, when its sender has gone on
            self._loop.call_at(arrives + much, self._arrive, link, work, self._loop.create_future(), context=WORLD)
        self._loop.call_at(arrives, self._fail, link, context=WORLD)

    def _fail(self, link: SimulatedLink) -> None:
        self.links.pop(link, None)
        link.cut()

    def _arrive(self, link: SimulatedLink, work: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        """Run a request on the server."""
        self.strike()
        try:
            result = work()
        except Exception as error:  # noqa: BLE001  # it is the answer
            if not answer.done():
                answer.set_exception(error)
            return
        if isinstance(result, asyncio.Future):
            result.add_done_callback(lambda done: _pass_on(done, answer), context=WORLD)
        elif not answer.done():
            answer.set_result(result)


def _pass_on(done: asyncio.Future[Any], answer: asyncio.Future[Any]) -> None:
    if answer.done() or done.cancelled():
        return
    if error := done.exception():
        answer.set_exception(error)
    else:
        answer.set_result(done.result())
