"""An event loop on which time stands still while anything is ready, and jumps to the next timer otherwise.

The order of what is ready is chosen, not given. Each callback belongs to a process of the fleet (`Host`), or to the
world around it: the callbacks of a process that died never run, those of a suspended one run once it continues.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
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
        self.parked: list[SimulatedHandle] = []
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


class SimulatedHandle:
    """A callback to be run: asyncio's Handle and TimerHandle, as far as tasks and time-outs use them."""

    __slots__ = ("_when", "args", "callback", "context", "gone")

    def __init__(self, callback: Any, args: tuple[Any, ...], context: Context, when: float = 0.0) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.gone = False
        self._when = when

    def cancel(self) -> None:
        self.gone = True

    def cancelled(self) -> bool:
        return self.gone

    def when(self) -> float:
        return self._when


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop without a clock, files and sockets: asyncio's own, but for the choice of the next callback."""

    _ready: Any
    _stopping: bool

    def __init__(self, choices: Choices, *, shuffles: int, steps: int) -> None:
        """`shuffles`, `steps`: one in so many callbacks is run out of turn, or is where its process is disturbed."""
        super().__init__()
        self._now = 0.0
        self._timers: list[tuple[float, int, SimulatedHandle]] = []
        self._serial = 0
        self._shuffles = choices.stream("order", shuffles)
        self._steps = choices.stream("step", steps)
        self.disturb: Callable[[Host, int], None] = lambda *_: None  # called before a callback of a process
        self.callbacks = 0

    def time(self) -> float:
        return self._now

    # As asyncio's own methods, without their checks for other threads.
    def call_soon(  # type: ignore[override]  # the base's is generic
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        handle = SimulatedHandle(callback, args, copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # an asynchronous generator's end asks for it

    def call_later(  # type: ignore[override]  # as above
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]  # as above
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        timer = SimulatedHandle(callback, args, copy_context() if context is None else context, when)
        self._serial += 1
        heapq.heappush(self._timers, (when, self._serial, timer))
        return timer

    def _run_once(self) -> None:
        """Run callbacks until the loop is asked to stop. A run is thousands of them, so that calls are written out."""
        ready, timers, shuffles, steps = self._ready, self._timers, self._shuffles, self._steps
        while not self._stopping:
            if not ready or (timers and timers[0][0] <= self._now):
                self._advance()
            handle = ready.popleft()
            if ready:
                shuffles.at += 1
                if shuffles.at == shuffles.upcoming:
                    handle = self._another(handle, shuffles.decide())
            if handle.gone:
                continue
            if (host := handle.context.get(HOST)) is not None:
                steps.at += 1
                if steps.at == steps.upcoming:
                    self.disturb(host, steps.decide())
                if not host.alive:
                    continue
                if host.suspended:
                    host.parked.append(handle)
                    continue
            self.callbacks += 1
            if self.callbacks > MOST_CALLBACKS:
                raise StandStill("busy without end")
            try:
                handle.context.run(handle.callback, *handle.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException:  # noqa: BLE001  # as asyncio, whose handler of them would say nothing here
                pass

    def _advance(self) -> None:
        """Make what is due by now ready. Where nothing is ready, jump to the next timer first."""
        ready, timers = self._ready, self._timers
        while timers and timers[0][2].gone:
            heapq.heappop(timers)
        if not ready:
            if not timers:
                raise StandStill("nothing is ready")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[2]
            if not timer.gone:
                ready.append(timer)

    def _another(self, handle: SimulatedHandle, chosen: int) -> SimulatedHandle:
        """Return the callback that is run instead of the first one."""
        ready = self._ready
        ready.appendleft(handle)
        at = chosen % len(ready)
        other: SimulatedHandle = ready[at]
        del ready[at]
        return other

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
