"""The decisions of a run, drawn from its seed: which task goes first, which connection breaks, who dies when.

A run passes many points of decision, and at most of them nothing happens. Only the others are recorded, each under its
kind and the number of its point, so that a run can be repeated without some of them (shrink.py). All numbers are
whole: the same seed gives the same decisions on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

LARGEST: Final = 1 << 30

Decisions = dict[str, dict[int, int]]  # kind -> number of the point, from 1 -> what happens, at least 1


class Stream:
    """The decisions of one kind."""

    def __init__(self, seed: str, every: int, given: Mapping[int, int] | None) -> None:
        """`every`: how many points there are for each decision, on average; 0: no decision. `given`: repeat these."""
        self.made: dict[int, int] = {}
        self._rng = random.Random(seed)
        self._every = every
        self._given = None if given is None else sorted(given.items(), reverse=True)
        self.at = 0  # the points passed
        self.upcoming, self._value = self._draw()

    def _draw(self) -> tuple[int, int]:
        if self._given is not None:
            return self._given.pop() if self._given else (0, 0)
        if not self._every:
            return 0, 0
        return self.at + self._rng.randrange(1, 2 * self._every), self._rng.randrange(1, LARGEST)

    def next(self) -> int:
        """Pass a point. Return 0 where nothing happens, else a number that says what."""
        self.at += 1
        return self.decide() if self.at == self.upcoming else 0

    def decide(self) -> int:
        """Return what happens at the point `upcoming`, which was just reached."""
        value = self.made[self.at] = self._value
        self.upcoming, self._value = self._draw()
        return value


class Choices:
    """All decisions of a run."""

    def __init__(self, seed: int, given: Decisions | None = None) -> None:
        """`given`: repeat these decisions and make no others."""
        self._seed = seed
        self._given = given
        self._streams: dict[str, Stream] = {}

    def stream(self, kind: str, every: int) -> Stream:
        """Return the decisions of one kind."""
        given = None if self._given is None else self._given.get(kind, {})
        made = self._streams[kind] = Stream(f"{self._seed}:{kind}", every, given)
        return made

    def made(self) -> Decisions:
        """Return the decisions so far."""
        return {kind: dict(stream.made) for kind, stream in self._streams.items() if stream.made}
