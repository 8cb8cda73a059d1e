"""How often the interval of `segstream campaigns uplift` is right, as Markdown: `python -m bench.studies.uplift`.

A path is one campaign, looked at every day. Its interval is right if the true difference is in it at every look at
which there is an interval; a false alarm is a look at which a campaign that does no harm is said to harm. Beside it the
same paths are judged by simpler intervals, to show what each of its parts is worth.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from bench.studies.shop_logs import shops
from bench.studies.uplift_shops import (
    CampaignShop,
    Change,
    Outcomes,
    RealCustomers,
    Tail,
    path,
    random_shop,
    real_customers,
    real_path,
)
from stream.uplift.interval import CONFIDENCE, Sums, boundary, difference, running_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PATHS: Final = 200  # of one shop
WAYS: Final = (
    "daily look at an ordinary 95 % interval",
    "confidence sequence alone",
    "spend",
    "orders",
)
_NORMAL: Final = 1.959964
_SIZES: Final = ((1_000, 0.5), (5_000, 0.1), (30_000, 0.1), (30_000, 0.03))  # customers, and the share held out
_TAILS: Final[tuple[tuple[Tail, float], ...]] = (("lognormal", 1.0), ("pareto", 2.2))
_CHANGES: Final[tuple[tuple[Change, float], ...]] = (
    ("none", 0.0),
    ("orders", -0.7),
    ("orders", -1.0),
    ("amounts", -0.9),
    ("amounts", 3.0),
)


class PathTally(NamedTuple):
    """Counts of paths. `given`: with an interval at some look; `wrong`: of those, the truth was outside at some look.

    `harmless`: paths of campaigns that do no harm; `alarms`: those of them with a false alarm.
    """

    paths: int = 0
    given: int = 0
    wrong: int = 0
    harmless: int = 0
    alarms: int = 0

    def plus(self, other: PathTally) -> PathTally:
        """Return both together."""
        return PathTally(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def coverage(self) -> float:
        """The share of the paths with an interval on which it was right at every look."""
        return 1.0 - self.wrong / max(self.given, 1)

    @property
    def false_alarms(self) -> float:
        """The share of the harmless paths on which harm was said at some look."""
        return self.alarms / max(self.harmless, 1)


class ShopResult(NamedTuple):
    """A shop's tallies, by way of judging."""

    shop: CampaignShop
    tallies: dict[str, PathTally]
    explained: float  # mean share of the variance that the spend before explains, at the end


def judge_shop(job: tuple[CampaignShop, int, int, RealCustomers | None]) -> ShopResult:
    """Return what a number of paths through one shop show. `job`: the shop, paths, seed, and real customers if any."""
    shop, paths, seed, real = job
    rng = np.random.default_rng(seed)
    tallies, explained = dict.fromkeys(WAYS, PathTally()), 0.0
    for _ in range(paths):
        outcomes = path(shop, rng) if real is None else real_path(real, shop, rng)
        spend = sums_of(outcomes, outcomes.after, outcomes.before, shop.days)
        orders = sums_of(outcomes, outcomes.orders_after, outcomes.orders_before, shop.days)
        final = difference(*spend)
        explained += float(final.explained[-1])
        bounds = {
            WAYS[0]: simple(*spend, lambda n: np.full_like(n, _NORMAL)),
            WAYS[1]: simple(*spend, lambda n: boundary(n, CONFIDENCE)),
            WAYS[2]: (final.low, final.high),
            WAYS[3]: difference(*orders)[1:3],
        }
        for way, (low, high) in bounds.items():
            true = outcomes.true_orders if way == "orders" else outcomes.true_spend
            tallies[way] = tallies[way].plus(judged(low, high, true))
    return ShopResult(shop, tallies, explained / paths)


def sums_of(outcomes: Outcomes, after: Floats, before: Floats, looks: int) -> tuple[Sums, Sums]:
    """Return the figures of both groups at each look."""
    groups = (outcomes.treated, ~outcomes.treated)
    treated, held_out = (running_sums(after[of], before[of], outcomes.day[of], looks) for of in groups)
    return treated, held_out


def simple(treated: Sums, held_out: Sums, reach: Callable[[Floats], Floats]) -> tuple[Floats, Floats]:
    """Return a symmetric interval by the groups' own variances, from two buyers in each group on."""
    n, m = np.maximum(treated.customers, 2.0), np.maximum(held_out.customers, 2.0)
    error = np.sqrt(np.maximum(treated.yy / n / (n - 1) + held_out.yy / m / (m - 1), 0.0)) * reach(n * m / (n + m))
    value = treated.y - held_out.y
    known = (treated.buyers > 1) & (held_out.buyers > 1)
    return np.where(known, value - error, np.nan), np.where(known, value + error, np.nan)


def judged(low: Floats, high: Floats, true: Floats) -> PathTally:
    """Return the tally of one path."""
    given = not np.isnan(low).all()
    wrong = bool(((low > true) | (high < true)).any())
    harmless = bool((true >= 0.0).all())
    return PathTally(1, int(given), int(wrong), int(harmless), int(harmless and bool((high < 0.0).any())))


def random_jobs(count: int, paths: int, seed: int) -> Iterator[tuple[CampaignShop, int, int, None]]:
    """Yield jobs for shops drawn at random."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        yield random_shop(rng), paths, seed * 1_000_000 + number, None


def hard_jobs(paths: int, seed: int) -> Iterator[tuple[CampaignShop, int, int, None]]:
    """Yield jobs for shops that are hard on an interval: few customers place most orders, and effects are large."""
    for number, ((customers, share), tail, change) in enumerate(product(_SIZES, _TAILS, _CHANGES)):
        yield CampaignShop(customers, share, 0.3, 0.5, *tail, *change), paths, seed * 1_000_000 + 900_000 + number, None


def real_jobs(data: Path | None, paths: int, seed: int) -> Iterator[tuple[CampaignShop, int, int, RealCustomers]]:
    """Yield jobs for campaigns among the customers of real shops."""
    for title, read in shops(data).items():
        if title not in {"CDNOW", "Online Retail"}:
            continue
        real = real_customers(read())
        for customers, share in ((1_000, 0.1), (5_000, 0.1), (20_000, 0.1), (5_000, 0.5)):
            for number, effect in enumerate((0.0, -0.5, 0.5)):
                shop = CampaignShop(customers, share, 0.0, 0.0, "lognormal", 0.0, "amounts", effect)
                yield shop, paths, seed * 1_000_000 + 500_000 + customers + number, real


def line(title: str, results: Sequence[ShopResult]) -> str:
    """Return a row of a table: coverage and false alarms by way, and how often there is an interval of the spend."""
    tallies = {way: together(result.tallies[way] for result in results) for way in WAYS}
    cells = [f"{tallies[way].coverage:.1%} · {tallies[way].false_alarms:.1%}" for way in WAYS]
    given = " · ".join(f"{tallies[way].given / max(tallies[way].paths, 1):.0%}" for way in WAYS[2:])
    spend = [result.tallies["spend"] for result in results]
    # A shop with an interval on few of its paths has too few of them to tell.
    worst = min((tally.coverage for tally in spend if 2 * tally.given >= tally.paths), default=1.0)
    return f"| {title} | {' | '.join(cells)} | {given} | {worst:.1%} |"


def together(tallies: Iterable[PathTally]) -> PathTally:
    """Return all tallies together."""
    total = PathTally()
    for tally in tallies:
        total = total.plus(tally)
    return total


HEADER: Final = f"| | {' | '.join(WAYS)} | with an interval: spend · orders | worst shop: spend |\n|---|" + "---|" * (
    len(WAYS) + 2
)


def groups_of(results: Sequence[ShopResult]) -> Iterator[tuple[str, list[ShopResult]]]:
    """Yield the shops by what could matter, each with its title."""
    by: dict[str, Callable[[CampaignShop], bool]] = {
        "all": lambda _: True,
        "up to 1,000 customers": lambda s: s.customers <= 1_000,
        "1,000 to 10,000": lambda s: 1_000 < s.customers <= 10_000,
        "more": lambda s: s.customers > 10_000,
        "3 or 5 % held out": lambda s: s.share <= 0.05,
        "10 or 20 %": lambda s: 0.05 < s.share <= 0.2,
        "half": lambda s: s.share > 0.2,
        "lognormal, spread to 0.8": lambda s: s.tail == "lognormal" and s.weight <= 0.8,
        "lognormal, to 1.3": lambda s: s.tail == "lognormal" and 0.8 < s.weight <= 1.3,
        "lognormal, to 1.8": lambda s: s.tail == "lognormal" and s.weight > 1.3,
        "Pareto, exponent to 2.5": lambda s: s.tail == "pareto" and s.weight <= 2.5,
        "Pareto, to 4": lambda s: s.tail == "pareto" and s.weight > 2.5,
        "no effect": lambda s: s.change == "none",
        "harm": lambda s: s.effect < 0,
        "gain": lambda s: s.effect > 0,
    }
    for title, belongs in by.items():
        yield title, [result for result in results if belongs(result.shop)]


def widths(paths: int, seed: int) -> Iterator[str]:
    """Yield a table: from which effect on a campaign is shown to help, as a share of what the control group does."""
    yield "| customers | held out | orders per customer | effect on orders | on spend |\n|---:|---:|---:|---:|---:|"
    for customers, share, orders in product((3_000, 10_000, 30_000, 100_000), (0.1, 0.5), (0.05, 0.3)):
        shop, rng = CampaignShop(customers, share, orders, 1.0, "lognormal", 0.8, days=1), np.random.default_rng(seed)
        found: list[list[float]] = [[], []]
        for _ in range(paths):
            outcomes = path(shop, rng)
            pairs = ((outcomes.orders_after, outcomes.orders_before), (outcomes.after, outcomes.before))
            for ratios, pair in zip(found, pairs, strict=True):
                groups = sums_of(outcomes, *pair, shop.days)
                figures = difference(*groups)
                ratios.append(float((figures.value - figures.low)[0] / groups[1].y[0]))
        cells = ["too few" if np.isnan(of).mean() > 0.5 else f"{np.nanmedian(of):.0%}" for of in map(np.array, found)]
        yield f"| {customers:,} | {share:.0%} | {orders} | {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study. Return the exit code: 1 where coverage or false alarms miss what is promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shops", type=int, default=300, help="shops drawn at random")
    parser.add_argument("--paths", type=int, default=PATHS, help="of each shop")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--data", type=Path, help="folder with online_retail/orders.csv.gz; CDNOW is there without it")
    chosen = parser.parse_args(argv)
    write = partial(print, flush=True)
    write(HEADER)
    with ProcessPoolExecutor(chosen.processes) as pool:
        found = list(pool.map(judge_shop, random_jobs(chosen.shops, chosen.paths, chosen.seed), chunksize=4))
        for title, results in groups_of(found):
            write(line(title, results))
        harder = list(pool.map(judge_shop, hard_jobs(2 * chosen.paths, chosen.seed)))
        write(line("hard ones", harder))
        real: dict[str, list[ShopResult]] = {}
        jobs = list(real_jobs(chosen.data, chosen.paths, chosen.seed))
        for job, result in zip(jobs, pool.map(judge_shop, jobs), strict=True):
            real.setdefault(job[3].title, []).append(result)
        for title, results in real.items():
            write(line(f"customers of {title}", results))
    for row in widths(max(chosen.paths // 10, 1), chosen.seed):
        write(row)
    everything = [found, harder, *real.values()]
    total = [together(result.tallies[way] for result in results) for results in everything for way in WAYS[2:]]
    return int(any(tally.coverage < 0.94 or tally.false_alarms > 0.05 for tally in total))


if __name__ == "__main__":
    sys.exit(main())
