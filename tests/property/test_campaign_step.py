"""The campaign step over any stream: the same actions and states, however it is cut, repeated or taken over."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple
from uuid import NAMESPACE_URL, uuid5

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentation.campaign_state import Act, Candidate, Decided, Facts, Merged, Pending, kept, name_key
from segmentation.campaigns import CampaignState, CampaignStep, default_rules, parse_rules
from segmentation.event_text import iso
from segmentation.events import encode
from segmentation.output_events import Cause, SegmentChanged
from segmentation.profiles import DatedText, Profile
from segmentation.step import TurnContext

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segmentation.step import Output

EXAMPLES = int(os.environ.get("EXAMPLES", "150"))
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)

# Somewhat of everything: a rule that asks where from, one that asks why and has a cooldown, one for all others but
# "Gone", and none for that.
RULES = """
rules:
- {name: fallen, from: [Champions], to: [Lost], action: Call, channel: phone, reason: they were the best}
- {name: lapse, to: '*', cause: [silence], action: Remind, channel: sms, cooldown_days: 1}
- {name: rest, to: [Champions, Loyal, Lost], action: Greet, channel: email}
"""
STEPS = [CampaignStep(parse_rules(text), "shop", event_time=True) for text in (RULES, default_rules())]
SEGMENTS = ["Champions", "Loyal", "Lost", "Gone"]
HOUR_MS = 3_600_000
TRIGGERS = [Cause.ORDER, Cause.SILENCE, Cause.MODEL]


class ChangeRecord(NamedTuple):
    key: bytes | None
    value: bytes | None
    offset: int = 0
    timestamp: int = 0


def change(customer: str, sequence: int, source: str | None, target: str | None, cause: Cause, at: int) -> ChangeRecord:
    event = SegmentChanged(
        id=str(uuid5(NAMESPACE_URL, f"{customer}:{sequence}")),
        customer_id=customer,
        sequence=sequence,
        from_=source,
        to=target,
        cause=cause,
        occurred_at=iso(at),
        scored_at=iso(at),
        model_version=None,
        rfm=None,
        before=None,
        distances={},
        next=None,
        causation_id=None,
    )
    return ChangeRecord(customer.encode(), encode(event))


@st.composite
def streams(draw: st.DrawFn) -> list[ChangeRecord]:
    """Chains of moves of a few customers, with gaps, repeats, garbage and times that hold still or go back."""
    chains: dict[str, tuple[int, str | None]] = {}
    rows: list[ChangeRecord] = []
    for _ in range(draw(st.integers(0, 25))):
        kind = draw(st.sampled_from(["move"] * 6 + ["erasure", "repeat", "garbage"]))
        if kind == "repeat" and rows:
            rows.append(draw(st.sampled_from(rows)))
        elif kind == "garbage":
            rows.append(ChangeRecord(b"ann", draw(st.sampled_from([None, b"{", b'{"type": "order.placed"}']))))
        else:
            customer = draw(st.sampled_from(["ann", "bob", "Zoë"]))
            sequence, source = chains.get(customer, (0, None))
            sequence += draw(st.sampled_from([1, 1, 1, 3]))
            target = None if kind == "erasure" else draw(st.sampled_from(SEGMENTS))
            cause = Cause.ERASURE if target is None else draw(st.sampled_from(TRIGGERS))
            rows.append(change(customer, sequence, source, target, cause, draw(st.integers(0, 50)) * HOUR_MS))
            chains[customer] = (sequence, target)
    return rows


@dataclass
class CampaignShard:
    """The engine's part: states, output log, positions of dead letters, clock, counts."""

    states: dict[bytes, bytes] = field(default_factory=dict)
    log: list[Output] = field(default_factory=list)
    dead: list[tuple[int, str]] = field(default_factory=list)
    clock: int = -1
    counts: dict[str, int] = field(default_factory=dict)

    def copy(self) -> CampaignShard:
        return CampaignShard(dict(self.states), list(self.log), list(self.dead), self.clock, dict(self.counts))

    def turns(self, step: CampaignStep, rows: Sequence[ChangeRecord], cuts: Sequence[int], start: int = 0) -> None:
        for begin, end in batches(start, len(rows), cuts):
            context = TurnContext(self.clock, now=10**15 + begin)
            plan = step.plan(rows[begin:end], 0, context)
            turn = step.decide(plan, [self.states.get(key) for key in plan.keys], (), more=False, context=context)
            assert turn.taken == end - begin
            assert turn.clock >= self.clock
            self.states |= turn.states
            self.log += turn.outputs
            self.dead += [(begin + dead_letter.position, dead_letter.reason) for dead_letter in turn.dead]
            self.clock = turn.clock
            for name, count in turn.counts.items():
                self.counts[name] = self.counts.get(name, 0) + count

    def merge(self, step: CampaignStep, rows: Sequence[ChangeRecord], cuts: Sequence[int], start: int) -> None:
        for begin, end in batches(start, len(rows), cuts):
            plan = step.absorb(rows[begin:end], 0, TurnContext(self.clock, now=0))
            merged = step.merge(plan, [self.states.get(key) for key in plan.keys]).states
            assert all(self.states.get(key) != value for key, value in merged.items()), "only what has changed"
            self.states |= merged
            self.clock = plan.clock

    def patch(self, step: CampaignStep, log: Sequence[Output]) -> None:
        notes = {output.key: output.note for output in log}
        for key, note in notes.items():
            self.states[key] = step.patch(self.states.get(key), note)


def batches(start: int, end: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
    bounds = [start, *sorted(cut for cut in set(cuts) if start < cut < end), end]
    return list(pairwise(bounds))


Cuts = st.lists(st.integers(0, 25), max_size=12)
Steps = st.sampled_from(STEPS)


def expected(rows: Sequence[ChangeRecord]) -> list[tuple[str, str, str]]:
    """Return the actions of RULES by a second implementation: (customer, campaign, change id)."""
    expected = []
    seen: dict[str, int] = {}
    reminded: dict[str, datetime] = {}
    clock = datetime.min.replace(tzinfo=UTC)  # decisions go by the latest move so far
    for row in rows:
        body = msgspec.json.decode(row.value) if row.value and row.value != b"{" else {}
        if body.get("type") != "segment.changed":
            continue
        at = clock = max(clock, datetime.fromisoformat(body["occurred_at"]))
        if body["sequence"] <= seen.get(body["customer_id"], 0):
            continue
        seen[body["customer_id"]] = body["sequence"]
        campaign = None
        customer = body["customer_id"]
        if body["to"] is None:
            reminded.pop(customer, None)
        if body["from"] == "Champions" and body["to"] == "Lost":
            campaign = "fallen"
        elif (
            body["to"] is not None
            and body["cause"] == "silence"
            and (customer not in reminded or at - reminded[customer] >= timedelta(days=1))
        ):
            campaign = "lapse"
            reminded[customer] = max(at, reminded.get(customer, at))
        elif body["to"] in {"Champions", "Loyal", "Lost"}:
            campaign = "rest"
        if campaign:
            expected.append((customer, campaign, body["id"]))
    return expected


@many
@given(streams(), Cuts)
def test_each_move_acts_once_as_the_rules_say(rows: list[ChangeRecord], cuts: list[int]) -> None:
    shard = CampaignShard()
    shard.turns(STEPS[0], rows, cuts)
    bodies = [msgspec.json.decode(output.value) for output in shard.log]
    ids = [body["id"] for body in bodies]
    assert len(set(ids)) == len(ids)
    bodies = [body for body in bodies if body["type"] == "campaign.action"]
    assert [(body["customer_id"], body["campaign"], body["change_id"]) for body in bodies] == expected(rows)


@many
@given(streams(), Cuts, Steps)
def test_any_cut_gives_the_same(rows: list[ChangeRecord], cuts: list[int], step: CampaignStep) -> None:
    whole, cut = CampaignShard(), CampaignShard()
    whole.turns(step, rows, [])
    cut.turns(step, rows, cuts)
    assert cut == whole


@many
@given(streams(), Cuts, Steps)
def test_a_second_replay_changes_nothing(rows: list[ChangeRecord], cuts: list[int], step: CampaignStep) -> None:
    shard = CampaignShard()
    shard.turns(step, rows, [])
    before = shard.copy()
    shard.turns(step, rows, cuts)
    assert (shard.states, shard.log, shard.clock) == (before.states, before.log, before.clock)


@many
@given(streams(), Cuts, Cuts, st.integers(0, 25), st.integers(0, 25), Steps)
def test_a_takeover_goes_on_as_if_nothing_had_happened(
    rows: list[ChangeRecord], cuts: list[int], others: list[int], stored: int, published: int, step: CampaignStep
) -> None:
    """Redis stands at record R, Kafka at N; the successor patches from the log and absorbs R to N in silence."""
    stored, published = sorted((min(stored, len(rows)), min(published, len(rows))))
    undisturbed = CampaignShard()
    undisturbed.turns(step, rows, cuts)

    successor = CampaignShard()
    successor.turns(step, rows[:stored], cuts)
    kafka = successor.copy()
    kafka.turns(step, rows[:published], cuts, start=stored)
    successor.patch(step, kafka.log[len(successor.log) :])
    successor.merge(step, rows[:published], others, start=stored)
    assert (successor.states, successor.clock) == (kafka.states, kafka.clock)

    successor.log, successor.dead, successor.counts = kafka.log, kafka.dead, kafka.counts
    successor.turns(step, rows, others, start=published)
    assert successor == undisturbed


@many
@given(streams(), Cuts, Steps)
def test_a_rebuild_from_the_logs_gives_the_same_states(
    rows: list[ChangeRecord], cuts: list[int], step: CampaignStep
) -> None:
    shard, rebuilt = CampaignShard(), CampaignShard()
    shard.turns(step, rows, [])
    rebuilt.patch(step, shard.log)
    rebuilt.merge(step, rows, cuts, start=0)
    rebuilt.patch(step, shard.log)
    assert (rebuilt.states, rebuilt.clock) == (shard.states, shard.clock)


Instants = st.integers(0, 40) | st.integers(0, 2**45)
Texts = st.sampled_from(["Europe/Berlin", "UTC", "Mars"])
Said = st.sampled_from(["granted", "denied"])


def dated(texts: st.SearchStrategy[str]) -> st.SearchStrategy[DatedText]:
    return st.builds(DatedText, Instants, texts)


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    consent = draw(st.dictionaries(st.sampled_from(["email", "sms"]), dated(Said)))
    profile = Profile(draw(st.none() | dated(Texts)), draw(st.none() | dated(Texts)), tuple(sorted(consent.items())))
    merged = draw(st.none() | st.builds(Merged, Instants, st.sampled_from("xy")))
    acts = draw(st.lists(st.builds(Act, st.sampled_from([name_key(name) for name in "ab"]), Instants, st.booleans())))
    return Facts().join(Facts(profile, merged=merged, handed_on=kept(acts))).join(Facts(erased_at=draw(Instants) - 1))


@st.composite
def campaign_states(draw: st.DrawFn) -> CampaignState:
    """One of the states of a customer: of one counter and one sequence there is one content only."""
    sequence, counter = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    since = draw(st.integers(0, sequence // 3)) * 3
    acts = tuple(Act(name_key("a"), number) for number in range(counter))
    candidate = Candidate("id", "a", "Lost", "act", "email", "why", counter)
    pendings = (Pending(candidate, counter, "delay"),) if counter % 2 else ()
    known = min(since, counter // 3 * 3)
    decided = Decided(counter, known, kept(acts), pendings) if known == since else Decided(counter, since)
    led = bytes(8) if 0 < since == sequence else name_key(str(sequence))
    return CampaignState(sequence, led, since, draw(facts()), decided)


States = campaign_states()


@many
@given(States, States, States)
def test_states_only_grow(a: CampaignState, b: CampaignState, c: CampaignState) -> None:
    assert CampaignState.unpack(a.pack()) == a
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(a) == a.join(CampaignState()) == a
    assert a.join(b).join(CampaignState.unpack(a.note())) == a.join(b)
