"""The circuit breaker of an endpoint: after failures in a row nothing is sent for a while, then one probe. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class BreakerState(StrEnum):
    """A breaker's state. Open: nothing is sent. Half-open: one webhook is sent, and its result decides."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(slots=True)
class Breaker:
    """Opens after `failures` in a row, for `pause_ms`, twice as long after each failed probe, up to `longest_ms`.

    >>> breaker = Breaker(failures=2, pause_ms=1_000, longest_ms=4_000)
    >>> breaker.failed(0); breaker.failed(0); breaker.state(0), breaker.wait_ms(400)
    (<BreakerState.OPEN: 'open'>, 600)
    >>> breaker.wait_ms(1_000); breaker.started(1_000); breaker.wait_ms(1_001)
    0
    >>> breaker.failed(1_100); breaker.wait_ms(1_100)
    2000
    >>> breaker.succeeded(); breaker.state(1_200)
    <BreakerState.CLOSED: 'closed'>
    """

    failures: int
    pause_ms: int
    longest_ms: int
    _in_a_row: int = field(default=0, init=False)
    _until_ms: int | None = field(default=None, init=False)  # None: closed
    _last_pause_ms: int = field(default=0, init=False)
    _probing: bool = field(default=False, init=False)

    def state(self, now_ms: int) -> BreakerState:
        """Return the state now."""
        if self._until_ms is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._probing or now_ms >= self._until_ms else BreakerState.OPEN

    def wait_ms(self, now_ms: int) -> int | None:
        """Return how long nothing may be sent: 0 for not at all, None until the probe under way has its result."""
        if self._until_ms is None:
            return 0
        return None if self._probing else max(self._until_ms - now_ms, 0)

    def started(self, now_ms: int) -> None:
        """Note that a webhook is sent. Where the breaker is open it is the probe."""
        self._probing = self._until_ms is not None and now_ms >= self._until_ms

    def succeeded(self) -> None:
        """Close: the endpoint works."""
        self._in_a_row, self._until_ms, self._last_pause_ms, self._probing = 0, None, 0, False

    def failed(self, now_ms: int) -> None:
        """Note a failure: it may open the breaker, or is the end of a probe."""
        self._in_a_row += 1
        if self._until_ms is not None and not self._probing:
            return  # sent before the breaker opened
        if self._probing or self._in_a_row >= self.failures:
            self._last_pause_ms = min(max(2 * self._last_pause_ms, self.pause_ms), self.longest_ms)
            self._until_ms, self._probing = now_ms + self._last_pause_ms, False
