"""Merges that a customer knows of: which ids are one person, and which of them the person goes by.

A merge is an edge between two ids. The root of a set of edges, the id that the person goes by, is a function of the set
alone. Each id knows some of the edges; `addressees` says whom it tells what it has learned, so that in the end all know
the same root (docs/explanation/state-format.md, section 11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.entries import hash_id

if TYPE_CHECKING:
    from collections.abc import Iterable

_OFFSET_BITS: Final = 20


class Edge(NamedTuple):
    """One merge. Edges sort by their instants, then by their ids."""

    at: int  # ms: `occurred_at` of the merge
    source: str  # the id that was merged
    target: str  # the id that it was merged into
    learned: int = 0  # the stamp of the record that taught it to the customer whose state holds it


class Received(NamedTuple):
    """A state that came to a customer by a package: it must not count twice."""

    package: int  # `package_number`
    stamp: int  # of the first record that brought it


class Links(NamedTuple):
    """The merges in a customer's state."""

    edges: tuple[Edge, ...] = ()  # sorted; of some pairs of ids several (`joined`)
    received: tuple[Received, ...] = ()  # ascending, each package once

    def has_received(self, package: int, stamp: int | None = None) -> bool:
        """Return whether a package came before the record of this stamp; None: at all."""
        return any(r.package == package and (stamp is None or r.stamp < stamp) for r in self.received)

    def with_received(self, package: int, stamp: int) -> tuple[Received, ...]:
        """Return the packages received, with one that comes now."""
        known = self.has_received(package)
        return self.received if known else tuple(sorted((*self.received, Received(package, stamp))))


NO_LINKS: Final = Links()


class Learned(NamedTuple):
    """The edges that a customer knew before a record, and those that it knows after it."""

    before: tuple[Edge, ...]
    now: tuple[Edge, ...]


def stamp_of(timestamp: int, offset: int) -> int:
    """Return a number for a record that ascends in its partition: the broker's timestamp (ms), then the offset.

    >>> stamp_of(5, 7) < stamp_of(5, 8) < stamp_of(6, 0)
    True
    """
    return timestamp << _OFFSET_BITS | offset & (1 << _OFFSET_BITS) - 1


def package_id(giver: str, stamp: int, part: int) -> str:
    """Return the id of a state that is handed on: always the same for the record that caused it."""
    return f"{hash_id(b'g', giver):012x}-{stamp:x}-{part}"


def package_number(name: str) -> int:
    """Return the 48 bits that stand for a package's id.

    >>> package_number(package_id("a", 5, 0)) == package_number(package_id("a", 5, 1))
    False
    """
    return hash_id(b"m", name)


def joined(edges: Iterable[Edge], others: Iterable[Edge]) -> tuple[Edge, ...]:
    """Return the edges with others that are learned now. Of two ids the latest instant counts.

    The first one is kept too, and any between that other edges have come between: for a record that is read again, what
    was known when it came is in force (`view`).

    >>> joined([Edge(1, "a", "b", 10)], [Edge(2, "a", "b", 30), Edge(1, "b", "c", 20)])
    (Edge(at=1, source='a', target='b', learned=10), Edge(at=1, source='b', target='c', learned=20), \
Edge(at=2, source='a', target='b', learned=30))
    """
    found = sorted(edges)
    for e in others:
        own = [x for x in found if _pair(x) == _pair(e)]
        if own and own[-1].at >= e.at:
            continue
        if len(own) > 1 and not any(own[-2] < x < own[-1] for x in found):
            found.remove(own[-1])
        found = sorted([*found, e])
    return tuple(found)


def view(edges: Iterable[Edge], stamp: int | None = None) -> tuple[Edge, ...]:
    """Return one edge for each two ids: the latest one that was learned before the record of this stamp; None: of all.

    >>> edges = joined([Edge(1, "a", "b", 10)], [Edge(2, "a", "b", 30)])
    >>> view(edges, 30), view(edges)
    ((Edge(at=1, source='a', target='b', learned=10),), (Edge(at=2, source='a', target='b', learned=30),))
    """
    latest = {_pair(e): e for e in sorted(edges) if stamp is None or e.learned < stamp}
    return tuple(sorted(latest.values()))


def _pair(e: Edge) -> tuple[str, str]:
    return e.source, e.target


def root_of(edges: Iterable[Edge], customer: str) -> str:
    """Return the id that a customer's person goes by.

    In the order of their instants: an edge between two persons makes them one, by the target's root; one within a
    person changes the root only where it is the edge's source. So of a cycle the latest edge decides.

    >>> root_of([Edge(1, "a", "b"), Edge(2, "b", "c")], "a"), root_of([Edge(1, "a", "b"), Edge(2, "b", "a")], "b")
    ('c', 'a')
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while name in above:
            name = above[name]
        return name

    roots: dict[str, str] = {}
    for e in sorted(edges):
        source, target = top(e.source), top(e.target)
        if source != target:
            above[source] = target
        elif roots.get(source, source) == e.source:
            roots[source] = e.target
    person = top(customer)
    return roots.get(person, person)


def members_of(edges: Iterable[Edge]) -> set[str]:
    """Return all ids of these edges."""
    return {name for e in edges for name in (e.source, e.target)}


def addressees(customer: str, learned: Learned, giver: str | None, given: tuple[Edge, ...]) -> list[str]:
    """Return whom a customer tells all its edges after it has learned some, sorted.

    `giver`: the id that taught them (None: the customer's own merge), by a message with the edges `given`. An alias
    tells the root before and the root now. A root tells everybody, because others may take themselves for the root. It
    needn't where only leaves were added: ids that were merged once and into which none was, so that they decide
    nothing. One who has just sent the very same edges needn't be reached.
    """
    same = _content(learned.before)
    new = [e for e in learned.now if (e.at, e.source, e.target) not in same]
    if not new:
        return []
    root = root_of(learned.now, customer)
    knows_all = giver if _content(given) == _content(learned.now) else None
    if root != customer:
        reached = {root_of(learned.before, customer), root}
        if knows_all == root:
            reached.discard(root)
    elif all(_is_leaf(e.source, customer, learned.now) for e in new):
        reached = set()
    else:
        reached = members_of(learned.now)
        reached.discard(knows_all or customer)
    return sorted(reached - {customer})


def _content(edges: Iterable[Edge]) -> set[tuple[int, str, str]]:
    return {(e.at, e.source, e.target) for e in edges}


def _is_leaf(name: str, customer: str, edges: Iterable[Edge]) -> bool:
    own = [e for e in edges if name in (e.source, e.target)]
    return name != customer and len(own) == 1


def ids_that_stay(merges: Iterable[Edge]) -> dict[bytes, bytes]:
    """Return the id that stays, for each id that was merged."""
    of: dict[str, list[Edge]] = {}  # each id's person: the edges between its ids
    for edge in merges:
        mine, other = of.get(edge.source, []), of.get(edge.target, [])
        person = mine if mine is other else [*mine, *other]
        person.append(edge)
        of |= dict.fromkeys(members_of(person), person)
    return {name.encode(): root_of(person, name).encode() for name, person in of.items()}
