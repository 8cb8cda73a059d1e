"""An event loop on which time stands still while anything is ready, and jumps to the next timer otherwise.

The order of what is ready is chosen, not given. Each callback belongs to a process of the fleet (`Host`), or to the
world around it: the callbacks of a process that died never run, those of a suspended one run once it continues.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from asyncio import events
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, TypeVar

from tests.simulation.choices import Choices

T = TypeVar("T")

HOST: Final[ContextVar[Host | None]] = ContextVar("host", default=None)
WORLD: Final = Context()  # of callbacks that belong to no process


MOST_CALLBACKS: Final = 60_000  # a run has some two thousand


class StandStill(Exception):
    """The run doesn't end: nothing is ready and there is no timer, or the fleet is busy without end."""


class Host:
    """One process of the fleet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.suspended = False
        self.parked: list[events.Handle] = []
        self.cut_until: dict[str, float] = {}  # server -> when the network heals
        self.clock_error_ms = 0
        self._tasks: list[asyncio.Task[Any]] = []

    def start(self, loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run the process."""
        context = copy_context()
        context.run(HOST.set, self)
        task = loop.create_task(main, context=context)
        self._tasks.append(task)
        return task


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop without a clock, files and sockets: asyncio's own, but for the choice of the next callback."""

    _ready: Any

    def __init__(self, choices: Choices, *, shuffles: int, steps: int) -> None:
        """`shuffles`, `steps`: one in so many callbacks is run out of turn, or is where its process is disturbed."""
        super().__init__()
        self._now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._serial = 0
        self._shuffles = choices.stream("order", shuffles)
        self._steps = choices.stream("step", steps)
        self.disturb: Callable[[Host, int], None] | None = None  # called before a callback of a process
        self.callbacks = 0
        self.set_exception_handler(lambda *_: None)

    def time(self) -> float:
        return self._now

    # As asyncio's own two methods, without their checks for other threads.
    def call_soon(  # type: ignore[override]  # the base's is generic
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]  # as above
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._serial += 1
        heapq.heappush(self._timers, (when, self._serial, timer))
        return timer

    def _run_once(self) -> None:
        """Run one callback."""
        ready, timers = self._ready, self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not ready:
            if not timers:
                raise StandStill("nothing is ready")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[2]
            if not timer._cancelled:
                ready.append(timer)
        at = 0
        if len(ready) > 1 and (chosen := self._shuffles.next()):
            at = chosen % len(ready)
        handle = ready[at]
        del ready[at]
        if not handle._cancelled:
            self._run(handle)

    def _run(self, handle: events.Handle) -> None:
        host = handle._context.get(HOST)  # type: ignore[attr-defined]  # asyncio's own, in every version since 3.7
        if host is not None:
            if self.disturb is not None and (chosen := self._steps.next()):
                self.disturb(host, chosen)
            if not host.alive:
                return
            if host.suspended:
                host.parked.append(handle)
                return
        self.callbacks += 1
        if self.callbacks > MOST_CALLBACKS:
            raise StandStill("busy without end")
        handle._run()

    def resume(self, host: Host) -> None:
        """Let a suspended process continue: what came meanwhile is ready at once."""
        host.suspended = False
        self._ready.extend(host.parked)
        host.parked.clear()

    def dispose(self) -> None:
        """End all tasks without running them on, and close."""
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # dead processes leave theirs pending
            for _ in range(20):
                with contextlib.suppress(BaseException):
                    coroutine: Any = task.get_coro()
                    coroutine.close()
                    break
        self._ready.clear()
        self._timers.clear()
        self.close()

    # asyncio asks a loop for these; there is nothing to wake up and nothing to select.
    def _write_to_self(self) -> None:
        """Do nothing: there is one thread."""

    def _process_events(self, event_list: object) -> None:
        """Do nothing: there are no files."""
