"""The figures of the study on offers, counted by hand."""

from __future__ import annotations

import pytest

from bench.studies.offers import FORMER, figures
from segmentation.campaigns import parse_rules
from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.output_events import CampaignAction


def _action(customer: str, day: int, text: str) -> CampaignAction:
    return CampaignAction(
        id=f"{customer}{day}", customer_id=customer, campaign="c", segment="Lost", action=text, channel="email",
        reason="", change_id="", occurred_at=iso(day * DAY_MS),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("orders", "found"),
    [
        ([0], (1, 0, 0, 0)),
        ([5], (1, 1, 0, 0)),
        ([5, 17], (1, 1, 1, 1)),
        ([0, 25], (1, 0, 0, 1)),
        ([0, 41], (1, 0, 0, 0)),
        ([0, 10], (1, 1, 0, 0)),  # the order at that instant is what set it off
    ],
)
def test_an_offer_is_judged_by_the_orders_around_it(orders: list[int], found: tuple[int, int, int, int]) -> None:
    actions = [_action("c", 10, "20 % off"), _action("c", 10, "Onboarding")]
    assert figures(actions, {"c": [day * DAY_MS for day in orders]}, {"c": 7.0}) == found


def test_the_former_rules_are_rules() -> None:
    assert len(parse_rules(FORMER.read_text("utf-8")).rules) == 12
