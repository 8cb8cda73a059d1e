"""A turn of a rescore: slices of customers that a new model, new settings or a backfill's end score again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from segmentation.step import Scope, Turn, TurnContext
from stream.engine.ownership import Owned, stepping

if TYPE_CHECKING:
    from stream.engine.flow_control import FlowControl
    from stream.storage.heads import HeadChange


def is_limited(context: TurnContext) -> bool:
    """Return whether SEGSTREAM_MODEL_MOVES_PER_MINUTE limits this rescore: that of a new model or new settings."""
    return context.scope in {Scope.EVERYONE, Scope.SETTINGS}


async def rescored(owned: Owned, context: TurnContext, flow: FlowControl) -> tuple[Turn, HeadChange]:
    """Score the next customers again. Return the turn, and how the rescore's place in the head changes."""
    shard, head, limited = owned.shard, owned.head, is_limited(context)
    assert owned.raw is not None
    assert head.cursor is not None
    cursor: str | None = head.cursor
    size, slices = flow.rescore_size(limited=limited), flow.rescore_slices(limited=limited)
    quiet_until = None if head.quiet is None else head.quiet.encode()
    until = time.monotonic() + shard.settings.turn_max_ms / 1000
    turn = Turn(0, head.clock)
    while cursor is not None:
        rows, found, last = await shard.store.load_slice(owned.raw, cursor, size)
        quiet = [quiet_until is None or key <= quiet_until for key, _ in rows]
        began = time.monotonic()
        decided = stepping(shard.step.rescore, rows, quiet, context)
        flow.held(found, time.monotonic() - began)
        turn.add(decided)
        cursor = None if found < size else last.decode()
        # A transaction costs the same for any number of customers: a slice that changes nothing isn't worth one.
        slices -= not is_empty(decided)
        if slices <= 0 or len(turn.outputs) >= shard.settings.turn_max_orders or time.monotonic() > until:
            break
    change: HeadChange = {"cursor": cursor}
    if cursor is None:
        change |= {"quiet": "", "scope": Scope.EVERYONE}
        turn.backfills = head.backfills.without_closed()
    return turn, change


def is_empty(turn: Turn) -> bool:
    """Return whether a turn has no effect, on Redis or in Kafka."""
    held = any(state.dirty for state in turn.held.values())
    decided = turn.outputs or turn.states or held or turn.due or turn.idle or turn.earlier
    return not (decided or turn.side_dead or turn.side_packages)
