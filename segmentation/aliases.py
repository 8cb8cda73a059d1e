"""Records of customers who know of merges: an alias hands on all that comes, its root takes it.

A customer is an alias where the merges that it knows make another id the root of its person. An alias keeps nothing but
merges, the packages that it has seen, and its moves (docs/explanation/state-format.md, section 11).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from segmentation.customers import Customer, erase_customer
from segmentation.decisions import BY_RECORD, BY_TIME, ScoreRequest
from segmentation.decoder import NO_ENTRY, DecodedEvent, LinkRecord
from segmentation.entries import ERASED, NONE, Rules
from segmentation.events import CustomerJoined, EntryEvent, EventForwarded, Reason, decode, encode
from segmentation.links import (
    Edge,
    Learned,
    Links,
    addressees,
    joined,
    package_id,
    package_number,
    root_of,
    stamp_of,
    view,
)
from segmentation.output_events import Cause
from segmentation.rfm import EMPTY, advance, is_silent, settle
from segmentation.state_bytes import ROW, CustomerState, announcement, is_bare, is_gone, is_linked, pack, unpack
from segmentation.step import NEVER_DUE, DeadLetter, Package, Remnant, Turn
from segmentation.union import erased_at, united

if TYPE_CHECKING:
    from segmentation.merging import Fold
    from segmentation.moves import Move

# A package's record must be below Kafka's limit of 1 MiB, and base64 takes a third more.
MOST_ROWS: Final = 600_000 // ROW.size


class Ordinary(Enum):
    """The answer of `take` about a record that is to be merged as that of any customer."""

    ORDINARY = 1


@dataclass(frozen=True, slots=True)
class _Taken:
    """A record at a customer who knows of merges."""

    name: str  # the customer's id
    position: int
    stamp: int
    state: CustomerState  # before the record
    link: LinkRecord | None  # the merges that it teaches; None: it teaches none
    learned: Learned

    @property
    def root(self) -> str:
        """The id that the customer's person goes by, once the record is taken."""
        return root_of(self.learned.now, self.name)

    @property
    def given(self) -> CustomerState | None:
        """The state that the record brings."""
        return None if self.link is None else self.link.state

    @property
    def links(self) -> Links:
        """The merges in the customer's state after the record."""
        edges, received = self.state.links
        if self.link is not None:
            edges = joined(edges, self._stamped(self.link))
            if self.link.state is not None:
                received = self.state.links.with_received(package_number(self.link.package), self.stamp)
        return Links(edges, received)

    def _stamped(self, link: LinkRecord) -> list[Edge]:
        return [e._replace(learned=self.stamp) for e in link.edges]

    def addressees(self) -> list[str]:
        """Return whom the customer tells its edges."""
        return [] if self.link is None else addressees(self.name, self.learned, self.link.giver, self.link.edges)


def take(c: Customer, fold: Fold) -> ScoreRequest | Ordinary | None:
    """Take the next record of a customer who knows of merges, or is about to learn of one.

    None: nothing is to be scored. An ordinary record is left to the caller.
    """
    position = c.own[c.done]
    link = fold.batch.links.get(position)
    if link is None and c.is_root:
        return Ordinary.ORDINARY
    taken = _taken(c, position, link, fold)
    if link is None and taken.root == taken.name:
        c.is_root = taken.learned.now == view(taken.state.links.edges)
        return Ordinary.ORDINARY
    c.done += 1
    c.is_root = False
    if link is not None and not _is_usable(link, taken, fold):
        return None
    if taken.root == taken.name:
        return _take_as_root(c, taken, fold)
    return _hand_on(c, taken, fold)


def _taken(c: Customer, position: int, link: LinkRecord | None, fold: Fold) -> _Taken:
    batch, name, state = fold.batch, c.key.decode(), unpack(c.value or EMPTY)
    record = batch.records[position]
    stamp, known = stamp_of(record.timestamp, record.offset), state.links.edges
    # Read again, a record meets only the merges and packages that were known when it came.
    highest = batch.highest_stamp(position) if fold.replayed else None
    before = now = view(known, highest)
    if link is not None and link.state is not None:
        read_again = stamp if fold.replayed else None
        if state.links.has_received(package_number(link.package), read_again):
            link = LinkRecord(())
    if link is not None:
        now = view(joined(before, [e._replace(learned=stamp) for e in link.edges]))
    return _Taken(name, position, stamp, state, link, Learned(before, now))


def _is_usable(link: LinkRecord, taken: _Taken, fold: Fold) -> bool:
    """Return whether the customers of a merge have partitions to be found on. If not, it goes to the dead letters."""
    if link.giver is not None or fold.routing.partition_of(b"") is not None:
        return True
    message = (
        f"customer {taken.name!r} can't be merged into another: SEGSTREAM_PARTITIONER is none, "
        "so it isn't known where that one's records are."
    )
    fold.turn.dead.append(DeadLetter(taken.position, Reason.WRONG_PARTITION.value, "into", message))
    return False


def _take_as_root(c: Customer, taken: _Taken, fold: Fold) -> ScoreRequest | None:
    """Unite the customer's state with the one that the record brings, if it brings one."""
    position, prior, state = taken.position, c.value, taken.state
    clock, event = fold.batch.clocks[position], fold.batch.events[position]
    assert event is not None
    for number, target in enumerate(taken.addressees()):
        _send(target, None, taken, number, event, fold)
    before = replace(advance(state, clock, fold.rules), links=taken.links)
    after, given = before, taken.given
    erased = False
    if given is not None:
        after = united(before, given, clock, fold.rules)
        erased = (erased_at(given) or NONE) > (erased_at(state) or NONE)
        fold.turn.counts["joined"] += 1
    # An erasure is published at once, backfill or not.
    muted = after.muted if after.muted in fold.open_slots and not erased else 0
    value = pack(replace(after, muted=muted))
    c.changed |= value != c.value
    c.value = value
    if after == before:
        return None
    if is_silent(value) and not erased:
        c.wait(NEVER_DUE, 0, NEVER_DUE)
        return None
    cause = None if erased else Cause.MERGE
    known = prior if state.holds_anything else None
    taken_as = DecodedEvent(after.entries[0] if erased else NO_ENTRY, event.event_id)
    return ScoreRequest(c.key, value, known, clock, (position, BY_RECORD, clock, c.key), taken_as, cause)


def _hand_on(c: Customer, taken: _Taken, fold: Fold) -> ScoreRequest | None:
    """Hand on all that an alias holds, what the record brings, and its merges where others need them."""
    event = fold.batch.events[taken.position]
    assert event is not None
    states = [state for state in (taken.state, taken.given) if state is not None and state.holds_anything]
    others = [name for name in taken.addressees() if name != taken.root or not states]
    sent = 0
    for target in others:
        sent += _send(target, None, taken, sent, event, fold)
    for state in states:
        sent += _send(taken.root, state, taken, sent, event, fold)
    if taken.link is None:
        _forward(taken, fold)
    return _become_alias(c, taken, event, fold)


def _become_alias(c: Customer, taken: _Taken, event: DecodedEvent, fold: Fold) -> ScoreRequest | None:
    """Leave the customer nothing but merges and moves. If it is in a segment, the last move is asked for."""
    state, clock = taken.state, fold.batch.clocks[taken.position]
    rest = CustomerState(links=taken.links, segment=state.segment, sequence=state.sequence, moved_at=state.moved_at)
    prior, value = c.value, pack(rest)
    c.changed |= value != prior
    c.value = value
    c.erased = True
    c.wait(NEVER_DUE, 0, NEVER_DUE)
    if not state.segment:
        return None
    c.merged_into = taken.root
    return ScoreRequest(c.key, value, prior, clock, (taken.position, BY_RECORD, clock, c.key), event, Cause.MERGED)


def note_links(c: Customer, learning: Collection[bytes]) -> None:
    """Note whether the customer knows of merges. `learning`: those who learn of one."""
    if c.held is not None and c.key not in learning:
        return  # it knew of none when it was opened
    if c.key in learning or (c.value is not None and is_linked(c.value)):
        c.linked, c.stored = True, c.value


def rank_of(value: bytes) -> int | None:
    """Return the latest stamp of a merge that a state knows of; None: it knows of none."""
    return max([e.learned for e in unpack(value).links.edges], default=None) if is_linked(value) else None


def last_moves(customers: Iterable[Customer], clock: int) -> list[Move]:
    """Make the last moves of due customers who are aliases and haven't made it.

    Their merges were read again in a takeover, and those moves aren't in the log.
    """
    due = [c for c in customers if c.linked and c.fired_at is not None]
    return [move for c in due if (request := _last_move(c, clock)) for move in erase_customer(c, request)]


def _last_move(c: Customer, clock: int) -> ScoreRequest | None:
    if c.value is None or not announcement(c.value)[0]:
        return None
    state, name = unpack(c.value), c.key.decode()
    root = root_of(view(state.links.edges), name)
    if root == name or state.holds_anything:
        return None
    c.merged_into = root
    return ScoreRequest(c.key, c.value, None, clock, (0, BY_TIME, clock, c.key), None, Cause.MERGED)


def _send(target: str, state: CustomerState | None, taken: _Taken, part: int, event: DecodedEvent, fold: Fold) -> int:
    """Send the customer's merges to another of its person, with a state if one is to go there. Return the parts."""
    partition = fold.routing.partition_of(target.encode())
    if partition is None:
        return 0
    links = Links(tuple([e._replace(learned=0) for e in taken.learned.now]))
    parts = list(_parts(state or CustomerState()))
    for number, content in enumerate(parts, start=part):
        value = pack(replace(content, links=links, muted=0, segment=0, sequence=0, moved_at=NONE))
        name = package_id(taken.name, taken.stamp, number)
        body = CustomerJoined(id=name, customer_id=target, giver=taken.name, merge=event.event_id, state=value)
        fold.turn.packages.append(Package(taken.position, partition, encode(body)))
    return len(parts)


def _parts(state: CustomerState) -> Iterator[CustomerState]:
    """Yield a state in parts that records have room for, from the newest entries back. The first has what is folded."""
    end = len(state.entries)
    rest = state
    while True:
        start = max(end - MOST_ROWS, 0)
        yield replace(rest, entries=state.entries[start:end])
        if start == 0:
            return
        end, rest = start, CustomerState(cut=state.cut, capped=state.capped)


def _forward(taken: _Taken, fold: Fold) -> None:
    record, root = fold.batch.records[taken.position], taken.root
    partition, came, arrived = fold.routing.partition_of(root.encode()), decode(record.value), record.timestamp
    event, arrived = (came.event, came.arrived) if isinstance(came, EventForwarded) else (came, arrived)
    assert isinstance(event, EntryEvent)
    if partition is not None:
        body = encode(EventForwarded(id=event.id, customer_id=root, event=event, arrived=arrived))
        fold.turn.packages.append(Package(taken.position, partition, body))


def remnant(value: bytes | None, rules: Rules) -> bytes | None:
    """Return what must outlive the log of a state: merges and erasure. None: it knows of no merge."""
    state = unpack(value or EMPTY)
    if not state.links.edges:
        return None
    stones = [e for e in state.entries if e.kind == ERASED]
    return pack(settle(CustomerState(links=Links(state.links.edges)), stones, NONE, rules))


def add_remnants(turn: Turn, customers: Iterable[Customer], rules: Rules) -> None:
    """Write into the turn what must outlive the log of those who know of merges, where that changes."""
    for c in customers:
        if not c.linked or not c.changed or c.value is None:
            continue
        now = remnant(c.value, rules)
        if now is None:
            continue
        was_gone = c.stored is not None and is_gone(c.stored)
        before = c.stored if was_gone else remnant(c.stored, rules)
        # Of one who goes, the state takes the remnant's place. Of one who comes back the remnant takes the state's; in
        # a takeover only the segment may be back already.
        if is_gone(c.value):
            wanted = before is not None and not was_gone
        else:
            wanted = now != before or is_bare(c.stored or EMPTY)
        if wanted:
            turn.remnants[c.key] = Remnant(now, before)
