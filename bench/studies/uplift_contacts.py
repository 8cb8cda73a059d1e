"""The customers to leave out when two campaigns reach them: `python -m bench.studies.uplift_contacts`, as Markdown.

Two campaigns hold out a tenth each, independently. The effect of the first is known: that of the same customers with
and without it. The second campaign reaches customers of the first within the time after. It is measured how far the
difference between the groups is from the truth, if such customers stay, if they are left out where the second campaign
put them into the other group, and if all of them are left out.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

_SHARE: Final = 0.1
_ORDERS: Final = 0.4
_SPEND: Final = 50.0


class TwoCampaigns(NamedTuple):
    """A case. `effect`: of the first campaign on orders; `follows`: the second one is set off by an order after it."""

    title: str
    effect: float
    follows: bool


CASES: Final = (
    TwoCampaigns("no effect, the second reaches active customers", 0.0, follows=False),
    TwoCampaigns("20 % more orders, the second reaches active customers", 0.2, follows=False),
    TwoCampaigns("no effect, the second follows an order", 0.0, follows=True),
    TwoCampaigns("20 % more orders, the second follows an order", 0.2, follows=True),
)
RULES: Final = ("all stay", "left out: in the other group", "left out: all reached")


class TwoOutcome(NamedTuple):
    """The true difference per customer, and the one found by each of RULES."""

    true: float
    found: tuple[float, ...]


def outcome(case: TwoCampaigns, customers: int, rng: np.random.Generator) -> TwoOutcome:
    """Return what the groups of the first campaign show."""
    active = rng.gamma(1.0, 1.0, customers)
    held_out, second_held_out = (rng.random(customers) < _SHARE for _ in range(2))
    luck = rng.random(customers)
    # The same luck with and without the campaign, so that the truth has no noise of its own.
    counts = [_orders(luck, _ORDERS * active * (1.0 + case.effect * treated)) for treated in (True, False)]
    orders = np.where(held_out, counts[1], counts[0])
    reached = orders > 0 if case.follows else rng.random(customers) < 1.0 - np.exp(-active)
    rules: tuple[Flags, ...] = (reached & False, reached & (held_out != second_held_out), reached)
    found = [_difference(orders, held_out, ~left_out) for left_out in rules]
    return TwoOutcome(float((counts[0] - counts[1]).mean()) * _SPEND, tuple(found))


def _orders(luck: Floats, rate: Floats) -> Floats:
    """Return Poisson counts by inversion, up to 12."""
    chance = np.exp(-rate)
    below, count = chance.copy(), np.zeros(len(rate))
    for number in range(1, 13):
        count += luck > below
        chance = chance * rate / number
        below += chance
    return count


def _difference(orders: Floats, held_out: Flags, kept: Flags) -> float:
    treated, control = orders[kept & ~held_out].mean(), orders[kept & held_out].mean()
    return float(treated - control) * _SPEND


def lines(customers: int, seed: int) -> Iterator[str]:
    """Yield the table."""
    yield f"| spend per customer: | true difference | {' | '.join(RULES)} |"
    yield "|---|" + "---:|" * (len(RULES) + 1)
    for case in CASES:
        result = outcome(case, customers, np.random.default_rng(seed))
        yield f"| {case.title} | {result.true:+.2f} | {' | '.join(f'{value:+.2f}' for value in result.found)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=4_000_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(argv)
    for line in lines(chosen.customers, chosen.seed):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
