"""Whether a model's start did what the worker's own rule says it must, customer by customer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from bench.scenarios.moves_seen import SeenMove
from segmentation.decisions import CompiledModel, ScoringContext
from segmentation.entries import Rules
from segmentation.events import Cause
from segmentation.rfm import announcement, with_announcement
from segmentation.shadow import verdicts

_SHOWN = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER_MOVED: tuple[SeenMove, ...] = ()


@dataclass(slots=True)
class Judged:
    """What became of customers who ordered nothing meanwhile."""

    moved: int = 0  # once, as they must
    stayed: int = 0  # untouched, to the byte
    by_time: int = 0  # time moved them meanwhile: only the chain of their moves is looked at
    problems: list[str] = field(default_factory=list)


def judge(
    before: Mapping[bytes, bytes],
    after: Mapping[bytes, bytes],
    moves: Mapping[str, Sequence[SeenMove]],
    model: CompiledModel,
    span_ms: tuple[int, int],
    rules: Rules,
) -> Judged:
    """Compare states and moves with `verdicts`, asked at both ends of the start; where these differ either will do."""
    judged = Judged()
    rows = list(before.items())
    begin, end = (verdicts(rows, at, ScoringContext.of(model, 0, rules)) for at in span_ms)
    for early, late in zip(begin, end, strict=True):
        key = early.key
        told = moves.get(key.decode(), _NEVER_MOVED)
        if any(move.cause != Cause.MODEL for move in told):
            judged.by_time += 1
            continue
        wrong = _wrong(before[key], after.get(key), told, {early.segment, late.segment}, model)
        if wrong and len(judged.problems) < _SHOWN:
            judged.problems.append(f"{key.decode()}: {wrong}")
        judged.moved += bool(told)
        judged.stayed += not told
    return judged


def _wrong(
    before: bytes, after: bytes | None, told: Sequence[SeenMove], right: set[int], model: CompiledModel
) -> str | None:
    """Say what is wrong with one customer; None: nothing."""
    announced, sequence, _ = announcement(before)
    name = model.writer.name
    if not told:
        if announced not in right:
            return f"stayed in {name(announced)}, expected {sorted(map(str, map(name, right)))}"
        return None if after == before else "was told nothing, but the state has changed"
    [move, *more] = told
    target = next((segment for segment in right if name(segment) == move.target), announced)
    if more or target == announced:
        return f"was told {[(m.source, m.target) for m in told]}, expected {sorted(map(str, map(name, right)))}"
    if (move.source, move.sequence) != (name(announced), sequence + 1):
        return f"was told from {move.source} as number {move.sequence}, expected {name(announced)}, {sequence + 1}"
    at = (move.occurred_at - _EPOCH) // timedelta(milliseconds=1)
    if after != with_announcement(before, target, sequence + 1, at):
        return "has a state that isn't the one before with this move noted in it"
    return None
