"""Whether a customer is erased: what every shard, the dead letters and the logs' retention say after an erasure.

Nothing is taken on trust. An erasure is done when no key of any shard names the customer any more, except for events
dated after it, and it is no dead letter.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from segmentation.entries import ERASED
from segmentation.event_text import iso
from segmentation.events import millis
from segmentation.rfm import StateFormatError
from segmentation.state_former import entries_of
from stream.customers.erased_campaigns import left_by_campaigns, profile_fields
from stream.dead_letters.records import StoredDeadLetter, read_dead_letter
from stream.kafka.clients import end_offsets
from stream.storage.keys import ShardKeys
from stream.storage.reads import REBUILD, StoreUnreadable, read_head
from stream.traces.kept import RedisFiles, RetainedData, redis_files, retained
from stream.traces.mentions import AnyMentions, Mentions
from stream.traces.places import OUTSIDE, shards_of, topic_places
from stream.traces.record_traces import TopicSearch, records_about
from stream.traces.shard_traces import PersonHoldings, ShardHolding, status_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

    from segmentation.entries import Entry
    from stream.settings import Settings

_AHEAD: Final = frozenset({"dated_ahead", "clock_jump"})


class SentErasure(msgspec.Struct, frozen=True):
    """An event customer.erased on the topic of orders. `until`: everything dated up to here is erased."""

    customer_id: str
    partition: int
    offset: int
    until: str


class ShardLeft(msgspec.Struct, frozen=True):
    """A shard that still names the customer, or keeps a keyed hash of the id.

    `customer_id`: one of the customer's ids. `step`: scoring or campaigns. `events`: those that the state keeps, of
    scoring. `profile`: whether a field of the profile is kept, of campaigns.
    """

    customer_id: str
    step: str
    partition: int
    state: bool
    due: bool
    listed: bool
    tombstone: bool
    events: int
    erased_until: str | None
    profile: bool


class Erasure(msgspec.Struct, frozen=True):
    """The outcome of an erasure, or of a look whether there was one.

    `ids`: all ids of the customer, the one that stays first. `sent`: empty for a mere look. `done`: nothing dated up to
    the erasure is left in any shard; else `reasons` says why not. `notes`: more that a person should know.
    `dead_letters`: the number of those that name the customer, by any id.
    """

    customer_id: str
    ids: list[str]
    sent: list[SentErasure]
    done: bool
    reasons: list[str]
    notes: list[str]
    shards_read: int
    shards: list[ShardLeft]
    dead_letters: int
    kept: list[RetainedData]
    redis: RedisFiles
    outside: list[str]


async def judged(
    redis: Redis,
    settings: Settings,
    customer_id: str,
    sent: list[SentErasure],
    found: PersonHoldings,
    now_ms: int,
) -> Erasure:
    """Return what is left of a customer after an erasure. `sent` empty: of whichever erasure the shards know.

    `customer_id`: the id that the erasure is under. Raises StoreUnreadable, KafkaUnreachable, TopicsError, RedisError.
    """
    everybody = [Mentions.of(settings, known) for known in found.person.ids]
    letters, failures = await dead_letters_about(settings, everybody)
    partitions = sorted({p for known in found.person.ids for p in shards_of(settings, known)})
    lags = await asyncio.to_thread(_lags, redis, settings, partitions, sent, await _ends(settings, sent))
    unfinished = unerased(settings, sent, found)
    reasons = (
        [*refusals("erasure", [(e.partition, e.offset) for e in sent], letters), *lags, *unfinished]
        if sent or unfinished
        else []
    )
    texts = await asyncio.to_thread(lambda: [key for who in everybody for key in status_texts(redis, settings, who)])
    return Erasure(
        customer_id=customer_id,
        ids=list(found.person.ids),
        sent=sent,
        done=not (reasons or failures),
        reasons=[*reasons, *failures],
        notes=_notes(found.all(), list(dict.fromkeys(texts)), done=not reasons),
        shards_read=len(found.by_id[customer_id]),
        shards=[
            _left(known, holding)
            for known, holdings in found.by_id.items()
            for holding in holdings
            if holding.found or holding.tombstone is not None
        ],
        dead_letters=len(letters),
        kept=await retained(settings, now_ms),
        redis=await asyncio.to_thread(redis_files, redis),
        outside=list(OUTSIDE),
    )


def unerased(settings: Settings, sent: list[SentErasure], found: PersonHoldings) -> list[str]:
    """Return why the customer isn't erased, by what the shards of both steps hold. Raises StoreUnreadable.

    `sent` empty: by the latest erasure that any shard knows.
    """
    returned = any(_events(holding) for holding in found.all() if holding.place.scoring)
    return left_by_scoring(settings, sent, found) + left_by_campaigns(found, _until(sent, found), returned=returned)


def _until(sent: list[SentErasure], found: PersonHoldings) -> dict[str, int | None]:
    """Return the instant (ms) of the erasure under each id: the one sent, or else the latest that the scoring knows."""
    known = [at for holding in found.all() if holding.place.scoring and (at := erased_until(holding)) is not None]
    latest = max((_ms(event.until) for event in sent), default=max(known, default=None))
    own = {event.customer_id: _ms(event.until) for event in sent}
    return {one: own.get(one, latest) for one in found.by_id}


def left_by_scoring(settings: Settings, sent: list[SentErasure], found: PersonHoldings) -> list[str]:
    """Return why the customer isn't erased, by what the scoring's shards hold. Raises StoreUnreadable.

    `sent` empty: by the latest erasure that any shard knows.
    """
    stays = found.person.customer_id
    holdings = found.by_id[stays]
    scoring = [holding for holding in holdings if holding.place.scoring]
    known = [at for holding in scoring if (at := erased_until(holding)) is not None]
    # Each id has an event of its own; the one that stays counts here.
    own = [event for event in sent if event.customer_id == stays] or sent
    until = {event.partition: _ms(event.until) for event in own}
    if until and not until.keys() & set(partitions := shards_of(settings, stays)):
        # It is under the id of an alias, whose shard hands it on.
        until = dict.fromkeys(partitions, max(until.values()))
    reasons = [reason for known_id in found.person.others(stays) for reason in _not_handed_on(found, known_id)]
    for holding in scoring:
        partition = holding.place.keys.partition
        at = until.get(partition, max(until.values(), default=max(known, default=None)))
        reasons += _of_scoring(settings, holding, at, expected=partition in until)
    if not sent and not known and not reasons and not any(holding.found for holding in found.all()):
        reasons.append("no shard knows an erasure of this id, or holds anything else of it: check the id")
    for holding in holdings:
        shard = holding.place.keys.shard
        reasons += [f"{key} has a type that can't be searched" for key in holding.unread]
        if holding.other_salt:
            reasons.append(
                f"shard {shard} has tombstones under another salt than SEGSTREAM_ERASURE_SALT: they can't be found"
            )
    return reasons


def _of_scoring(settings: Settings, holding: ShardHolding, until_ms: int | None, *, expected: bool) -> list[str]:
    shard = holding.place.keys.shard
    early = _events(holding, until_ms)
    if early:
        kept = f"shard {shard} keeps events of the customer ({early:,})"
        if until_ms is None:
            return [f"{kept}, and no shard knows an erasure"]
        if not expected and settings.partitioner != "none":
            reason = (
                f"{kept}, dated up to {iso(until_ms)}, though SEGSTREAM_PARTITIONER={settings.partitioner} puts this "
                "id into another shard: the producers of orders choose partitions differently, or did. Change the "
                "setting to theirs, or to none (`segstream reconfigure`), and erase again"
            )
            return [reason]
        return [f"{kept}, dated up to {iso(until_ms)}"]
    if holding.state is None and (holding.due_ms is not None or holding.listed or holding.others):
        return [f"shard {shard} has no state of the customer, but names them elsewhere. {REBUILD}"]
    if expected and until_ms is not None and (erased_until(holding) or -1) < until_ms:
        return [f"shard {shard} has no tombstone of the customer up to {iso(until_ms)}"]
    return []


def _not_handed_on(found: PersonHoldings, alias: str) -> list[str]:
    """Return which of the scoring's shards hold more of an alias than what is left of a merged id."""
    return [
        f"shard {holding.place.keys.shard} keeps a state of {alias!r}, which was merged into "
        f"{found.person.customer_id!r}: it is handed on when that shard has read the merge"
        for holding in found.by_id[alias]
        if holding.place.scoring and holding.found
    ]


def erased_until(holding: ShardHolding) -> int | None:
    """Return the instant (ms) up to which a shard of the scoring step has erased the customer; None: it hasn't.

    Raises StoreUnreadable.
    """
    times = [
        e.time for value in (holding.state, holding.tombstone) for e in _entries(holding, value) if e.kind == ERASED
    ]
    return max(times, default=None)


def _events(holding: ShardHolding, until_ms: int | None = None) -> int:
    """Count the events that a state of the scoring step keeps, those dated up to an instant; None: all."""
    return sum(e.kind != ERASED and (until_ms is None or e.time <= until_ms) for e in _entries(holding, holding.state))


def _entries(holding: ShardHolding, value: bytes | None) -> tuple[Entry, ...]:
    if value is None:
        return ()
    try:
        return entries_of(value)
    except StateFormatError as error:
        raise StoreUnreadable(
            f"the state of the customer in {holding.place.keys.states} can't be read: {error}.", hint=REBUILD
        ) from error


async def dead_letters_about(settings: Settings, ids: Sequence[Mentions]) -> tuple[list[StoredDeadLetter], list[str]]:
    """Return the dead letters that name a customer, without their contents, and why a topic couldn't be read."""
    letters, failures = [], []
    wanted = (settings.orders_dead_letters_topic, settings.changes_dead_letters_topic)
    for place in (place for place in topic_places(settings) if place.topic in wanted):
        search = TopicSearch(place)
        letters += [
            replace(read_dead_letter(found.record), key=None, value=None, headers=[])
            async for found in records_about(settings, search, AnyMentions(ids))
        ]
        if search.failure:
            failures.append(f"the dead letters can't be read, so the event may be among them: {search.failure}")
    return letters, failures


def refusals(what: str, sent_at: Sequence[tuple[int, int]], letters: Sequence[StoredDeadLetter]) -> list[str]:
    """Return why events became dead letters. `sent_at`: their partitions and offsets."""
    found = []
    for letter in letters:
        if (letter.partition, letter.offset) in sent_at:
            text = f"the {what} in partition {letter.partition} became a dead letter: {letter.reason}: {letter.message}"
            if letter.reason in _AHEAD:
                text += " Set this machine's clock, or give an earlier instant with --at"
            found.append(text)
    return found


async def _ends(settings: Settings, sent: list[SentErasure]) -> dict[int, int]:
    """Return up to which offset each shard must have read: behind the erasure, or all that there is."""
    if sent:
        return {event.partition: event.offset + 1 for event in sent}
    return await end_offsets(settings, settings.orders_topic)


def _lags(
    redis: Redis, settings: Settings, partitions: Sequence[int], sent: list[SentErasure], ends: dict[int, int]
) -> list[str]:
    """Return which shards haven't read so far yet."""
    found = []
    for partition in partitions:
        keys = ShardKeys(settings.group, settings.orders_topic, partition)
        head = read_head(redis, keys)
        offset, end = 0 if head is None else head.offset, ends.get(partition, 0)
        if offset < end:
            what = f"up to the erasure at offset {end - 1}" if sent else f"{end - offset:,} records of its log"
            found.append(
                f"shard {keys.shard} hasn't read {what} yet, and is at {offset}: a worker will, and `segstream status` "
                "shows what keeps it"
            )
    return found


def _notes(holdings: list[ShardHolding], texts: list[str], *, done: bool) -> list[str]:
    notes = [
        f"{holding.place.keys.head} names the customer as the last one of a rescore's slice, until the next slice"
        for holding in holdings
        if holding.stopped_at
    ]
    notes += [f"{key} names the customer in the text of a shard's status" for key in texts]
    later = sum(_events(holding) for holding in holdings if holding.place.scoring)
    if done and later:
        notes.append(f"events dated after the erasure are kept ({later:,}): they make a new customer of this id")
    if done and any(profile_fields(holding) for holding in holdings if not holding.place.scoring):
        notes.append("a profile dated after the erasure is kept")
    return notes


def _left(customer_id: str, holding: ShardHolding) -> ShardLeft:
    scoring = holding.place.scoring
    until = erased_until(holding) if scoring else None
    return ShardLeft(
        customer_id=customer_id,
        step="scoring" if scoring else "campaigns",
        partition=holding.place.keys.partition,
        state=holding.state is not None,
        due=holding.due_ms is not None,
        listed=holding.listed,
        tombstone=holding.tombstone is not None,
        events=_events(holding) if scoring else 0,
        erased_until=None if until is None else iso(until),
        profile=not scoring and profile_fields(holding) > 0,
    )


def _ms(text: str) -> int:
    return millis(datetime.fromisoformat(text))


def erasure_lines(found: Erasure) -> list[str]:
    """Return the outcome of an erasure as lines for people."""
    until = max((shard.erased_until for shard in found.shards if shard.erased_until), default=None)
    if found.done:
        lines = [f"{found.customer_id}: erased, everything dated up to {until}: {found.shards_read} shards were read."]
        lines.append("Redis keeps a keyed hash of the id, that instant and the number of the last move; nothing else.")
        lines.append("Events and profiles that come later and are dated up to then are dropped.")
        if len(found.ids) > 1:
            lines.append(
                f"All ids of the customer are erased: {', '.join(found.ids)}. Redis keeps, sealed, that they are one."
            )
    else:
        lines = [f"{found.customer_id}: not erased{' yet' if found.sent else ''}."]
        lines += [f"  {reason}." for reason in found.reasons]
        lines.append(
            "`segstream erase ID --check` looks again, and sends nothing. Erasing again does no harm."
            if found.sent
            else "`segstream erase ID` sends an erasure."
        )
    lines += [f"  {note}." for note in found.notes]
    if found.dead_letters:
        lines.append(f"  Dead letters that name the customer: {found.dead_letters:,}. A redrive could send them back.")
    return [*lines, *_kept_lines(found)]


def _kept_lines(found: Erasure) -> list[str]:
    lines = ["These may still hold data of this customer from before, until:"]
    width = max((len(kept.topic) for kept in found.kept), default=0)
    for kept in found.kept:
        until = kept.until or ("the next compaction" if "compact" in kept.policy else "no limit")
        lines.append(f"  {kept.topic:<{width}}  {until:<24}  {kept.holds}")
    files = found.redis
    if files.append_only_file:
        begun = "under way" if files.rewriting else "`redis-cli BGREWRITEAOF` begins one"
        lines.append(f"  Redis' append-only file, until its next rewrite: {begun}")
    if files.snapshot_at is not None:
        lines.append(f"  Redis' snapshot file, if there is one, until the next after {files.snapshot_at} (BGSAVE)")
    if files.append_only_file is None:
        lines.append("  Redis' files: it doesn't let this user ask (INFO)")
    if files.replicas:
        lines.append(f"  the files of {files.replicas} replicas of Redis")
    lines += [f"  {place}" for place in found.outside]
    lines.append("A topic's retention.ms bounds what it keeps: docs/how-to/erase-a-customer.md says what needs it.")
    return lines
