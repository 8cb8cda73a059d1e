"""The moves that time alone will make, if nothing else happens; and the purchase that would prevent one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np

from segmentation.decisions import ScoringContext, search
from segmentation.entries import Rules
from segmentation.money import UNITS
from segmentation.outlook_figures import outlook_figures
from segmentation.output_events import OutlookFigures
from segmentation.rfm import (
    Kind,
    absorb_bytes,
    advance_bytes,
    announcement,
    entry,
    headers,
    is_silent,
    with_announcement,
)
from segmentation.scorers import AnyScorer
from segmentation.state_bytes import figures_in

_CENT: Final = UNITS // 100
_AMOUNTS: Final = tuple(
    int(digit * 10**power) * _CENT for power in range(9) for digit in (1, 2, 5)
)  # 0.01 to 5,000,000


class Ahead(NamedTuple):
    """A move to come. Segments by lasting id, 0: none; monetary in ten-thousandths and outlook as of that instant."""

    key: bytes
    at: int  # ms
    source: int
    target: int
    monetary: int
    outlook: OutlookFigures | None = None


def moves_ahead(
    rows: Iterable[tuple[bytes, bytes]], as_of: int, until: int, scoring: ScoringContext
) -> Iterator[Ahead]:
    """Yield the moves in [as_of, until) of customers (key, state), by the worker's own search: in rounds, unordered.

    Moves before `as_of`, the shard's clock, are published already. Muted customers are left out. Raises
    StateFormatError.
    """
    rules, outlook = scoring.rules, scoring.model.scorer.model.outlook
    waiting = [(key, value, as_of) for key, value in rows if not is_silent(value)]
    while waiting:
        values = [advance_bytes(value, start, rules) for _, value, start in waiting]
        found = search(values, [start for _, _, start in waiting], scoring)
        keys = [key for key, _, _ in waiting]
        waiting, moving = [], []
        for key, value, at, target, wake in zip(keys, values, *found, strict=True):
            if at < until and at <= wake:
                source, sequence, _ = announcement(value)
                after = with_announcement(advance_bytes(value, at, rules), target, sequence + 1, at)
                moving.append((Ahead(key, at, source, target, figures_in(after).monetary), after))
                waiting.append((key, after, at + 1))
            elif wake < min(until, at):
                # The search has covered the intervals up to here.
                waiting.append((key, value, wake))
        at_moves = np.array([move.at for move, _ in moving], dtype=np.int64)
        outlooks = outlook_figures(outlook, headers([after for _, after in moving]), at_moves)
        for (move, _), figures in zip(moving, outlooks, strict=True):
            yield move._replace(outlook=figures)


def keeping_purchase(value: bytes, due: int, scoring: ScoringContext) -> int | None:
    """Return the least purchase (ten-thousandths) a millisecond before `due` that keeps the customer's segment.

    Whole cents, searched on a grid of 1, 2, 5 times the powers of ten, then between its neighbours by halving. None: no
    purchase does (one may move the customer elsewhere). The scorer's own answer: with that amount the customer stays.
    """
    scorer, rules = scoring.model.scorer, scoring.rules
    before = advance_bytes(value, due - 1, rules)
    kept = _kept(before, due - 1, _AMOUNTS, scorer, rules)
    if True not in kept:
        return None
    first = kept.index(True)
    low, high = (_AMOUNTS[first - 1] if first else 0), _AMOUNTS[first]
    while high - low > _CENT:
        middle = (low + high) // 2 // _CENT * _CENT
        if _kept(before, due - 1, (middle,), scorer, rules)[0]:
            high = middle
        else:
            low = middle
    return high


def _kept(value: bytes, at: int, amounts: tuple[int, ...], scorer: AnyScorer, rules: Rules) -> list[bool]:
    """Return whether each purchase at that instant leaves the customer in its segment."""
    bought = [entry(Kind.PLACED, "purchase", at, order="purchase", amount=amount) for amount in amounts]
    head = headers([absorb_bytes(value, one, at, rules)[0] for one in bought])
    source = scorer.index_from_ids(head["segment"])
    instants = np.full(len(amounts), at, dtype=np.int64)
    stays: list[bool] = (scorer.decide(source, instants, head["last"], scorer.rest_of(head)) == source).tolist()
    return stays
