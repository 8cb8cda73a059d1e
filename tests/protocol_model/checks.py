"""The promises that are checked: those of docs/explanation/exactly-once.md, section 1, as C1 to C8.

No healthy shard may be stopped either. Of promise 4 a loss of a part of Redis is modelled; promise 5 is the same as 2.
"""

from __future__ import annotations

from tests.protocol_model.rules import ProtocolRules
from tests.protocol_model.state import CUSTOMERS, LoggedMove, ModelKafkaHead, OutputLog, State, chain, seen
from tests.protocol_model.turn import work
from tests.protocol_model.world import ModelWorld


def append(
    log: OutputLog, moves: tuple[LoggedMove, ...], latest: int = 0, letters: int = 0
) -> tuple[OutputLog, str | None]:
    """Return (the log with what a transaction publishes, the first promise that it breaks)."""
    behind = log.behind
    for move in moves:
        behind |= 1 << move.customer
    twice = log.letters & letters
    log = log._replace(behind=behind & ~latest, letters=log.letters | letters)
    if twice:
        return log, f"C7: the dead letters have records {_offsets(twice)} twice"
    for move in moves:
        segment, sequence = chain(log, move.customer)
        before = as_of(log.moves[-1]) if log.moves else log.as_of
        log = log._replace(moves=(*log.moves, move))
        if (move.before, move.sequence) != (segment, sequence + 1):
            return log, (
                f"C2: customer {move.customer} was moved {move.before} -> {move.after} as number {move.sequence}, "
                f"after segment {segment} as number {sequence}"
            )
        if move.before == move.after:
            return log, f"C2: customer {move.customer} was moved {move.before} -> {move.after}"
        if any(new < old for new, old in zip(as_of(move), before, strict=True)):
            return log, f"C6: (model, clock, offset) went back from {before} to {as_of(move)}"
    return log, None


def _offsets(bits: int) -> list[int]:
    return [at for at in range(bits.bit_length()) if bits >> at & 1]


def as_of(move: LoggedMove) -> tuple[int, int, int]:
    """Return (model, clock, offset) behind a move, none of which may go back."""
    return move.activation, move.clock, move.offset


def advance(old: ModelKafkaHead, new: ModelKafkaHead) -> str | None:
    """Return the violation of C6 by a new head, if any: offset, number, clock or activation went back."""
    if any(b < a for a, b in zip(old[:4], new[:4], strict=True)):
        return f"C6: Kafka's head went back, from {tuple(old[:4])} to {tuple(new[:4])}"
    return None


def at_rest(rules: ProtocolRules, world: ModelWorld, state: State) -> bool:
    """Return whether nothing is left to do: one worker is idle, the other is down, and nothing is in flight."""
    if not state.redis.whole and rules.count_at_load:
        return False
    if state.late or state.old_primary or any(slot.transaction for slot in state.slots):
        return False
    alive = [at for at, slot in enumerate(state.slots) if slot.worker]
    if len(alive) != 1:
        return False
    worker = state.slots[alive[0]].worker
    assert worker is not None
    if worker.phase != "running" or (rules.poll_compares and seen(state, alive[0]).head != worker.expected):
        return False
    assert worker.expected is not None
    if worker.expected.offset < state.begin:
        return False
    return next(work(rules, world, state, alive[0]), None) is None


def rest(world: ModelWorld, state: State) -> str | None:
    """Return the violation of C1, C3 or C7 in a state at rest, if any."""
    if state.log.behind:
        return f"C7: the compacted topic lacks the last move of customers {_offsets(state.log.behind)}"
    if lacking := world.unusable(state.begin, world.end(state.begin)) & ~state.log.letters:
        return f"C7: the dead letters lack records {_offsets(lacking)}"
    for customer in range(CUSTOMERS):
        there = state.redis.customers[customer]
        if world.all_orders(customer, state.begin) & ~there.orders:
            return f"C1: an order of customer {customer} is not in Redis"
        last = chain(state.log, customer)
        # Without an order, because all were lost, a customer keeps the last segment.
        want = world.segment(customer, there.orders, state.clock, state.published) if there.orders else last[0]
        if last[0] != want:
            return f"C3: customer {customer} was last moved to {last[0]}, the model gives {want}"
        if (there.announced, there.sequence) != last:
            return f"C3: of customer {customer} Redis has {there.announced, there.sequence}, the log {last}"
    return None
