from __future__ import annotations

import numpy as np
import pytest

from segmentation.entries import DAY_MS, Rules
from segmentation.event_text import iso
from stream.orders.rows import merged, placed
from stream.uplift.contacts import Contact, Contacts
from stream.uplift.interval import difference, sums
from stream.uplift.measure import CampaignUplift, UpliftFigures, UpliftRequest, UpliftVerdict, measure, verdict_of
from stream.uplift.purchases import PurchaseHistories
from stream.uplift.summary import HEADINGS, alarms, notes, rows

START = 1_780_000_000_000
NOW = START + 100 * DAY_MS


def request(since_ms: int = 0) -> UpliftRequest:
    return UpliftRequest(since_ms, NOW, 30, Rules(), "EUR")


def figures(low: float | None, high: float | None) -> UpliftFigures:
    return UpliftFigures(difference=0.0, low=low, high=high, buyers=0, needed=20, explained=0.0)


class ReachedShop:
    """Customers of one campaign: each was reached on day 0, and orders before and after."""

    def __init__(self) -> None:
        self.contacts = Contacts()
        self.contacts.campaigns.append("win-back")
        self.purchases = PurchaseHistories(self.contacts.by_customer, "EUR")
        self.orders = 0

    def reach(self, customer: str, *, held_out: bool, day: float = 0) -> None:
        self.contacts.by_customer.setdefault(customer, []).append(Contact(START + int(day * DAY_MS), 0, held_out))

    def order(self, customer: str, day: float, amount: float) -> None:
        self.orders += 1
        row = placed(str(self.orders), customer, START + int(day * DAY_MS), round(amount * 10_000), "EUR")
        self.purchases.take_row(row)

    def uplift(self) -> CampaignUplift:
        (found,) = measure(request(), self.contacts, self.purchases).campaigns
        return found


def many(effect: float, customers: int = 4_000) -> tuple[ReachedShop, list[list[tuple[float, float, int]]]]:
    """Return a shop, and of each group each customer's spend after and before, and its orders after."""
    rng, shop = np.random.default_rng(1), ReachedShop()
    truth: list[list[tuple[float, float, int]]] = [[], []]
    for number in range(customers):
        held_out = number % 4 == 0
        shop.reach(f"c{number}", held_out=held_out)
        after, before = int(rng.poisson(0.4 if held_out else 0.4 * effect)), int(rng.poisson(1.0))
        spent = [[float(rng.integers(10, 60)) for _ in range(count)] for count in (after, before)]
        for amount in spent[0]:
            shop.order(f"c{number}", rng.uniform(0.1, 29), amount)
        for amount in spent[1]:
            shop.order(f"c{number}", -rng.uniform(0.1, 89), amount)
        shop.order(f"c{number}", -91, 1_000.0)
        shop.order(f"c{number}", 30.5, 1_000.0)
        truth[held_out].append((sum(spent[0]), sum(spent[1]), after))
    return shop, truth


def test_the_figures_are_those_of_the_customers() -> None:
    shop, truth = many(effect=1.5)
    found = shop.uplift()
    columns = [np.array(group).T for group in truth]
    expected = difference(*(sums(after, before) for after, before, _ in columns))
    assert found.spend is not None
    assert found.orders is not None
    assert (found.spend.difference, found.spend.low, found.spend.high) == pytest.approx(
        (expected.value[0], expected.low[0], expected.high[0]), abs=1e-4
    )
    for group, (after, _, orders) in zip((found.treated, found.held_out), columns, strict=True):
        assert group.customers == len(after)
        assert group.buyers == (after > 0).sum()
        assert group.spend == pytest.approx(after.mean(), abs=1e-4)
        assert group.orders == pytest.approx(orders.mean(), abs=1e-4)
    assert found.orders.difference == pytest.approx(0.2, abs=0.06)
    assert found.verdict is UpliftVerdict.GAIN
    assert found.total == pytest.approx(expected.value[0] * 3_000, abs=0.5)
    assert found.left_out.open == 0


def test_harm_is_said_loudly() -> None:
    shop, _ = many(effect=0.4)
    report = measure(request(), shop.contacts, shop.purchases)
    assert [found.harms for found in report.harmful] == [("spend", "orders")]
    assert [line.split(":")[0] for line in alarms(report)] == ["win-back harms"] * 2
    assert [row[-1] for row in rows(report)] == ["HARMS", ""]


def test_who_is_not_compared_is_counted() -> None:
    shop = ReachedShop()
    for name, day in (("ada", 0), ("bob", 0), ("old", 0), ("new", 80), ("cut", 0), ("gone", 0)):
        shop.reach(name, held_out=name == "bob", day=day)
    shop.purchases.take_row(merged("cut", "eve", START + DAY_MS, "EUR"))
    shop.purchases.take_row(merged("eve", "old", START - 91 * DAY_MS, "EUR"))
    shop.purchases.erased["gone"] = START + 5 * DAY_MS
    found = shop.uplift()
    assert (found.treated.customers, found.held_out.customers) == (2, 1)
    assert (found.left_out.open, found.left_out.merged, found.left_out.erased) == (1, 1, 1)
    assert found.verdict is UpliftVerdict.TOO_FEW


def test_a_campaign_that_holds_nobody_out_cannot_be_measured() -> None:
    shop = ReachedShop()
    shop.reach("ada", held_out=False)
    shop.order("ada", 3, 20.0)
    found = shop.uplift()
    assert found.verdict is UpliftVerdict.NO_CONTROL
    assert found.spend is None
    report = measure(request(since_ms=START), shop.contacts, shop.purchases)
    assert report.since == iso(START)
    table = list(rows(report))
    assert {len(row) for row in table} == {len(HEADINGS)}
    assert table[0][:6] == ("win-back", "EUR", "1", "0", "20.00", "")


def test_a_campaign_all_of_whose_customers_are_left_out_lacks_no_control_group() -> None:
    shop = ReachedShop()
    for name in ("ada", "bob"):
        shop.reach(name, held_out=name == "bob", day=90)
    [spend, _] = rows(measure(request(), shop.contacts, shop.purchases))
    assert spend[2:4] == ("0", "0")
    assert spend[-1] == "nobody to compare yet"


def test_the_notes_name_all_that_was_left_out() -> None:
    shop, _ = many(effect=1.0, customers=40)
    shop.reach("late", held_out=False, day=90)
    shop.purchases.unusable["no_rate"] = 3
    shop.contacts.unreadable = 2
    text = "\n".join(notes(measure(request(), shop.contacts, shop.purchases)))
    assert "win-back: left out 1 still in the time after." in text
    assert "3 no_rate" in text
    assert "no decisions: 2" in text


@pytest.mark.parametrize(
    ("spend", "orders", "harms", "verdict"),
    [
        ((1.0, 2.0), (None, None), (), UpliftVerdict.GAIN),
        ((-1.0, 2.0), (0.1, 0.2), (), UpliftVerdict.GAIN),
        ((1.0, 2.0), (-0.2, -0.1), ("orders",), UpliftVerdict.HARM),
        ((-2.0, -1.0), (None, None), ("spend",), UpliftVerdict.HARM),
        ((-1.0, 0.0), (None, None), (), UpliftVerdict.UNCLEAR),
        ((None, None), (None, None), (), UpliftVerdict.TOO_FEW),
    ],
)
def test_the_verdict(
    spend: tuple[float | None, float | None],
    orders: tuple[float | None, float | None],
    harms: tuple[str, ...],
    verdict: UpliftVerdict,
) -> None:
    assert verdict_of(figures(*spend), figures(*orders)) == (harms, verdict)


def test_without_groups_there_is_no_verdict() -> None:
    assert verdict_of(None, None) == ((), UpliftVerdict.NO_CONTROL)
