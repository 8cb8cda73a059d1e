"""The campaigns' part of an erasure: what their shards still hold of a customer that is dated up to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentation.campaign_state import CampaignFormatError, CampaignState
from segmentation.event_text import iso

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segmentation.profiles import Profile
    from stream.traces.shard_traces import PersonHoldings, ShardHolding


def left_by_campaigns(found: PersonHoldings, until: Mapping[str, int | None], *, returned: bool) -> list[str]:
    """Return why the customer isn't erased, by what the campaigns' shards hold: their dispatcher reads later.

    `until`: the instant (ms) of the erasure under each id, which in event time goes by the clock of its shard; None:
    none is known. `returned`: later events have made a new customer of the id, who may have campaigns again.
    """
    return [
        reason
        for known, holdings in found.by_id.items()
        for holding in holdings
        if not holding.place.scoring and (reason := _left(known, holding, until[known], returned=returned)) is not None
    ]


def profile_fields(holding: ShardHolding) -> int:
    """Count the fields of the customer's profile in a shard of the campaigns; 0 too where its state can't be read."""
    try:
        return sum(_fields(state.facts.profile, None) for state in _states(holding))
    except CampaignFormatError:
        return 0


def _left(known: str, holding: ShardHolding, until_ms: int | None, *, returned: bool) -> str | None:
    shard = holding.place.keys.shard
    try:
        states = _states(holding)
    except CampaignFormatError as error:
        return f"the state of {known!r} in shard {shard} can't be read: {error}"
    fields = sum(_fields(state.facts.profile, until_ms) for state in states)
    acts = sum(_acts(state, until_ms) for state in states)
    if (fields or acts) and until_ms is not None:
        kept = " and ".join(
            [f"fields of the profile ({fields:,})"] * bool(fields) + [f"actions ({acts:,})"] * bool(acts)
        )
        return (
            f"shard {shard} keeps {kept} of {known!r}, dated up to {iso(until_ms)}: no dispatcher has read an erasure "
            "under this id yet"
        )
    if fields:
        return f"shard {shard} keeps fields of the profile ({fields:,}) of {known!r}, and no shard knows an erasure"
    if returned or not holding.found or (holding.state is not None and not any(_moved(state) for state in states)):
        return None
    return f"shard {shard} keeps the state of the customer's campaigns: no dispatcher has read the last move yet"


def _states(holding: ShardHolding) -> list[CampaignState]:
    """Return what is known under the id, and under its hash. Raises CampaignFormatError."""
    return [CampaignState.unpack(value) for value in (holding.state, holding.tombstone) if value is not None]


def _moved(state: CampaignState) -> bool:
    """Return whether the last move handled led to a segment."""
    return state.sequence > 0 and not state.erased


def _fields(profile: Profile, until_ms: int | None) -> int:
    """Count the fields of a profile that are dated up to an instant; None: all."""
    dated = [field for field in (profile.time_zone, profile.language) if field is not None]
    dated += [said for _, said in profile.consent]
    return sum(until_ms is None or field.at <= until_ms for field in dated)


def _acts(state: CampaignState, until_ms: int | None) -> int:
    """Count the actions, sent or waiting, from before an erasure; 0 where none is known."""
    if until_ms is None:
        return 0
    decided = state.decided
    instants = [act.at for act in state.acts] + [pending.candidate.moved_at for pending in decided.pendings]
    return sum(at <= until_ms for at in (*instants, *(watch.acted_at for watch in decided.watches)))
