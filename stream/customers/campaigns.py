"""One customer in campaigns: the profile, the actions that wait, and what was decided lately, each with its reason."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from segmentation.campaign_rules import RulesError, default_rules, parse_rules
from segmentation.campaign_state import NEVER, CampaignFormatError, CampaignState, name_key
from segmentation.event_text import iso
from segmentation.output_events import CampaignAction, CampaignDecision, CampaignScheduled, CampaignWithheld
from segmentation.quiet_hours import zone_named
from stream.storage.keys import ShardKeys
from stream.traces.latest_records import LookBack, latest_about
from stream.traces.mentions import AnyMentions, Mentions
from stream.traces.person import person_of, stored_value
from stream.traces.places import shards_of, topic_places

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from redis import Redis

    from segmentation.profiles import DatedText, Profile
    from stream.settings import Settings

_MOST_DECISIONS: Final = 20
LOOKED_BACK: Final = 50_000  # records of campaign-actions

_decision = msgspec.json.Decoder(CampaignDecision)


class KnownText(msgspec.Struct, frozen=True):
    """A field of the profile, and since when it holds."""

    text: str
    since: str


class KnownProfile(msgspec.Struct, frozen=True):
    """The profile. `zone_exists`: whether there is a time zone of that name; else the zone of the rule counts."""

    time_zone: KnownText | None
    zone_exists: bool
    language: KnownText | None
    consent: dict[str, KnownText]  # by channel: granted or denied


class WaitingAction(msgspec.Struct, frozen=True):
    """An action that is held back until an instant."""

    campaign: str
    segment: str
    action: str
    channel: str
    until: str
    why: Literal["delay", "quiet_hours"]
    moved_at: str
    change_id: str


class OpenGoal(msgspec.Struct, frozen=True):
    """A goal that an order reaches until an instant. `action_id`: of the action, or of the one that was held out."""

    campaign: str
    acted_at: str
    until: str
    held_out: bool
    action_id: str


class LastAct(msgspec.Struct, frozen=True):
    """The last action of a campaign on the customer, or when it would have come to one who is held out.

    `campaign`: its name, or the hash of one that neither the rules nor the records here have.
    """

    campaign: str
    at: str
    held_out: bool


class CustomerInCampaigns(msgspec.Struct, frozen=True):
    """All that a shard of the campaign step knows of a customer."""

    customer_id: str
    partition: int
    profile: KnownProfile | None  # None: nothing is known
    erased_until: str | None  # profiles dated up to here are dropped, whenever they come
    merged_into: str | None
    last_move: int  # sequence of the last one handled; 0: none
    waiting: list[WaitingAction]
    goals: list[OpenGoal]
    last_acts: list[LastAct]


class CampaignsReport(msgspec.Struct, frozen=True):
    """One customer in campaigns.

    `known`: of each shard that knows one of the ids, usually one. `decisions`: of all ids, the newest first. `looked`:
    how far back they were looked for; None: not at all. `unreadable`: why a state couldn't be read.
    """

    known: list[CustomerInCampaigns]
    decisions: list[CampaignDecision]
    looked: LookBack | None
    unreadable: list[str]

    @property
    def empty(self) -> bool:
        """Whether nothing is known."""
        return not (self.known or self.decisions or self.unreadable)


async def campaigns_report(
    redis: Redis, settings: Settings, customer_id: str, *, back: int = LOOKED_BACK
) -> CampaignsReport:
    """Return what campaigns know of a customer by all of the ids, and the latest decisions.

    `back`: how many of the newest records of the topic of actions are looked through, or a few more; 0: none. Raises
    RedisError.
    """
    ids = person_of(redis, settings, customer_id).ids
    looked, decisions = None, list[CampaignDecision]()
    if back:
        mentions = AnyMentions([Mentions.of(settings, known) for known in ids])
        [place] = [place for place in topic_places(settings) if place.topic == settings.actions_topic]
        records, looked = await latest_about(settings, place, ids, mentions, most=_MOST_DECISIONS, back=back)
        decisions += _decisions(record.value for record in records)
    names = campaign_names(settings, decisions)
    known, unreadable = list[CustomerInCampaigns](), list[str]()
    for one in ids:
        for keys, state in campaign_states(redis, settings, one):
            if isinstance(state, CampaignState):
                known.append(in_campaigns(one, keys.partition, state, names))
            else:
                unreadable.append(f"the state of {one!r} in shard {keys.shard}: {state}")
    return CampaignsReport(known, decisions, looked, unreadable)


def campaign_states(
    redis: Redis, settings: Settings, customer_id: str
) -> Iterator[tuple[ShardKeys, CampaignState | CampaignFormatError]]:
    """Yield what each shard of the campaign step knows of an id, or why that can't be read. Raises RedisError."""
    for partition in shards_of(settings, customer_id):
        keys = ShardKeys(settings.group, settings.changes_topic, partition)
        value = stored_value(redis, settings, keys, customer_id)
        if value is None:
            continue
        try:
            yield keys, CampaignState.unpack(value)
        except CampaignFormatError as error:
            yield keys, error


def in_campaigns(
    customer_id: str, partition: int, state: CampaignState, names: Mapping[bytes, str]
) -> CustomerInCampaigns:
    """Return a state in words. `names`: of campaigns, by their keys."""
    facts, decided = state.facts, state.decided
    candidates = [pending.candidate for pending in decided.pendings] + [watch.candidate for watch in decided.watches]
    names = {name_key(candidate.campaign): candidate.campaign for candidate in candidates} | dict(names)
    last = {act.campaign: act for act in sorted(state.acts, key=lambda act: act.at)}
    acts = sorted(last.values(), key=lambda act: act.at, reverse=True)
    waiting = [
        WaitingAction(
            pending.candidate.campaign,
            pending.candidate.segment,
            pending.candidate.action,
            pending.candidate.channel,
            iso(pending.until),
            pending.why,
            iso(pending.candidate.moved_at),
            pending.candidate.change_id,
        )
        for pending in sorted(decided.pendings, key=lambda pending: pending.until)
    ]
    goals = [
        OpenGoal(watch.candidate.campaign, iso(watch.acted_at), iso(watch.until), watch.held_out, watch.action_id)
        for watch in decided.watches
    ]
    return CustomerInCampaigns(
        customer_id=customer_id,
        partition=partition,
        profile=_profile(facts.profile) if any(facts.profile) else None,
        erased_until=None if facts.erased_at == NEVER else iso(facts.erased_at),
        merged_into=None if facts.merged is None else facts.merged.into,
        last_move=state.sequence,
        waiting=waiting,
        goals=goals,
        last_acts=[LastAct(names.get(act.campaign, act.campaign.hex()), iso(act.at), not act.sent) for act in acts],
    )


def _profile(profile: Profile) -> KnownProfile:
    return KnownProfile(
        time_zone=_text(profile.time_zone),
        zone_exists=profile.time_zone is not None and zone_named(profile.time_zone.text) is not None,
        language=_text(profile.language),
        consent={channel: KnownText(said.text, iso(said.at)) for channel, said in profile.consent},
    )


def _text(found: DatedText | None) -> KnownText | None:
    return None if found is None else KnownText(found.text, iso(found.at))


def campaign_names(settings: Settings, decisions: Sequence[CampaignDecision] = ()) -> dict[bytes, str]:
    """Return campaigns' names by their keys: of these decisions, and of the rules as far as this machine has them."""
    names = [event.campaign for event in decisions]
    with suppress(OSError, UnicodeDecodeError, RulesError):
        text = settings.rules_file.read_text("utf-8") if settings.rules_file else default_rules()
        names += [rule.name for rule in parse_rules(text).rules]
    return {name_key(name): name for name in names}


def _decisions(values: Iterator[bytes | None]) -> Iterator[CampaignDecision]:
    """Yield the decisions among these records. A record of any other kind isn't one."""
    for value in values:
        try:
            yield _decision.decode(value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue


def campaign_lines(found: CampaignsReport) -> list[str]:
    """Return what campaigns know of a customer as lines for people, without the decisions."""
    lines = ["  campaigns"]
    for known in found.known:
        shown = (*_profile_lines(known, whose=len(found.known) > 1), *_waiting_lines(known))
        lines += [f"    {line}" for line in shown]
    if not found.known:
        lines.append("    no profile, and no move that campaigns have handled")
    return [*lines, *(f"    can't be read: {text}" for text in found.unreadable)]


def _profile_lines(known: CustomerInCampaigns, *, whose: bool) -> list[str]:
    profile, lines = known.profile, [f"as {known.customer_id}:"] if whose else list[str]()
    if profile is None:
        lines.append("no profile")
    else:
        if profile.time_zone is not None:
            unknown = "" if profile.zone_exists else ", which is no time zone: the rule's counts"
            lines.append(f"time zone {profile.time_zone.text}{unknown} (since {profile.time_zone.since})")
        if profile.language is not None:
            lines.append(f"language {profile.language.text} (since {profile.language.since})")
        lines += [
            f"consent for {channel} {said.text} (since {said.since})" for channel, said in profile.consent.items()
        ]
    if known.erased_until is not None:
        lines.append(f"erased up to {known.erased_until}: profiles dated before are dropped, whenever they come")
    if known.merged_into is not None:
        lines.append(f"merged into {known.merged_into}: what is known goes on to that id")
    return lines


def _waiting_lines(known: CustomerInCampaigns) -> list[str]:
    why = {"delay": "its delay", "quiet_hours": "quiet hours"}
    lines = [
        f"waits until {action.until} ({why[action.why]}): {action.campaign}, {action.action} by {action.channel}"
        for action in known.waiting
    ]
    for goal in known.goals:
        whose = "held out of" if goal.held_out else "acted on by"
        lines.append(f"an order until {goal.until} is a conversion: {whose} {goal.campaign} at {goal.acted_at}")
    lines += [f"last {'held out of' if act.held_out else 'had'} {act.campaign} at {act.at}" for act in known.last_acts]
    return lines


def decision_rows(decisions: Sequence[CampaignDecision]) -> list[tuple[str, str, str, str]]:
    """Return decisions as rows of a table: when, which campaign, what became of it, and why."""
    return [(event.decided_at or event.occurred_at, event.campaign, *_outcome(event)) for event in decisions]


def _outcome(event: CampaignDecision) -> tuple[str, str]:
    if isinstance(event, CampaignAction):
        return "action", f"{event.action} by {event.channel}: {event.reason}"
    if isinstance(event, CampaignWithheld):
        return f"not sent: {event.reason.value}", event.detail
    if isinstance(event, CampaignScheduled):
        return "waits", f"until {event.until}: {event.why.replace('_', ' ')}"
    held_out = " (held out)" if event.held_out else ""
    return f"converted{held_out}", f"order {event.order_id} of {event.amount.value} {event.amount.currency}"


def looked_line(looked: LookBack, count: int) -> str:
    """Return how far back the decisions were looked for, as a sentence. `count`: of those that are shown.

    >>> looked = LookBack("campaign-actions", [3], 50_000, "2026-03-03T14:20:00.000Z", complete=False)
    >>> looked_line(looked, 0)
    'no decision among the newest 50,000 records of campaign-actions (partition 3), back to 2026-03-03T14:20:00.000Z'
    """
    if looked.failure is not None and not count:
        return f"decisions can't be read: {looked.failure}"
    partitions = ", ".join(map(str, looked.partitions))
    many = f"the newest {count}" if count == _MOST_DECISIONS else f"{count or 'no'} decision{'s' * (count > 1)}"
    if looked.complete:
        where = f"in all of {looked.topic}" if count != _MOST_DECISIONS else f"of {looked.topic}"
        line = f"{many} {where} (partition {partitions})"
    else:
        back = f", back to {looked.since}" if looked.since else ""
        line = f"{many} among the newest {looked.records:,} records of {looked.topic} (partition {partitions}){back}"
    return f"{line}; then: {looked.failure}" if looked.failure is not None else line
