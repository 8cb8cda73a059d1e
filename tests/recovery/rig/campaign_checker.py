"""An independent check of the campaign step: its decisions are those that the rules give for the published moves.

As checker.py, it reads the topics and Redis. It reads rules (campaign_table.py), profiles (campaign_knowledge.py) and
states by itself, and replays each customer's decisions (campaign_story.py).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from tests.recovery.rig.campaign_knowledge import MARGIN_MS, NEVER, Knowledge, distinct, not_handed_on, unread
from tests.recovery.rig.campaign_story import (
    CustomerStory,
    Decision,
    StoryMove,
    TakenDecision,
    campaign_key,
    remembered,
)
from tests.recovery.rig.campaign_table import Change, ReadTable, RuleRow, millis
from tests.recovery.rig.checker import ReadRow, ShardContent, heads, marks, move, some
from tests.recovery.rig.unstamped import SALT_MARK

# A state of the campaign step: version, flags, nothing, sequence of the last move, of the last one to nowhere, key of
# the segment; then, where there are any, what is known and what was decided, as MessagePack.
_STATE: Final = struct.Struct("<BBHII8s")
_VERSION: Final = 3
_ERASED: Final = 2
_NOWHERE: Final = bytes(8)
_NO_FACTS: Final = [[None, None, []], NEVER, None, []]
_BUDGET: Final = b"\0budget:"
_ADOPTED: Final = ("model", "settings")
_PROFILES: Final = b"customer-profiles"  # how the name of their topic begins


@dataclass(frozen=True, slots=True)
class DecidedRun:
    """The topics and shards of the campaign step after a run."""

    moves: list[ReadRow]
    decisions: list[ReadRow]
    dead: list[ReadRow]
    heads: list[ReadRow]
    shards: list[ShardContent]
    profiles: list[ReadRow] = field(default_factory=list)
    orders: list[ReadRow] = field(default_factory=list)
    rests: list[int] = field(default_factory=list)  # when (ms, by the broker) all that was sent before had been read
    fences: list[tuple[int, int]] = field(default_factory=list)  # where known: (partition, ms) of each takeover's
    # False: ends of topics may have been too low, so that a takeover didn't see the last dead letters of profiles.
    ends_are_right: bool = True
    margin_ms: int = MARGIN_MS  # after which what was sent must be known anyway


def violations(run: DecidedRun, table: ReadTable, *, adopts: bool, event_time: bool) -> list[str]:
    """Return the violations of one run. `adopts`: moves by a model or by settings set off no action."""
    known = Knowledge(run.profiles, run.orders, run.heads, run.rests, run.fences, margin_ms=run.margin_ms)
    of_profiles = [row for row in run.dead if row.headers["__connect.errors.topic"].startswith(_PROFILES)]
    ids = Counter(move(row)["id"] for row in run.decisions)
    versions = {move(row)["rules"] for row in run.decisions if not _is_budget(row)}
    wrong = [
        *some("decisions published twice (id)", [i for i, n in ids.items() if n > 1]),
        *some("versions of the rules, of which there was one", sorted(versions)[1:]),
        *some("dead letters of moves", [(row.partition, row.offset) for row in run.dead if row not in of_profiles]),
        *unread(known, of_profiles, once=run.ends_are_right),
        *marks(run.decisions, in_order=False),
        *([] if event_time else _instants(run.decisions)),
        *heads(run.heads, run.decisions),
        *not_handed_on(known),
    ]
    for p in range(len(run.shards)):
        shard = ShardStory(run, p, table, known, adopts=adopts, event_time=event_time)
        wrong += shard.wrong
        wrong += shard.other_states(event_time=event_time)
    return wrong


def _is_budget(row: ReadRow) -> bool:
    return (row.key or b"").startswith(_BUDGET)


def _instants(decisions: Sequence[ReadRow]) -> list[str]:
    """Check that in wall time a turn decides at its clock."""
    instants = [(row, millis(move(row)["decided_at"])) for row in decisions]
    clocks = [int(row.headers["segstream_mark"].split(b":")[2]) for row in decisions]
    wrong = [(row.partition, row.offset, at, clock) for (row, at), clock in zip(instants, clocks, strict=True)]
    return some("decisions at another instant than their turn's", [one for one in wrong if one[2] != one[3]])


class ShardStory:
    """The decisions of one shard, replayed."""

    def __init__(
        self, run: DecidedRun, partition: int, table: ReadTable, known: Knowledge, *, adopts: bool, event_time: bool
    ) -> None:
        """Replay them. `wrong`: what was wrong with them."""
        self._table, self._known, self._partition = table, known, partition
        self._shard = run.shards[partition]
        self._stories: dict[bytes, CustomerStory] = {}
        clock = 0
        moves: dict[bytes, list[StoryMove]] = {}
        self._end = 0
        for row in run.moves:
            if row.partition == partition:
                change = move(row)
                clock = max(clock, millis(change["occurred_at"]))
                seen = StoryMove(row.offset, change["sequence"], change, clock, row.timestamp)
                moves.setdefault(row.key or b"", []).append(seen)
                self._end = row.offset + 1
        for key, own in moves.items():
            self._stories[key] = CustomerStory(table, known, partition, len(run.shards), key.decode(), own, event_time)
        self._rows = [row for row in run.decisions if row.partition == partition]
        self._used: Counter[tuple[str, str]] = Counter()  # actions, by campaign and day
        self._days: dict[str, str] = {}  # each campaign's last one with an action
        self._budgets = 0
        self.wrong = [*self._taken(), *self._complete(adopts=adopts)]

    def _taken(self) -> Iterator[str]:
        """Replay the decisions in their order. Yield what is wrong with them."""
        wrong: list[Any] = []
        handled, read = 0, 0
        spent: set[str] = set()  # campaigns with a budget of which the turn has sent actions
        for row in self._rows:
            event, n = move(row), int(row.headers["segstream_mark"].split(b":")[1])
            handled, read = (handled, read) if n == read else (read, n)
            if _is_budget(row):
                wrong += [(row.offset, "budget", why) for why in self._take_budget(event, spent)]
                spent.clear()
                continue
            story = self._stories.get(row.key or b"")
            if story is None:
                wrong.append((row.offset, event, "the customer never moved"))
                continue
            rule: RuleRow = self._table.rules.get(event["campaign"], {})
            name, day = event["campaign"], str(self._table.day(rule, millis(event["decided_at"])))
            # In event time decisions on several customers don't come in the order of their instants.
            day = max(day, self._days.get(name, day))
            taken = TakenDecision(row, event, handled, read, self._used[name, day])
            wrong += [(row.offset, event, why) for why in story.take(taken)]
            if event["type"] == "campaign.action":
                self._days[name] = day
                self._used[name, day] += 1
                if "budget" in rule and not rule.get("transactional"):
                    spent.add(event["campaign"])
        for key, story in self._stories.items():
            wrong += [(key, why) for why in story.finish()]
        if spent:
            wrong.append((sorted(spent), "no budget was published after these actions"))
        yield from some(f"decisions of shard {self._partition} that don't follow", wrong)

    def _take_budget(self, event: Decision, spent: set[str]) -> Iterator[str]:
        self._budgets += 1
        if not spent:
            yield "nothing was sent"
        if event["shard"] != self._partition:
            yield "another shard's"
        for name, used in event["used"].items():
            if used["actions"] != self._used[name, used["day"]]:
                yield f"{used}, but {self._used[name, used['day']]} were sent"
        if missing := spent - set(event["used"]):
            yield f"without {sorted(missing)}"

    def _complete(self, *, adopts: bool) -> list[str]:
        """Check that each move and group of rules has the decisions that the rules give, in their order."""
        lost, more = [], []
        for key, story in self._stories.items():
            for seen in story.moves:
                found = list(story.at_move.get(seen.change["id"], ()))
                silent = seen.change["to"] is None or (adopts and seen.change["cause"] in _ADOPTED)
                for group in () if silent else self._table.matching(seen.change):
                    lost += [(key, seen.number, name) for name in self._left_out(group, found, seen)]
                more += [(key, seen.number, event) for event in found]
        p = self._partition
        return [*some(f"shard {p}: moves without their decision", lost), *some(f"shard {p}: decisions too many", more)]

    def _left_out(self, group: list[RuleRow], found: list[Decision], seen: StoryMove) -> Iterator[str]:
        """Take a group's decisions on a move off the front. Yield the rules of which one is missing."""
        for rule in group:
            if not found or found[0]["campaign"] != rule["name"]:
                if self._table.is_valid(rule, seen.clock) or "valid" not in rule:
                    yield str(rule["name"])
                continue
            event = found.pop(0)
            if event["type"] != "campaign.withheld" or event["reason"] == "held_out":
                return

    def other_states(self, *, event_time: bool) -> list[str]:
        """Check Redis: it has followed to the end, and its states say what the log of decisions and the topics say."""
        shard, p = self._shard, self._partition
        wrong: list[Any] = []
        if not shard.head or shard.head["offset"] < self._end or shard.head["count"] != len(self._rows):
            wrong.append(f"Redis head of shard {p} isn't at the end ({self._end}, {len(self._rows)}): {shard.head}")
        states, gone, maybe = list[Any](), set[bytes](), set[bytes]()
        known = {name.encode() for name, home in self._known.homes.items() if home == p}
        for key in sorted(known | self._stories.keys() | shard.states.keys()):
            if key.startswith(_BUDGET):
                states += self._other_budget(key, shard.states[key])
            elif (value := shard.states.get(key)) is None:
                gone |= {key} if key in self._stories or self._is_erased(key) else set()
                maybe |= {key} if self._known.erasures[key.decode()] else set()
                states += [(key, "no state")] if self._must_be(key) else []
            else:
                states += [(key, value, *line) for line in self._other_state(key, value)]
        wrong += some(f"states of shard {p}, found and right", states)
        kept = len(shard.tombstones.keys() - {SALT_MARK})
        if not len(gone) <= kept <= len(gone | maybe):
            wrong.append(f"shard {p} keeps the remains of {kept} erased customers, expected {len(gone)}: {gone}")
        if sorted(shard.states) != sorted(shard.customers) or set(shard.due) - set(shard.states):
            wrong.append(f"shard {p}: {len(shard.states)} states, {len(shard.customers)} customers, due: {shard.due}")
        clock = shard.head.get("clock", 0)
        wrong += some(f"shard {p}: held back, and not decided in time", list(self._late(clock, event_time=event_time)))
        return wrong

    def _late(self, clock: int, *, event_time: bool) -> Iterator[Any]:
        """Yield what is held back without its entry in the due index, or longer than it should be."""
        for key, story in self._stories.items():
            if story.waiting:
                first = min(one.until for one in story.waiting)
                due = self._shard.due.get(key)
                # In event time, a turn without records doesn't look at what is due.
                if due is None or due > first or (first < clock and not event_time):
                    yield key, story.waiting, due, clock

    def _is_erased(self, key: bytes) -> bool:
        """Return whether the shard has read an erasure of a customer who never moved."""
        return any(self._known.is_sure(self._partition, one) for one in self._known.erasures[key.decode()])

    def _must_be(self, key: bytes) -> bool:
        """Return whether a customer must have a state."""
        story, name = self._stories.get(key), key.decode()
        if story is not None:
            return story.moves[-1].change["to"] is not None
        erased = max((one.at for one in self._known.erasures[name]), default=NEVER)
        said = [one for field_ in self._known.statements[name].values() for one in field_]
        merged = [one for one in self._known.merges[name] if self._known.is_sure(self._partition, one)]
        return any(one.at > erased for one in said) or (bool(merged) and erased == NEVER)

    def _other_budget(self, key: bytes, value: bytes) -> Iterator[tuple[Any, ...]]:
        counter, used = msgspec.msgpack.decode(value.removeprefix(b"B"))
        found = {(name, day): actions for name, (day, actions) in used.items()}
        wanted = {pair: self._used[pair] for pair in found}
        if key != _BUDGET + b"%d" % self._partition or (counter, found) != (self._budgets, wanted):
            yield key, (counter, found), (self._budgets, wanted)

    def _other_state(self, key: bytes, value: bytes) -> Iterator[tuple[Any, ...]]:
        """Yield the parts of a customer's state that differ from what they should be: found, and right."""
        version, flags, nothing, sequence, since, segment = _STATE.unpack_from(value)
        rest = value[_STATE.size :]
        facts, decided = msgspec.msgpack.decode(rest) if rest else (_NO_FACTS, [0, since, [], [], []])
        story = self._stories.get(key)
        last: Change | None = story.moves[-1].change if story else None
        number = story.moves[-1].number if story else 0
        place = campaign_key(last["to"]) if last and last["to"] else _NOWHERE
        gone = story.since if story else 0
        wanted = (_VERSION, _ERASED if 0 < gone == number else 0, 0, number, gone, place)
        if (head := (version, flags, nothing, sequence, since, segment)) != wanted:
            yield head, wanted
        if (found := _decided(decided)) != (own := _own(story)):
            yield found, own
        yield from self._other_facts(key.decode(), facts)

    def _other_facts(self, name: str, facts: list[Any]) -> Iterator[tuple[Any, ...]]:
        """Compare what a state knows from the topics. Erasures and merges before the shard's beginning may be there."""
        (zone, language, consent), erased, merged, given = facts
        known, p = self._known, self._partition
        found: dict[str, Any] = {"time_zone": zone, "language": language}
        found |= {f"consent:{channel}": said for channel, said in consent}
        for field_ in found.keys() | known.statements[name].keys():
            said = max((one for one in known.statements[name][field_] if one.at > erased), default=None)
            right = None if said is None else [said.at, said.text]
            if found.get(field_) != right:
                yield field_, found.get(field_), right
        dates = [one.at for one in known.erasures[name] if known.is_sure(p, one)]
        if erased < max(dates, default=NEVER) or erased not in {NEVER} | {one.at for one in known.erasures[name]}:
            yield "erased_at", erased, dates
        merges = [(one.at, one.into) for one in known.merges[name] if known.is_sure(p, one)]
        last = max(merges, default=None)
        if merged is None:
            if last is not None:
                yield "merged", merged, last
        elif (last and tuple(merged) < last) or tuple(merged) not in {(one.at, one.into) for one in known.merges[name]}:
            yield "merged", merged, last
        acts = remembered([one for one in distinct(known.given[name]) if one.at > erased])
        right_acts = [(one.at, one.campaign, one.sent) for one in acts]
        if (there := [(at, campaign, sent) for campaign, at, sent in given]) != right_acts:
            yield "handed_on", there, right_acts


def _decided(decided: list[Any]) -> tuple[Any, ...]:
    counter, _, acts, pendings, watches = decided
    return (
        counter,
        [(at, campaign, sent) for campaign, at, sent in acts],
        sorted((candidate[1], candidate[0], until, why) for candidate, until, why in pendings),
        sorted((action_id, acted_at, until, held_out) for _, action_id, acted_at, until, held_out in watches),
    )


def _own(story: CustomerStory | None) -> tuple[Any, ...]:
    if story is None:
        return (0, [], [], [])
    return (
        story.counter,
        [(act.at, act.campaign, act.sent) for act in story.stored],
        sorted((one.campaign, one.change_id, one.until, one.why) for one in story.waiting),
        sorted((one.action_id, one.acted_at, one.until, one.held_out) for one in story.watches),
    )
