"""The state of a customer in the campaign step: moves handled, what is known beside the orders, and what was decided.

Three parts, each of which only grows: the moves handled (by their sequence), the facts (each field by its date), and
the decided part, which is replaced as a whole by one of a greater counter. The decided part changes together with a
published decision, whose note carries it; so the log of decisions, the moves and the side inputs lead to the same state
in any order and number.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Literal, NamedTuple, Self

import msgspec

from segmentation.entries import DAY_MS
from segmentation.profiles import Profile
from segmentation.step import StateUnreadable

KEPT_MS: Final = 32 * DAY_MS  # how long all acts are kept: longer than any cap looks back
MOST_ACTS: Final = 100  # of a campaign in that time: as many as any cap counts up to
NOWHERE: Final = bytes(8)  # the key of no segment
NEVER: Final = -1  # before any date
_PLAIN, _WITH_CAMPAIGNS, _PRESENT = 1, 2, 3  # versions
_ACTED, _ERASED = 1, 2  # flags
_FORMER: Final = struct.Struct("<BBHIq")  # of versions 1 and 2
_FORMER_SINCE: Final = struct.Struct("<I")
_FORMER_CAMPAIGN: Final = struct.Struct("<8sq")
# Version, flags, nothing, sequence, since, segment. The sequence is where the scoring step's states have theirs, too:
# of two remains of one customer the later one is found by it (stream/storage/remains.py).
_STATE: Final = struct.Struct("<BBHII8s")
_SEQUENCE: Final = slice(4, 8)


class CampaignFormatError(StateUnreadable):
    """Bytes that aren't a campaign state of a version known here."""


@lru_cache(maxsize=4_096)
def name_key(name: str) -> bytes:
    """Return the 8 bytes by which states know a campaign, or a segment."""
    return blake2b(name.encode(), digest_size=8).digest()


class Act(NamedTuple):
    """A campaign's action on the customer, at an instant (ms). Not `sent`: the customer was held out."""

    campaign: bytes
    at: int
    sent: bool = True


class Candidate(NamedTuple):
    """The action that a rule has for a move. `moved_at`: ms; `variables`: a JSON object, or nothing."""

    change_id: str
    campaign: str
    segment: str
    action: str
    channel: str
    reason: str
    moved_at: int
    variables: bytes = b""


class Pending(NamedTuple):
    """A candidate that is held back until after an instant (ms)."""

    candidate: Candidate
    until: int
    why: Literal["delay", "quiet_hours"]


class GoalWatch(NamedTuple):
    """An act whose campaign has a goal: an order after it, up to `until` (ms), is a conversion."""

    candidate: Candidate
    action_id: str
    acted_at: int
    until: int
    held_out: bool


class Decided(NamedTuple):
    """All that was decided so far. `counter`: of the published decisions; `since`: the last erasure it knows of."""

    counter: int = 0
    since: int = 0
    acts: tuple[Act, ...] = ()
    pendings: tuple[Pending, ...] = ()
    watches: tuple[GoalWatch, ...] = ()

    def pending_of(self, campaign: str) -> Pending | None:
        """Return the campaign's candidate that is held back: there is one at most."""
        return next((pending for pending in self.pendings if pending.candidate.campaign == campaign), None)


class Merged(NamedTuple):
    """The merge (ms) of the id into another one."""

    at: int
    into: str


class Facts(NamedTuple):
    """All that is known beside moves and decisions. `handed_on`: the acts on ids that were merged into this one."""

    profile: Profile = Profile()
    erased_at: int = NEVER  # ms
    merged: Merged | None = None
    handed_on: tuple[Act, ...] = ()

    def join(self, other: Facts) -> Facts:
        """Take the later of both, field by field; what is dated up to the last erasure is forgotten.

        Associative, commutative, idempotent.
        """
        if other in (NO_FACTS, self):
            return self
        erased_at = max(self.erased_at, other.erased_at)
        # Of two deliveries of the same acts none is one more; of one campaign two may act in the same millisecond.
        every = (Counter(self.handed_on) | Counter(other.handed_on)).elements()
        acts = (act for act in every if act.at > erased_at)
        merges = [merged for merged in (self.merged, other.merged) if merged is not None]
        return Facts(
            self.profile.join(other.profile).since(erased_at), erased_at, max(merges, default=None), kept(acts)
        )


NO_FACTS: Final = Facts()
_NOTHING_DECIDED: Final = Decided()


class _Body(NamedTuple):
    facts: Facts
    decided: Decided


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Body)


class CampaignState(NamedTuple):
    """A customer's state. `sequence`: of the last move handled; `segment`: the key of the segment that it led to.

    `since` is the number of the last move that led nowhere, 0 without one: an erasure, or the merge into another id.
    """

    sequence: int = 0
    segment: bytes = NOWHERE
    since: int = 0
    facts: Facts = NO_FACTS
    decided: Decided = _NOTHING_DECIDED

    @property
    def erased(self) -> bool:
        """Whether the last move handled led nowhere."""
        return 0 < self.since == self.sequence

    @property
    def gone(self) -> bool:
        """Whether the customer is gone: erased, or merged into another id. Nothing but that is known of it."""
        unseen = not self.sequence and self.facts.erased_at > NEVER and not any(self.facts.profile)
        return self.erased or unseen

    @property
    def acts(self) -> tuple[Act, ...]:
        """The acts that count for the customer: its own, and those on ids that were merged into it."""
        return (*self.decided.acts, *self.facts.handed_on) if self.facts.handed_on else self.decided.acts

    @property
    def lasting_acts(self) -> tuple[Act, ...]:
        """The acts that go over to another id with a merge: those dated after the last erasure."""
        return tuple(act for act in self.acts if act.at > self.facts.erased_at)

    @property
    def due(self) -> int | None:
        """When the first candidate is to be looked at again (ms); None: none is held back."""
        pendings = self.decided.pendings
        return min(pending.until for pending in pendings) if pendings else None

    def pack(self) -> bytes:
        """Write it: 20 bytes, and what is known and was decided where there is any.

        >>> CampaignState(3, name_key("Lost")).pack().hex()
        '030000000300000000000000876509e09e54f2d5'
        """
        head = _STATE.pack(_PRESENT, _ERASED if self.erased else 0, 0, self.sequence, self.since, self.segment)
        if not self.decided.counter and self.facts == NO_FACTS:
            return head
        return head + _encoder.encode(_Body(self.facts, self.decided))

    def note(self) -> bytes:
        """Return the note of a decision that was just made: all but the facts, which come from the side inputs."""
        return self._replace(facts=NO_FACTS).pack()

    @classmethod
    def unpack(cls, value: bytes | None) -> Self:
        """Read it; None is a customer without a state. Raises CampaignFormatError."""
        if value is None:
            return cls()
        try:
            if value[0] == _PRESENT:
                _, _, _, sequence, since, segment = _STATE.unpack_from(value)
                if len(value) == _STATE.size:
                    decided = Decided(since=since) if since else _NOTHING_DECIDED
                    return cls(sequence, segment, since, NO_FACTS, decided)
                return cls(sequence, segment, since, *_decoder.decode(value[_STATE.size :]))
            return cls._unpack_former(value)
        except (IndexError, ValueError, struct.error, msgspec.DecodeError) as error:
            raise CampaignFormatError(
                f"{value[:16].hex()} ({len(value)} bytes) isn't a campaign state of version 1 to {_PRESENT}: start the "
                "version of segstream that wrote it, or rebuild"
            ) from error

    @classmethod
    def _unpack_former(cls, value: bytes) -> Self:
        """Read a state of version 1 or 2. Its decisions are counted by the moves: each move had one at most."""
        version, flags, count, sequence, at = _FORMER.unpack_from(value)
        rest = value[_FORMER.size :]
        if flags > _ACTED | _ERASED or (at and not flags & _ACTED):
            raise ValueError("flags")
        if version == _PLAIN and not rest:
            since = sequence if flags & _ERASED else 0
            return cls(sequence, NOWHERE, since, decided=Decided(sequence, since))
        if version != _WITH_CAMPAIGNS or len(rest) != _FORMER_SINCE.size + count * _FORMER_CAMPAIGN.size:
            raise ValueError("length")
        [since] = _FORMER_SINCE.unpack_from(rest)
        acts = tuple(Act(*row) for row in _FORMER_CAMPAIGN.iter_unpack(rest[_FORMER_SINCE.size :]))
        return cls(sequence, NOWHERE, since, decided=Decided(sequence, since, acts))

    def handled(self, sequence: int, segment: str | None) -> CampaignState:
        """Return the state after a later move to a segment; None: to nowhere, and what was decided before is void."""
        if segment is None:
            return CampaignState(sequence, NOWHERE, sequence, self.facts, Decided(self.decided.counter, sequence))
        return CampaignState(sequence, name_key(segment), self.since, self.facts, self.decided)

    def join(self, other: CampaignState) -> CampaignState:
        """Take of both what came later, part by part: associative, commutative, idempotent.

        What was decided before an erasure that the other one knows of is forgotten.

        >>> CampaignState(3).join(CampaignState(5, name_key("Lost"))).sequence
        5
        """
        sequence, segment = max(self[:2], other[:2])
        since = max(self.since, other.since)
        decided = max(self.decided, other.decided)
        if decided.since < since:
            decided = Decided(decided.counter, since)
        return CampaignState(sequence, segment, since, self.facts.join(other.facts), decided)


def is_gone(value: bytes) -> bool:
    """Return whether the customer of a state is gone. Of most states the first bytes tell."""
    if value[0] == _PRESENT and not value[1] and value[_SEQUENCE] != b"\0\0\0\0":
        return False  # it was moved, and not to nowhere
    return CampaignState.unpack(value).gone


def kept(acts: Iterable[Act], upto: int | None = None) -> tuple[Act, ...]:
    """Return the acts to remember, sorted: all of the time that caps look back on, and the last one of each campaign.

    Equal ones stay: a turn decides on several moves in the same millisecond. Of a campaign without a cooldown the last
    hundred stay, else a customer who moves all the time would get a state too large for Kafka.

    >>> [act.at for act in kept([Act(b"a", 1), Act(b"a", 2), Act(b"b", 3 + KEPT_MS)])]
    [2, 2764800003]
    """
    found = sorted(acts, key=_by_instant)
    if len(found) < 2:
        return tuple(found)
    last = {act.campaign: index for index, act in enumerate(found)}
    begin = (found[-1].at if upto is None else min(upto, found[-1].at)) - KEPT_MS
    wanted = [act for index, act in enumerate(found) if act.at >= begin or last[act.campaign] == index]
    return tuple(wanted if len(wanted) <= MOST_ACTS else _last_of_each(wanted))


def _last_of_each(acts: Sequence[Act]) -> Iterable[Act]:
    """Return the last acts of each campaign, and its last hold-outs, in their order."""
    counts, found = Counter[tuple[bytes, bool]](), list[Act]()
    for act in reversed(acts):
        counts[act.campaign, act.sent] += 1
        if counts[act.campaign, act.sent] <= MOST_ACTS:
            found.append(act)
    return reversed(found)


def _by_instant(act: Act) -> tuple[int, bytes, bool]:
    return act.at, act.campaign, act.sent
