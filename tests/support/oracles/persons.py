"""The persons behind ids that were merged: slow and plain."""

from __future__ import annotations

from collections.abc import Iterable

Merge = tuple[int, str, str]  # instant, from, into


def roots(ids: Iterable[str], merges: Iterable[Merge]) -> dict[str, str]:
    """The id that each person goes by, by each of its ids; slow and plain."""
    person = {name: {name} for name in ids}
    root = {name: name for name in person}
    latest: dict[tuple[str, str], int] = {}
    for at, source, target in merges:
        latest[source, target] = max(at, latest.get((source, target), 0))
    for _, source, target in sorted((at, *pair) for pair, at in latest.items()):
        if person[source] is person[target]:
            new = target if root[source] == source else root[source]
        else:
            new = root[target]
            person[target] |= person[source]
            for name in person[target]:
                person[name] = person[target]
        for name in person[source]:
            root[name] = new
    return root
