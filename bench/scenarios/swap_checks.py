"""Check of a model's activation against the worker's own rule, customer by customer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from bench.scenarios.moves_seen import SeenMove
from segmentation.decisions import CompiledModel, ScoringContext
from segmentation.entries import Rules
from segmentation.output_events import Cause
from segmentation.rfm import announcement, with_announcement
from segmentation.shadow import verdicts

_SHOWN = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER_MOVED: tuple[SeenMove, ...] = ()


@dataclass(slots=True)
class Judged:
    """The customers without orders during the swap, by outcome."""

    moved: int = 0  # once, as the rule says
    stayed: int = 0  # unchanged, to the byte
    by_time: int = 0  # moved by time during the swap: only the chain of their moves is checked
    problems: list[str] = field(default_factory=list)


def judge(
    before: Mapping[bytes, bytes],
    after: Mapping[bytes, bytes],
    moves: Mapping[str, Sequence[SeenMove]],
    model: CompiledModel,
    span_ms: tuple[int, int],
    rules: Rules,
) -> Judged:
    """Compare states and moves with the verdicts at both ends of the span; where these differ, either is right."""
    judged = Judged()
    rows = list(before.items())
    begin, end = (verdicts(rows, at, ScoringContext.of(model, 0, rules)) for at in span_ms)
    for early, late in zip(begin, end, strict=True):
        key = early.key
        own = moves.get(key.decode(), _NEVER_MOVED)
        if any(move.cause != Cause.MODEL for move in own):
            judged.by_time += 1
            continue
        wrong = _wrong(before[key], after.get(key), own, {early.segment, late.segment}, model)
        if wrong and len(judged.problems) < _SHOWN:
            judged.problems.append(f"{key.decode()}: {wrong}")
        judged.moved += bool(own)
        judged.stayed += not own
    return judged


def _wrong(
    before: bytes, after: bytes | None, moves: Sequence[SeenMove], right: set[int], model: CompiledModel
) -> str | None:
    """Return the problem with one customer; None: there is none."""
    announced, sequence, _ = announcement(before)
    name = model.writer.name
    if not moves:
        if announced not in right:
            return f"stayed in {name(announced)}, expected {sorted(map(str, map(name, right)))}"
        return None if after == before else "has no move, but the state has changed"
    [move, *more] = moves
    target = next((segment for segment in right if name(segment) == move.target), announced)
    if more or target == announced:
        return f"has the moves {[(m.source, m.target) for m in moves]}, expected {sorted(map(str, map(name, right)))}"
    if (move.source, move.sequence) != (name(announced), sequence + 1):
        return f"has the move number {move.sequence} from {move.source}, expected {name(announced)}, {sequence + 1}"
    at = (move.occurred_at - _EPOCH) // timedelta(milliseconds=1)
    if after != with_announcement(before, target, sequence + 1, at):
        return "has a state that differs from the one before by more than this move"
    return None
