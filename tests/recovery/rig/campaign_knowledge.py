"""The knowledge of customers from the topics of profiles and orders, and what of it a shard must have had when.

A shard reads these topics beside its moves, so at most instants it may or may not know of a record. It must know of
profiles that were there before its last takeover. Other records come in transactions, or may be read later: it must
know of those that were there before the run was last at rest, or clearly before (MARGIN_MS).
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from tests.recovery.rig.campaign_table import millis
from tests.recovery.rig.checker import ReadRow, some

MARGIN_MS: Final = 60_000  # longer than any trouble of a run lasts
TOLERANCE_MS: Final = 300_000  # an event that is dated later than its record by more isn't used
CONTROL_KEY: Final = b"\0control"
NEVER: Final = -1


class Statement(NamedTuple):
    """A field's content as of a date, and when (ms, by the broker) its record came."""

    at: int
    rank: str  # decides between equal dates
    text: str
    came: int
    alone: bool  # in no transaction


class Dated(NamedTuple):
    """An erasure, or a merge into another id."""

    at: int
    into: str
    came: int


class KnownAct(NamedTuple):
    """An action, or that the customer was held out of it."""

    at: int
    campaign: bytes
    sent: bool
    came: int = 0  # of one that an id which was merged has handed on
    number: int = 0  # of the customer's own move; of a handed on one, which of several equal ones it is


class PlacedOrder(NamedTuple):
    """An order of a customer."""

    at: int
    order_id: str
    amount: dict[str, str]
    came: int


class Knowledge:
    """The content of both topics, by customer."""

    def __init__(
        self,
        profiles: Sequence[ReadRow],
        orders: Sequence[ReadRow],
        heads: Sequence[ReadRow],
        rests: Iterable[int],
        fences: Iterable[tuple[int, int]] = (),
        *,
        margin_ms: int = MARGIN_MS,
    ) -> None:
        """`rests`: the instants (ms, by the broker) at which everything that was sent before had been read.

        `fences`: (partition, instant) of the fencings with which takeovers began, as far as they are known.
        """
        self.statements: defaultdict[str, defaultdict[str, list[Statement]]] = defaultdict(lambda: defaultdict(list))
        self.erasures: defaultdict[str, list[Dated]] = defaultdict(list)
        self.merges: defaultdict[str, list[Dated]] = defaultdict(list)
        self.given: defaultdict[str, list[KnownAct]] = defaultdict(list)
        self.orders: defaultdict[str, list[PlacedOrder]] = defaultdict(list)
        self.homes: dict[str, int] = {}  # partitions
        self.unusable: set[tuple[int, int]] = set()  # profiles
        for row in profiles:
            if not self._read_profile(row):
                self.unusable.add((row.partition, row.offset))
        for row in orders:
            self._read_order(row)
        self._margin_ms = margin_ms
        self._rests = sorted(rests)
        self._fences: defaultdict[int, list[int]] = defaultdict(list)
        for partition, at in sorted(fences):
            self._fences[partition].append(at)
        self._begun: dict[int, int] = {}  # the shards' first heads; orders of before may have been passed over
        for row in heads:
            if row.key == b"head":
                self._begun.setdefault(row.partition, row.timestamp)

    def _read_profile(self, row: ReadRow) -> bool:
        """Take a record of the topic of profiles. Return whether it is one."""
        try:
            event = json.loads(row.value or b"null")
            name, came = event["customer_id"], row.timestamp
            if event["type"] == "profile.forwarded" and row.key == CONTROL_KEY:
                zone, language, consent = event["profile"]
                self._state(name, "time_zone", zone, came, alone=False)
                self._state(name, "language", language, came, alone=False)
                for channel, said in consent:
                    self._state(name, f"consent:{channel}", said, came, alone=False)
                equal = Counter[tuple[int, str, bool]]()
                for campaign, at, sent in event.get("acts", ()):
                    number = equal[at, campaign, sent] = equal[at, campaign, sent] + 1
                    self.given[name].append(KnownAct(at, bytes.fromhex(campaign), sent, came, number))
            else:
                at = millis(event["occurred_at"])
                if event["type"] != "customer.profile" or at > came + TOLERANCE_MS or row.key != name.encode():
                    return False
                consents = event.get("consent") or {}
                if not set(consents.values()) <= {"granted", "denied"}:
                    return False
                self._state(name, "time_zone", (at, event.get("time_zone")), came)
                self._state(name, "language", (at, event.get("language")), came)
                for channel, said in consents.items():
                    self._state(name, f"consent:{channel}", (at, said), came)
        except (ValueError, TypeError, KeyError):
            return False
        self.homes[name] = row.partition
        return True

    def _state(self, customer: str, field: str, said: Sequence[Any] | None, came: int, *, alone: bool = True) -> None:
        if said is not None and said[1] is not None:
            at, text = said
            rank = text if not field.startswith("consent:") else str(int(text == "denied"))
            self.statements[customer][field].append(Statement(at, rank, text, came, alone))

    def _read_order(self, row: ReadRow) -> None:
        try:
            event = json.loads(row.value or b"null")
            name = event["from"] if event["type"] == "customer.merged" else event["customer_id"]
            if event["type"] == "event.forwarded":
                event = event["event"]
            elif row.key != name.encode():
                return
            at, came = millis(event["occurred_at"]), row.timestamp
        except (ValueError, TypeError, KeyError):
            return  # the scoring step judges it
        if at > came + TOLERANCE_MS:
            return
        if event["type"] == "order.placed":
            self.orders[name].append(PlacedOrder(at, event["order_id"], event["amount"], came))
        elif event["type"] == "customer.erased":
            self.erasures[name].append(Dated(at, "", came))
        elif event["type"] == "customer.merged" and event["into"] != name:
            self.merges[name].append(Dated(at, event["into"], came))
        else:
            return
        self.homes.setdefault(name, row.partition)

    def certain_before(self, partition: int, at: int, *, alone: bool = False) -> int:
        """Return the instant before which all records that came were known to whoever decided at an instant.

        `alone`: the records are profiles in no transaction, which every takeover waits for.
        """
        barriers = (self._rests, self._fences[partition] if alone else [])
        return max(at - self._margin_ms, *(_last_before(at, instants) for instants in barriers))

    def texts(self, customer: str, field: str, partition: int, at: int) -> set[str | None]:
        """Return what a shard may have taken for a field's content at an instant (ms, by the broker)."""
        certain = {alone: self.certain_before(partition, at, alone=alone) for alone in (False, True)}
        said = [one for one in self.statements[customer][field] if one.came <= at]
        found: set[str | None] = set()
        for erased in self.erased(customer, partition, at):
            left = [one for one in said if one.at > erased]
            sure = max((one for one in left if one.came < certain[one.alone]), default=None)
            found.add(sure.text if sure else None)
            found |= {one.text for one in left if sure is None or one[:2] > sure[:2]}
        return found

    def erased(self, customer: str, partition: int, at: int) -> set[int]:
        """Return the dates of which a shard may have taken one for the last erasure's."""
        certain = self.certain_before(partition, at)
        begun = self._begun.get(partition, at)
        dates = [one for one in self.erasures[customer] if one.came <= at]
        sure = max((one.at for one in dates if begun < one.came < certain), default=NEVER)
        return {sure} | {one.at for one in dates if one.at > sure}

    def is_sure(self, partition: int, dated: Dated | PlacedOrder) -> bool:
        """Return whether a shard has read a record of the topic of orders by the end of the run."""
        return dated.came > self._begun.get(partition, dated.came)

    def acts(self, customer: str, partition: int, at: int, *, most: bool) -> Iterator[KnownAct]:
        """Return the acts by other ids that a shard knew at an instant: `most` that it may have known, else fewest."""
        before = at + 1 if most else self.certain_before(partition, at)
        after = (min if most else max)(self.erased(customer, partition, at))
        return iter(distinct(act for act in self.given[customer] if act.came < before and act.at > after))


def _last_before(at: int, instants: list[int]) -> int:
    index = bisect_left(instants, at)
    return instants[index - 1] if index else NEVER


def distinct(acts: Iterable[KnownAct]) -> list[KnownAct]:
    """Return handed on acts, each once, however often it came."""
    return list({act._replace(came=0): act for act in acts}.values())


def unread(known: Knowledge, dead: Sequence[ReadRow], *, once: bool = True) -> list[str]:
    """Check that the unusable records of the topic of profiles are dead letters, each `once`, and no others are."""
    found = sorted(
        (int(row.headers["__connect.errors.partition"]), int(row.headers["__connect.errors.offset"])) for row in dead
    )
    return [
        *some("dead letters of profiles twice", [at for at in set(found) if found.count(at) > 1 and once]),
        *some("unusable profiles that aren't in the dead letters", sorted(known.unusable - set(found))),
        *some("dead letters of usable profiles", sorted(set(found) - known.unusable)),
    ]


def not_handed_on(known: Knowledge) -> list[str]:
    """Check that what is known of each id that was merged is known of the one that it was merged into."""
    wrong = []
    for giver, merges in known.merges.items():
        last = max(merges)
        if not known.is_sure(known.homes[giver], last):
            continue
        gone = max((one.at for name in (giver, last.into) for one in known.erasures[name]), default=NEVER)
        for field, said in known.statements[giver].items():
            latest = max(said)
            theirs = max(known.statements[last.into][field], default=None)
            if latest.at > gone and (theirs is None or theirs[:2] < latest[:2]):
                wrong.append((giver, last.into, field, latest, theirs))
    return some("parts of profiles that were not handed on (from, into, field)", wrong)
