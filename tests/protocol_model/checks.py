"""What must hold: C1 to C3 and C6 of docs/explanation/exactly-once.md, and that no healthy shard is stopped. (C4 isn't modelled; C5 is C2.)"""

from __future__ import annotations

from tests.protocol_model.rules import ProtocolRules
from tests.protocol_model.state import CUSTOMERS, LoggedMove, ModelKafkaHead, OutputLog, State, chain, seen
from tests.protocol_model.turn import work
from tests.protocol_model.world import ModelWorld


def append(told: OutputLog, moves: tuple[LoggedMove, ...]) -> tuple[OutputLog, str | None]:
    """(the log with the moves, the first promise they break)."""
    for move in moves:
        segment, sequence = chain(told, move.customer)
        last = as_of(told.moves[-1]) if told.moves else told.as_of
        told = told._replace(moves=(*told.moves, move))
        if (move.before, move.sequence) != (segment, sequence + 1):
            return told, (
                f"C2: customer {move.customer} was told {move.before} -> {move.after} as number {move.sequence}, "
                f"after segment {segment} as number {sequence}"
            )
        if move.before == move.after:
            return told, f"C2: customer {move.customer} was told {move.before} -> {move.after}"
        if any(new < old for new, old in zip(as_of(move), last, strict=True)):
            return told, f"C6: (model, clock, offset) went back from {last} to {as_of(move)}"
    return told, None


def as_of(move: LoggedMove) -> tuple[int, int, int]:
    """What stands behind a move, none of which ever goes back."""
    return move.activation, move.clock, move.offset


def advance(old: ModelKafkaHead, new: ModelKafkaHead) -> str | None:
    """C6 for the head: offset, number, clock, activation."""
    if any(b < a for a, b in zip(old[:4], new[:4], strict=True)):
        return f"C6: Kafka's head went back, from {tuple(old[:4])} to {tuple(new[:4])}"
    return None


def at_rest(rules: ProtocolRules, world: ModelWorld, state: State) -> bool:
    """Whether nothing is left to do: one worker idles by its own lights, the other is down, and nothing is in flight."""
    if state.late or state.old_primary or any(slot.transaction for slot in state.slots):
        return False
    alive = [at for at, slot in enumerate(state.slots) if slot.worker]
    if len(alive) != 1:
        return False
    worker = state.slots[alive[0]].worker
    assert worker is not None
    if worker.phase != "running" or (rules.poll_compares and seen(state, alive[0]).head != worker.expected):
        return False
    return next(work(rules, world, state, alive[0]), None) is None


def rest(world: ModelWorld, state: State) -> str | None:
    """C1 and C3 where everything rests."""
    for customer in range(CUSTOMERS):
        there = state.redis.customers[customer]
        orders = world.all_orders(customer)
        if there.orders != orders:
            return f"C1: an order of customer {customer} is not in Redis"
        told = chain(state.told, customer)
        want = world.segment(customer, orders, state.clock, state.published)
        if told[0] != want:
            return f"C3: customer {customer} was last told {told[0]}, the model gives {want}"
        if (there.announced, there.sequence) != told:
            return f"C3: of customer {customer} Redis has {there.announced, there.sequence}, the log {told}"
    return None
