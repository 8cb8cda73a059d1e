"""The search of a command's model: every state, breadth first, and whether each of them leads to an end.

Unlike the search of the protocol's own model it keeps the states themselves, and so needs worlds of some 100,000.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

World = TypeVar("World", bound=Hashable)


class Violation(str):
    """A broken promise, in place of the state after a step."""

    __slots__ = ()


@dataclass(slots=True)
class Result:
    """The result of a search."""

    states: int = 0
    finished: int = 0  # states in which all is done and at rest
    violation: str | None = None
    trace: list[str] = field(default_factory=list)


def search(
    first: World,
    steps: Callable[[World], Iterable[tuple[str, World | Violation]]],
    resting: Callable[[World], bool],
    wrong_at_rest: Callable[[World], str | None],
) -> Result:
    """Search all states, up to the first violation; then whether each leads to one at rest.

    `steps`: (what happens, the state after it). `wrong_at_rest`: asked of states at rest only.
    """
    worlds, numbers = [first], {first: 0}
    parents: list[tuple[int, str]] = [(0, "")]
    came_from: list[list[int]] = [[]]
    ends: list[int] = []
    for number, world in enumerate(worlds):  # which grows
        if resting(world):
            ends.append(number)
            if wrong := wrong_at_rest(world):
                return Result(len(worlds), len(ends), wrong, [*_way(parents, number), "all rest"])
        for text, after in steps(world):
            if isinstance(after, Violation):
                return Result(len(worlds), len(ends), str(after), [*_way(parents, number), text])
            at = numbers.setdefault(after, len(worlds))
            if at == len(worlds):
                worlds.append(after)
                parents.append((number, text))
                came_from.append([])
            came_from[at].append(number)
    stuck = _without_end(came_from, ends)
    if stuck is not None:
        return Result(len(worlds), len(ends), "stuck: no way leads to the end", _way(parents, stuck))
    return Result(len(worlds), len(ends))


def _without_end(came_from: list[list[int]], ends: list[int]) -> int | None:
    """Return the first state from which no end can be reached."""
    leads = bytearray(len(came_from))
    waiting = list(ends)
    for number in waiting:
        leads[number] = 1
    while waiting:
        for before in came_from[waiting.pop()]:
            if not leads[before]:
                leads[before] = 1
                waiting.append(before)
    found = leads.find(0)
    return None if found < 0 else found


def _way(parents: list[tuple[int, str]], number: int) -> list[str]:
    lines: list[str] = []
    while number:
        number, text = parents[number]
        lines.append(text)
    return lines[::-1]
