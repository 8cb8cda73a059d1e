"""Redis: one atomic commit under the head that the worker expects."""

from __future__ import annotations

from tests.protocol_model.rules import ProtocolRules
from tests.protocol_model.state import ModelRedisHead, Redis, State, Write, seen
from tests.protocol_model.world import ModelWorld


def commit(
    rules: ProtocolRules, world: ModelWorld, state: State, at: int, expected: ModelRedisHead, write: Write
) -> tuple[State, ModelRedisHead] | None:
    """Commit to Redis. Return (the new state, the head that was written).

    None: Redis holds another head, or has lost a part.
    """
    before = seen(state, at)
    if rules.compare_and_set and before.head != expected:
        return None
    if rules.count_at_commit and not before.whole:
        return None
    after = written(state, before, write)
    if before is state.old_primary:
        return state._replace(old_primary=after), after.head
    return succeeded(world, state, after), after.head


def succeeded(world: ModelWorld, state: State, after: Redis) -> State:
    """Return the state with a new version on the primary. A rollback can restore the old one."""
    return state._replace(redis=after, history=(*state.history, state.redis)[-world.lost_commits :])


def written(state: State, before: Redis, write: Write) -> Redis:
    """Return the shard with the changed customers replaced, under a head with a fresh token, which counts them."""
    customers = tuple(new or old for new, old in zip(write.customers, before.customers, strict=True))
    return Redis(write.head._replace(token=fresh(state)), customers)


def fresh(state: State) -> int:
    """Return a token that no head has."""
    held = [state.redis.head.token, *(old.head.token for old in state.history)]
    if state.old_primary:
        held.append(state.old_primary.head.token)
    if state.late:
        held.append(state.late[0].token)
    held += [slot.worker.expected.token for slot in state.slots if slot.worker and slot.worker.expected]
    return max(held) + 1
