"""Ids that become one, with orders in other currencies, and with more orders than a state has room for.

EXAMPLES=20000 for a long run.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentation import life, rates
from segmentation.entries import key_of
from segmentation.event_text import instant
from segmentation.events import CustomerMerged, encode
from segmentation.meaning import converted
from segmentation.rates import KnownRate, NewRate, Rates, currency_number
from segmentation.rfm import CustomerState, Entry, Kind, absorb, advance, pack
from tests.property.test_merges import EXAMPLES, Story, as_event, check_made_anew, check_moves, check_persons
from tests.support.oracles import batch
from tests.support.oracles.batch import OracleEvent
from tests.support.oracles.persons import roots

DAY = 30
CODES = ("EUR", "JPY")
RATES = Rates("USD").plus(
    NewRate(code, day, KnownRate(10**12 * (2 + day % 5) // (3 + number * 50), -10_000))
    for number, code in enumerate(CODES)
    for day in range(20)
)


@pytest.fixture(autouse=True)
def _days_on_a_small_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (life, rates):
        monkeypatch.setattr(module, "DAY_MS", DAY)
    monkeypatch.setattr(batch, "DAY", DAY)


class ForeignStory(Story):
    """A story in which every other amount is in another currency."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, rates=RATES)
        self.purse = random.Random(f"{seed}:currencies")

    def _event(self, number: int, merged_by: int) -> OracleEvent:
        e = super()._event(number, merged_by)
        if e.kind not in (Kind.PLACED, Kind.REFUNDED) or self.purse.random() < 0.5:
            return e
        code = self.purse.choice(CODES)
        known = RATES.of(code, e.time // DAY)
        assert known is not None
        paid = self.purse.choice((e.amount, 33_333, 100_001, 5_000))
        foreign = currency_number(code), paid, known.rate
        return e._replace(amount=converted(paid, known.rate), foreign=foreign)


class FullStory(Story):
    """Plain orders that come as they are dated, of more than a state has room for. No two are of one instant.

    What the cap drops is folded in the order in which orders come, so more isn't promised of a small one.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed, cap=random.Random(f"{seed}:cap").randint(1, 8))
        self.lag = 0

    def write(self) -> list[tuple[int, bytes, bytes]]:
        rng, out = self.rng, list[tuple[int, bytes, bytes]]()
        for number in range(rng.choice((1, 1, 2, 3, 5))):
            source, target = rng.sample(self.ids, 2)
            at = rng.choice((rng.randint(0, 400), number))
            self.merges.append((at, source, target))
            event = CustomerMerged(id=f"m{number}", from_=source, into=target, occurred_at=instant(at))
            out.append((rng.randint(0, 400), source.encode(), encode(event)))
        for number, time in enumerate(sorted(rng.sample(range(3, 400), rng.randint(0, 40)))):
            e = OracleEvent(Kind.PLACED, f"e{number}", time, f"o{number}", rng.randint(0, 5) * 50)
            home = rng.choice(self.ids)
            self.sent[home].add(e)
            out.append((time, home.encode(), encode(as_event(e, home))))
        return sorted(out, key=lambda record: record[0])


def check_full_persons(story: FullStory) -> None:
    """Each person's root has the state of one id that took the orders as they came."""
    fleet, end, root = story.fleet, story.fleet.now, roots(story.ids, story.merges)
    for name in story.ids:
        if root[name] != name:
            continue
        one = CustomerState()
        orders = [e for other in story.ids if root[other] == name for e in story.sent[other]]
        for e in sorted(orders, key=lambda e: e.time):
            _, order, amount, event = e.row[:4]
            one, _ = absorb(one, Entry(key_of(e.time, Kind.PLACED), order, amount, event), e.time, story.rules)
        (value,) = fleet.of(name.encode()).store.load([name.encode()])
        assert story.plain(value, end) == pack(advance(one, end, story.rules)), (name, root)


@settings(max_examples=EXAMPLES // 3, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.integers(0, 2**32), st.booleans())
def test_a_person_of_many_ids_and_currencies_has_the_state_of_one_id(seed: int, restored: bool) -> None:
    story = ForeignStory(seed)
    story.happen()
    check_persons(story)
    check_moves(story)
    check_made_anew(story, restored=restored)


@settings(max_examples=EXAMPLES // 3, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.integers(0, 2**32), st.booleans())
def test_a_person_with_more_orders_than_fit_has_the_state_of_one_id(seed: int, restored: bool) -> None:
    story = FullStory(seed)
    story.happen()
    check_full_persons(story)
    check_moves(story)
    check_made_anew(story, restored=restored)
