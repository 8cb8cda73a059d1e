"""The pace of an endpoint: its rate, how many webhooks are under way, and the waits that it asks for. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_FIRST_HOLD_MS: Final = 1_000  # after a 429 that names no time
_LONGEST_HOLD_MS: Final = 60_000
_LONGEST_ASKED_MS: Final = 3_600_000  # one answer mustn't stop an endpoint for longer


@dataclass(slots=True)
class Pace:
    """How fast webhooks may be sent. `rate_per_s` None: no limit. `concurrency`: most of them under way at once.

    An endpoint under load halves the number under way; it grows by one after as many successes as it is. An endpoint
    that asks to wait gets nothing at all until then.

    >>> pace = Pace(rate_per_s=10, concurrency=4)
    >>> pace.started(0); pace.wait_ms(40)
    60
    >>> pace.overloaded(1_000, hold=True, asked_ms=None); pace.wait_ms(1_000), pace.limit
    (1000, 2)
    """

    rate_per_s: float | None
    concurrency: int
    limit: int = field(init=False)
    _next_ms: float = field(default=0.0, init=False)
    _held_until_ms: int = field(default=0, init=False)
    _hold_ms: int = field(default=0, init=False)  # the last one that the endpoint gave no time for
    _successes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.limit = self.concurrency

    def wait_ms(self, now_ms: int) -> int:
        """Return how long nothing may be sent; 0: not at all."""
        return max(int(self._next_ms - now_ms + 0.999), self._held_until_ms - now_ms, 0)

    def started(self, now_ms: int) -> None:
        """Note that a webhook is sent."""
        if self.rate_per_s is not None:
            self._next_ms = max(self._next_ms, float(now_ms)) + 1_000 / self.rate_per_s

    def succeeded(self) -> None:
        """Note a success."""
        self._hold_ms = 0
        self._successes += 1
        if self._successes >= self.limit and self.limit < self.concurrency:
            self.limit, self._successes = self.limit + 1, 0

    def overloaded(self, now_ms: int, *, hold: bool, asked_ms: int | None) -> None:
        """Note that the endpoint is under load. `hold`: it said so of itself. `asked_ms`: the wait it asked for."""
        self.limit, self._successes = max(self.limit // 2, 1), 0
        if asked_ms is not None:
            self._held_until_ms = max(self._held_until_ms, now_ms + min(asked_ms, _LONGEST_ASKED_MS))
        elif hold and now_ms >= self._held_until_ms:  # not once more for each of those that were under way
            self._hold_ms = min(max(2 * self._hold_ms, _FIRST_HOLD_MS), _LONGEST_HOLD_MS)
            self._held_until_ms = now_ms + self._hold_ms
