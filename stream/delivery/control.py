"""Endpoints under the hands of an operator: looked at, disabled and enabled."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from difflib import get_close_matches
from typing import Final

import msgspec

from segmentation.event_text import iso
from stream.delivery.feed import delivery_group
from stream.delivery.journal import position_in, read_journal, state_in
from stream.delivery.outbox import latest_outcomes
from stream.delivery.positions import DeliveryPosition, EndpointState, encode_kept, position_key, state_key
from stream.delivery.recent import RecentOutcomes, recent_outcomes
from stream.delivery.window import LogPartition
from stream.errors import SegstreamError
from stream.kafka.clients import end_offsets, kafka_producer
from stream.kafka.growth import members
from stream.settings import Settings
from stream.webhooks.endpoint_file import read_endpoints

_LOOK_BACK: Final = (1_000, 20_000)  # outcomes of each partition
_SHORT: Final = 200  # characters of a reason


class EndpointRefused(SegstreamError):
    """An endpoint isn't in the state that a command needs, or isn't known at all."""


class EndpointStatus(msgspec.Struct, frozen=True):
    """How an endpoint is, as its processes last wrote it down: up to half a minute ago.

    `behind`: records not read yet, those that the endpoint doesn't get included. `waiting`: records read and not
    resolved; of these `retrying` have failed before, the next one is due at `next_attempt_at`, which may have passed:
    then it waits for the breaker or for the rate. `recent`: of its latest outcomes.
    """

    endpoint: str
    disabled_at: str | None
    why: str
    behind: int
    waiting: int
    retrying: int
    next_attempt_at: str | None
    processes: int
    recent: RecentOutcomes = RecentOutcomes()


async def endpoint_statuses(settings: Settings, names: Collection[str]) -> list[EndpointStatus]:
    """Return the status of these endpoints, and of others that have been delivered to. Raises SegstreamError."""
    latest = await read_journal(settings)
    wanted = [*names, *sorted(_known(latest) - set(names))]
    ends = await _ends(settings)
    groups = [delivery_group(settings, name) for name in wanted]
    counts = await members(settings, groups)
    found = [_status(latest, name, ends, counts.get(group, 0)) for name, group in zip(wanted, groups, strict=True)]
    recent = await _recent(settings, {status.endpoint for status in found if status.retrying})
    return [msgspec.structs.replace(s, recent=recent.get(s.endpoint, RecentOutcomes())) for s in found]


async def _recent(settings: Settings, failing: set[str]) -> dict[str, RecentOutcomes]:
    """Return what the latest outcomes say, by endpoint; look further back if one that fails isn't among them.

    One whose breaker is open has an outcome every ten minutes, and others may have thousands meanwhile.
    """
    found: dict[str, RecentOutcomes] = {}
    for most in _LOOK_BACK:
        found = recent_outcomes(await latest_outcomes(settings, most))
        if failing <= found.keys():
            break
    return found


def _status(latest: dict[bytes, bytes], name: str, ends: dict[LogPartition, int], processes: int) -> EndpointStatus:
    state = state_in(latest, name)
    found = {place: position_in(latest, name, place) for place in ends}
    positions = {place: position for place, position in found.items() if position is not None}
    waiting = [record for position in positions.values() for record in position.waiting]
    tried = [record.due_ms for record in waiting if record.attempts]
    return EndpointStatus(
        endpoint=name,
        disabled_at=state.disabled_at,
        why=state.why,
        behind=sum(max(ends[place] - position.offset, 0) for place, position in positions.items()),
        waiting=len(waiting),
        retrying=len(tried),
        next_attempt_at=iso(min(tried)) if tried else None,
        processes=processes,
    )


async def refuse_unknown(settings: Settings, name: str) -> None:
    """Return if an endpoint has been delivered to, or is in the endpoints file. Raises EndpointRefused."""
    _refuse_unknown(settings, await read_journal(settings), name)


def _refuse_unknown(settings: Settings, latest: dict[bytes, bytes], name: str) -> None:
    known = _known(latest)
    if name in known:
        return  # whatever the file is like: in an emergency it may be broken, or elsewhere
    file = settings.endpoints_file
    known |= set() if file is None else {endpoint.name for endpoint in read_endpoints(file)}
    if name in known:
        return
    near = get_close_matches(name, sorted(known), 1)
    guess = f": did you mean {near[0]}?" if near else "."
    unset = "SEGSTREAM_ENDPOINTS_FILE isn't set; it names the file of `segstream deliver`."
    hints = [
        f"Known are {', '.join(sorted(known))}." if known else "None is known.",
        *([unset] if file is None else []),
    ]
    raise EndpointRefused(f"no endpoint has the name {name!r}{guess}", hint=" ".join(hints))


def _known(latest: dict[bytes, bytes]) -> set[str]:
    """Return the endpoints with a position or a state."""
    return {key.decode(errors="replace").split(" ")[1] for key in latest if b" " in key}


async def disable_endpoint(settings: Settings, name: str, why: str, now_ms: int) -> None:
    """Let all processes stop sending to an endpoint. Its records wait. Raises SegstreamError."""
    await refuse_unknown(settings, name)
    await _write(settings, {state_key(name): encode_kept(EndpointState(iso(now_ms), why[:_SHORT]))})


async def enable_endpoint(settings: Settings, name: str, *, skip: bool = False) -> int:
    """Let deliveries to an endpoint go on where they stopped; `skip`: behind all that waits now.

    Returns how many records were skipped. Raises EndpointRefused where the endpoint isn't disabled or known.
    """
    latest = await read_journal(settings)
    _refuse_unknown(settings, latest, name)
    if state_in(latest, name).disabled_at is None:
        raise EndpointRefused(f"endpoint {name!r} isn't disabled.", hint="`segstream deliveries status` lists all.")
    kept: dict[bytes, bytes] = {}
    skipped = 0
    if skip:
        if (await members(settings, [delivery_group(settings, name)])).values():
            raise EndpointRefused(f"endpoint {name!r} has attempts under way still.", hint="Try again in a minute.")
        ends = await _ends(settings)
        outcomes = await end_offsets(settings, settings.deliveries_topic)
        for place, end in ends.items():
            before = position_in(latest, name, place)
            skipped += 0 if before is None else max(end - before.offset, 0) + len(before.waiting)
            kept[position_key(name, place)] = encode_kept(DeliveryPosition(end, outcomes[place.partition]))
    kept[state_key(name)] = encode_kept(EndpointState())  # last: until then no process reads the positions
    await _write(settings, kept)
    return skipped


async def _ends(settings: Settings) -> dict[LogPartition, int]:
    """Return the ends of what endpoints are sent, by partition."""
    topics = (settings.actions_topic, settings.redeliveries_topic)
    found = await asyncio.gather(*(end_offsets(settings, topic) for topic in topics))
    return {
        LogPartition(topic, partition): end
        for topic, ends in zip(topics, found, strict=True)
        for partition, end in ends.items()
    }


async def _write(settings: Settings, kept: dict[bytes, bytes]) -> None:
    async with kafka_producer(settings) as producer:
        for key, value in kept.items():
            await producer.send_and_wait(settings.positions_topic, value, key=key, partition=0)
