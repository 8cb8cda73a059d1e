"""`segstream campaigns simulate`: what a rule file would have done, and would do, without sending anything."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.output_events import CampaignAction, CampaignDecision, CampaignScheduled, CampaignWithheld, Withheld
from segmentation.quiet_hours import local_day, zone_named
from stream.campaigns.foretold import Foreteller
from stream.campaigns.past import PastReader
from stream.campaigns.step import step_under
from stream.errors import SegstreamError
from stream.orders.rows import parse_at
from stream.rehearsal.campaign_replay import CampaignReplay, TimedRecord
from stream.storage.client import redis_client
from stream.storage.keys import ShardKeys
from stream.storage.reads import require_head
from stream.storage.states import PAGE, read_states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from segmentation.campaign_rules import RuleTable
    from segmentation.model import SegmentModel
    from stream.models.topic import PublishedModels
    from stream.settings import Settings
    from stream.storage.heads import StoreHead

WARM_UP_MS: Final = 90 * DAY_MS  # of moves before the time that counts: their actions count for cooldowns and caps
_FED: Final = 5_000  # records at a time
PartName = Literal["past", "model", "ahead"]


class NothingToSimulate(SegstreamError):
    """There is neither a move in the time that is asked for, nor anything else to go by."""


class SimulatedCampaign(msgspec.Struct, frozen=True, kw_only=True):
    """The decisions of a rule in a part of the time.

    `withheld` goes by reason, without `held_out`; `scheduled` by why the action waited.
    """

    campaign: str
    actions: int
    held_out: int
    withheld: dict[str, int]
    scheduled: dict[str, int]
    converted: int
    converted_held_out: int


class SimulatedDay(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign's decisions of one day, in the time zone of the rule table."""

    day: str
    campaign: str
    actions: int
    held_out: int
    withheld: int


class SimulatedPart(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the time: what has been, the start of a model, or what is to come if nobody orders."""

    part: PartName
    since: str
    until: str
    moves: int
    campaigns: tuple[SimulatedCampaign, ...]
    days: tuple[SimulatedDay, ...]


class CampaignSimulation(msgspec.Struct, frozen=True, kw_only=True):
    """The result. `held_back`: customers with an action that still waits at the end."""

    rules: str  # digest of the table
    model: str | None
    parts: tuple[SimulatedPart, ...]
    held_back: int


class SimulationRequest(NamedTuple):
    """The simulation that is wanted. `model` None: the active one goes on. Instants in ms."""

    table: RuleTable
    span_ms: int
    ahead_ms: int
    model: SegmentModel | None


@dataclass(slots=True)
class _PartTally:
    """The counts of one part."""

    moves: int = 0
    outcomes: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    days: defaultdict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, event: CampaignDecision, day: str) -> None:
        """Count a decision."""
        kind = _kind(event)
        self.outcomes[event.campaign][kind] += 1
        self.days[day, event.campaign][kind] += 1

    def part(self, part: PartName, since: int, until: int) -> SimulatedPart:
        """Return the counts as a part of the result, the busiest campaign first."""
        rows = sorted(self.outcomes.items(), key=lambda row: (-row[1][_ACTION], row[0]))
        days = [
            SimulatedDay(
                day=day,
                campaign=campaign,
                actions=counts[_ACTION],
                held_out=counts[Withheld.HELD_OUT],
                withheld=_withheld(counts).total(),
            )
            for (day, campaign), counts in sorted(self.days.items())
        ]
        return SimulatedPart(
            part=part, since=iso(since), until=iso(until), moves=self.moves,
            campaigns=tuple(_campaign(name, counts) for name, counts in rows), days=tuple(days),
        )  # fmt: skip


_ACTION: Final = "action"
_CONVERTED: Final = {False: "converted", True: "converted held out"}
_WHYS: Final = ("delay", "quiet_hours")


def _kind(event: CampaignDecision) -> str:
    if isinstance(event, CampaignAction):
        return _ACTION
    if isinstance(event, CampaignWithheld):
        return event.reason
    return event.why if isinstance(event, CampaignScheduled) else _CONVERTED[event.held_out]


def _withheld(counts: Counter[str]) -> Counter[str]:
    reasons = {reason.value for reason in Withheld} - {Withheld.HELD_OUT.value}
    return Counter({kind: n for kind, n in counts.items() if kind in reasons})


def _campaign(name: str, counts: Counter[str]) -> SimulatedCampaign:
    return SimulatedCampaign(
        campaign=name,
        actions=counts[_ACTION],
        held_out=counts[Withheld.HELD_OUT],
        withheld=dict(sorted(_withheld(counts).items())),
        scheduled={why: counts[why] for why in _WHYS if counts[why]},
        converted=counts[_CONVERTED[False]],
        converted_held_out=counts[_CONVERTED[True]],
    )


class CampaignSimulator:
    """Runs one rule table over all shards, one after the other."""

    def __init__(self, settings: Settings, published: PublishedModels, request: SimulationRequest) -> None:
        """Nothing is read yet."""
        self._settings = settings
        self._request = request
        self._names = published.names
        self._model = request.model or (published.active if request.ahead_ms else None)
        self._tallies: dict[PartName, _PartTally] = {"past": _PartTally(), "model": _PartTally(), "ahead": _PartTally()}
        self._held_back = 0
        zone = zone_named(request.table.time_zone)
        assert zone is not None  # rules are checked as they are read
        self._zone = zone

    async def run(self, now_ms: int, progress: Callable[[int], None] | None = None) -> CampaignSimulation:
        """Simulate as of now; in event time as of the most advanced shard's clock. `progress`: shards done.

        Raises KafkaUnreachable, TopicUnusable, RedisUnreachable, StoreUnreadable, NothingToSimulate.
        """
        settings, request = self._settings, self._request
        heads = self._heads()
        at = now_ms if settings.time == "wall" else max((head.clock for head in heads), default=-1)
        since, until = at - request.span_ms, at + request.ahead_ms
        async with PastReader(settings) as reader:
            for partition, head in enumerate(heads):
                run = CampaignReplay(step_under(settings, request.table, event_time=False), partition)
                await self._past(run, reader, partition, since, at)
                if self._model is not None:
                    self._to_come(run, partition, head, at, until)
                self._held_back += run.held_back
                if progress:
                    progress(partition + 1)
        if not any(tally.moves for tally in self._tallies.values()):
            raise NothingToSimulate(
                f"no move since {iso(max(since, 0))}.", hint="Give an earlier --since, or a number of days --ahead."
            )
        wanted: dict[PartName, tuple[int, int]] = {"past": (since, at)}
        wanted |= {"model": (at, at)} if request.model else {}
        wanted |= {"ahead": (at, until)} if request.ahead_ms else {}
        return CampaignSimulation(
            rules=request.table.digest,
            model=None if self._model is None else self._model.version,
            parts=tuple(self._tallies[name].part(name, max(begin, 0), end) for name, (begin, end) in wanted.items()),
            held_back=self._held_back,
        )

    def _heads(self) -> list[StoreHead]:
        with redis_client(self._settings) as redis:
            return [
                require_head(redis, ShardKeys(self._settings.group, self._settings.orders_topic, p), self._settings)
                for p in range(self._settings.partitions)
            ]

    async def _past(self, run: CampaignReplay, reader: PastReader, partition: int, since: int, at: int) -> None:
        page, tally = list[TimedRecord](), self._tallies["past"]
        async for record in reader.read(partition, max(since - WARM_UP_MS, 0)):
            tally.moves += record.source == "moves" and record.at >= since
            page.append(record)
            if len(page) >= _FED:
                self._count(tally, run.feed(page), since)
                page = []
        self._count(tally, run.feed(page), since)
        self._count(tally, run.advance(at), since)

    def _to_come(self, run: CampaignReplay, partition: int, head: StoreHead, at: int, until: int) -> None:
        """Feed the moves that the model would make now, and those of the time to come."""
        assert self._model is not None
        foreteller = Foreteller(self._settings, self._model, self._names)
        starts, ahead = list[TimedRecord](), list[TimedRecord]()
        keys = ShardKeys(self._settings.group, self._settings.orders_topic, partition)
        with redis_client(self._settings) as redis:
            rows = read_states(redis, keys)
            while page := list(islice(rows, PAGE)):
                begins = self._request.model is not None
                first, later = foreteller.moves(page, at, until, head.backfills, starts=begins)
                starts += first
                ahead += later
        parts: tuple[tuple[PartName, list[TimedRecord]], ...] = (("model", starts), ("ahead", ahead))
        for name, records in parts:
            self._tallies[name].moves += len(records)
            self._count(self._tallies[name], run.feed(sorted(records, key=_instant)), at)
        self._count(self._tallies["ahead"], run.advance(until), at)

    def _count(self, tally: _PartTally, decisions: Iterable[CampaignDecision], since: int) -> None:
        for event in decisions:
            decided = parse_at(event.decided_at or event.occurred_at)
            if decided >= since:
                tally.add(event, local_day(decided, self._zone).isoformat())


def _instant(record: TimedRecord) -> int:
    return record.at
