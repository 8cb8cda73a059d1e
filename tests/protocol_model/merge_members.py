"""The customers of the model of merges: what each does with a record, live or in a replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

Counts = tuple[int, ...]
PackageId = tuple[int, int]  # (sender, offset of the record that made it hand on): the sender has one shard
Learned = tuple[int | None, ...]  # by edge: the time of the record that taught it; None: unknown

ORDER: Final = "order"
MERGE: Final = "merge"
JOINED: Final = "joined"


class ModelRecord(NamedTuple):
    """One record of a shard's input. Forwarded events are orders again, of the customer that they go to."""

    kind: str
    customer: int  # whose record it is
    what: int = 0  # the order, or the edge
    package: PackageId = (0, 0)
    counts: Counts = ()
    edges: int = 0


class Member(NamedTuple):
    """A customer's state."""

    orders: int
    folded: Counts
    learned: Learned
    received: tuple[PackageId, ...] = ()
    announced: int = 0
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class MergeRules:
    """The ingredients. Each mutant lacks one."""

    in_transaction: bool = True  # packages are sent in the turn's transaction, not after it
    cover_packages: bool = True  # step 4b sends on what the torn turn may not have
    drop_repeats: bool = True  # a package with a known id is dropped
    alias_remembers: bool = True  # an alias keeps the ids of packages that it has passed on
    name_by_offset: bool = True  # a package's id has the offset of its cause, not only the time
    learn_by_offset: bool = True  # so has the place where an edge was taught
    in_force: bool = True  # in a replay only edges count that the records read so far have taught
    empty_aliases: bool = True  # an alias that holds anything hands it on, even if the edge was known
    leave_remnants: bool = True  # the edges of a living customer go to the compacted topic
    carry_former: bool = True  # a record there carries the one that it replaces
    publish_due: bool = True  # an alias whose last move is lacking publishes it when it is due


@dataclass(frozen=True, slots=True)
class MergeHazards:
    """One world: its customers, what their producers send, and what may go wrong."""

    homes: tuple[int, ...]  # customer -> shard
    edges: tuple[tuple[int, int], ...]  # (from, into), in the order of their instants
    sent: tuple[tuple[ModelRecord, ...], tuple[ModelRecord, ...]]  # by shard
    orders: int
    torn: int = 0
    restores: bool = False  # Redis of a shard is saved at some time, and restored at some later one
    loses: bool = False  # Redis of a shard is lost, and made anew from Kafka
    tick: int = 1  # records of one time
    batch: int = 2  # records of a turn, at most

    def nobody(self) -> Member:
        """Return a customer without anything."""
        return Member(0, (0,) * self.orders, (None,) * len(self.edges))


@cache
def root_of(edges: tuple[tuple[int, int], ...], known: int, customer: int) -> int:
    """Return the id that stands for a customer, given the known edges in the order of their instants."""
    roots = {c: c for edge in edges for c in edge} | {customer: customer}
    for at, (giver, into) in enumerate(edges):
        if not known >> at & 1:
            continue
        old, new = roots[giver], roots[into]
        if old == new:
            new = into if giver == old else old
        roots = {c: new if r in {old, roots[into]} else r for c, r in roots.items()}
    return roots[customer]


class Merging:
    """A shard's customers, as records are taken: one by one."""

    def __init__(
        self, rules: MergeRules, hazards: MergeHazards, members: Sequence[Member | None], *, replay: bool
    ) -> None:
        """`replay`: the records were delivered before."""
        self.rules, self.hazards, self.replay = rules, hazards, replay
        self.members = list(members)
        self.packages: list[tuple[int, ModelRecord]] = []  # (shard, record)

    def take(self, record: ModelRecord, offset: int) -> None:
        """Take one record."""
        time = offset // self.hazards.tick
        self.now = offset if self.rules.learn_by_offset else time
        self.package = record.customer, offset if self.rules.name_by_offset else time
        c, member = record.customer, self.members[record.customer] or self.hazards.nobody()
        if record.kind == ORDER:
            member = self._order(c, member, record)
        elif record.kind == MERGE:
            known = self._known(member) >> record.what & 1
            member = self._learn(member, 1 << record.what)
            # In a replay the edge may have been restored, and be in force a moment too early.
            holds = any(counted(member)) and self.rules.empty_aliases
            if self._root(c, member) != c and (holds or not known):
                member = self._hand_on(c, member)
        else:
            member = self._joined(c, member, record)
        self.members[c] = member

    def _order(self, c: int, member: Member, record: ModelRecord) -> Member:
        if (root := self._root(c, member)) != c:
            self._send(record._replace(customer=root))
        elif not member.folded[record.what]:
            return member._replace(orders=member.orders | 1 << record.what)
        return member

    def _joined(self, c: int, member: Member, record: ModelRecord) -> Member:
        if self.rules.drop_repeats:
            if record.package in member.received:
                return member
            received = tuple(sorted((*member.received, record.package)))
            member = member._replace(received=received)
        member = self._learn(member, record.edges)
        folded = tuple(a + b for a, b in zip(member.folded, record.counts, strict=True))
        member = member._replace(folded=folded)
        return member if self._root(c, member) == c else self._hand_on(c, member)

    def _hand_on(self, c: int, member: Member) -> Member:
        counts = counted(member)
        edges = known_edges(member.learned)
        self._send(ModelRecord(JOINED, self._root(c, member), 0, self.package, counts, edges))
        if not self.rules.alias_remembers:
            member = member._replace(received=())
        return member._replace(orders=0, folded=(0,) * len(counts))

    def _send(self, record: ModelRecord) -> None:
        self.packages.append((self.hazards.homes[record.customer], record))

    def _learn(self, member: Member, edges: int) -> Member:
        learned = [
            min(self.now if then is None else then, self.now) if edges >> at & 1 else then
            for at, then in enumerate(member.learned)
        ]
        return member._replace(learned=tuple(learned))

    def _known(self, member: Member) -> int:
        in_force = self.now if self.replay and self.rules.in_force else None
        return known_edges(member.learned, in_force)

    def _root(self, c: int, member: Member) -> int:
        return root_of(self.hazards.edges, self._known(member), c)


def known_edges(learned: Learned, until: int | None = None) -> int:
    """Return the edges known, as bits. `until`: only those that were taught up to this time."""
    return sum(1 << at for at, then in enumerate(learned) if then is not None and (until is None or then <= until))


def counted(member: Member) -> Counts:
    """Return how often each order counts."""
    return tuple(count + (member.orders >> at & 1) for at, count in enumerate(member.folded))


def wanted(hazards: MergeHazards, c: int, member: Member) -> int:
    """Return the segment that the customer should be in: 1 with an order, 0 as an alias."""
    if root_of(hazards.edges, known_edges(member.learned), c) != c:
        return 0
    return 1 if any(counted(member)) else member.announced


def remains_of(hazards: MergeHazards, c: int, member: Member | None, rules: MergeRules) -> Member | None:
    """Return what the compacted topic should have of a customer."""
    if member is None or not known_edges(member.learned):
        return None
    gone = root_of(hazards.edges, known_edges(member.learned), c) != c and not member.announced
    if gone:
        return member
    return hazards.nobody()._replace(learned=member.learned) if rules.leave_remnants else None
