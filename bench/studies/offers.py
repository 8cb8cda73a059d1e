"""Do campaigns write to the right customers? The built-in rules before a change and after, on real and simulated shops.

    python -m bench.studies.offers --data DIR [--only "CDNOW"] [--json FILE]

A model of each recipe is trained at the start, and the orders after it are replayed in event time through the worker's
own scoring step. The moves go through the campaign step. Each action that takes money off is looked at: was the
customer on rhythm, and did an order come anyway?
"""

from __future__ import annotations

import argparse
import json
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from bench.studies.memory_replay import MemoryRecord, MemoryReplay
from bench.studies.shop_logs import ShopLog, book_of, shops, usual_gaps
from bench.studies.worth import trained
from segmentation.campaigns import CampaignStep, RuleTable, default_rules, parse_rules
from segmentation.entries import DAY_MS, PLACED
from segmentation.output_events import CampaignAction, OutputEvent
from segmentation.rfm import Rules
from segmentation.step import Output, TurnContext
from stream.orders.rows import parse_at
from trainer.training.plan import of_recipe
from trainer.training.recipe import RecipeName

ANYWAY_DAYS: Final = 30
FORMER: Final = Path(__file__).parent / "former_rules.yaml"
RUNS: Final[tuple[tuple[RecipeName, str], ...]] = (("rfm", "former"), ("rfm", "built-in"), ("rhythm", "built-in"))
_OFFERS: Final = ("%", "voucher", "offer")  # in the text of an action, but for VIP offers


class OfferFigures(NamedTuple):
    """The offers of a table of rules: how many were on rhythm, and how many customers ordered anyway."""

    title: str
    recipe: str
    rules: str
    actions: int
    offers: int
    on_rhythm: int  # silent for no longer than their usual gap
    within_gap: int  # ordered within their usual gap after the offer
    within_30_days: int
    campaigns: dict[str, int]


def takes_money_off(action: str) -> bool:
    """Return whether an action is an offer.

    >>> [takes_money_off(one) for one in ("Win-back with 20 % off", "VIP offers and early access", "Onboarding")]
    [True, False, False]
    """
    return "VIP" not in action and any(word in action.lower() for word in _OFFERS)


def figures(
    actions: Iterable[CampaignAction], orders: Mapping[str, Sequence[int]], gaps: Mapping[str, float]
) -> tuple[int, int, int, int]:
    """Return offers, and of them those on rhythm, and those before an order within the usual gap, and in 30 days.

    `orders`: instants (ms), ascending; `gaps`: usual gaps in days.
    """
    offers = on_rhythm = within_gap = soon = 0
    for action in actions:
        if not takes_money_off(action.action):
            continue
        at, own, gap = parse_at(action.occurred_at), orders[action.customer_id], gaps.get(action.customer_id, 0.0)
        place = bisect_right(own, at)
        offers += 1
        on_rhythm += bool(place) and at - own[place - 1] <= gap * DAY_MS
        if place < len(own):
            within_gap += own[place] - at <= gap * DAY_MS
            soon += own[place] - at <= ANYWAY_DAYS * DAY_MS
    return offers, on_rhythm, within_gap, soon


def acted(outputs: Sequence[Output], table: RuleTable) -> list[CampaignAction]:
    """Return the actions for moves, by the campaign step."""
    step = CampaignStep(table, "bench", event_time=True)
    context = TurnContext(-1, 0)
    plan = step.plan([MemoryRecord(i, 0, move.key, move.value) for i, move in enumerate(outputs)], 0, context)
    turn = step.decide(plan, [None] * len(plan.keys), (), more=False, context=context)
    events = (msgspec.json.decode(output.value, type=OutputEvent) for output in turn.outputs)
    return [event for event in events if isinstance(event, CampaignAction)]


def study(log: ShopLog) -> list[OfferFigures]:
    """Measure one shop: the former default, and the present one."""
    book = book_of(log)
    snapshot = book.as_of(log.start_ms)
    gaps = usual_gaps(book, snapshot, book.as_of(log.end_ms - 1))
    orders = {key.decode(): [e.time for e in own if e.kind == PLACED] for key, own in book.entries.items()}
    before = MemoryReplay(log.currency, Rules())
    before.send([row for row in log.rows if row.at_ms < log.start_ms], until_ms=log.start_ms)
    tables = {"former": parse_rules(FORMER.read_text("utf-8")), "built-in": parse_rules(default_rules())}
    found = []
    for recipe, rules in RUNS:
        training = trained(snapshot, of_recipe(recipe))
        assert training.trained is not None
        shard = before.copy(dwell_ms=0)
        shard.start(training.trained.model)
        shard.send([row for row in log.rows if row.at_ms >= log.start_ms], until_ms=log.end_ms)
        actions = acted(shard.outputs, tables[rules])
        campaigns = dict(Counter(action.campaign for action in actions).most_common())
        offers = figures(actions, orders, gaps)
        found.append(OfferFigures(log.title, recipe, rules, len(actions), *offers, campaigns))
    return found


def main() -> int:
    """Run the study, print a row for each shop, recipe and table of rules."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.offers", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder that has online_retail/orders.csv.gz")
    parser.add_argument("--only", nargs="*", help="titles of the shops")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: list[OfferFigures] = []
    print("| shop | recipe | rules | actions | offers | on rhythm | ordered within the usual gap | within 30 days |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for title, read in shops(arguments.data).items():
        if arguments.only is None or title in arguments.only:
            for one in study(read()):
                found.append(one)
                print(f"| {' | '.join(f'{x:,}' if isinstance(x, int) else str(x) for x in one[:-1])} |", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([one._asdict() for one in found], indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
