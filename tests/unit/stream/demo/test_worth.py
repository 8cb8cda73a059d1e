"""The worth of a demo, counted by hand: what customers did after a move, an action and an instant."""

from __future__ import annotations

from segmentation.entries import DAY_MS
from segmentation.event_text import iso, move_id
from segmentation.output_events import CampaignAction, Cause, SegmentChanged
from stream.demo.view import worth_sentences
from stream.demo.worth import DemoWorth, MoveLog, OrderLog, Ranking, SegmentWorth, WorthWriter
from stream.orders.rows import OrderRow, placed, refunded

START = 1_000 * DAY_MS
END = START + 181 * DAY_MS
NAMES = ["Loyal", "New", "Lost"]


def _at(day: float) -> int:
    return START + round(day * DAY_MS)


def _orders(**days: list[float]) -> list[OrderRow]:
    rows = [placed(f"{c}{day}", c, _at(day), 10_0000, "USD") for c, own in days.items() for day in own]
    return sorted(rows, key=lambda row: row.at_ms)


def _move(customer: str, day: float, source: str | None, target: str, cause: Cause = Cause.SILENCE) -> SegmentChanged:
    return SegmentChanged(
        id=move_id("demo", customer, round(day * 100)), customer_id=customer, sequence=1, from_=source, to=target,
        cause=cause, occurred_at=iso(_at(day)), scored_at=iso(_at(day)), model_version="m", rfm=None, before=None,
        distances={}, next=None, causation_id=None,
    )  # fmt: skip


def _action(customer: str, day: float, campaign: str, action: str) -> CampaignAction:
    return CampaignAction(
        id=f"{customer}{day}", customer_id=customer, campaign=campaign, segment="Lost", action=action, channel="email",
        reason="", change_id="", occurred_at=iso(_at(day)),
    )  # fmt: skip


def _worth(rows: list[OrderRow], moves: list[SegmentChanged], *actions: CampaignAction, end: int = END) -> DemoWorth:
    orders, journeys = OrderLog(START), MoveLog()
    assert list(orders.noted(rows)) == rows
    for move in moves:
        journeys.add(move)
    return WorthWriter(orders, journeys, START, end).worth(NAMES, actions)


STARTS = [
    _move("a", 0, None, "Loyal", Cause.MODEL),
    _move("b", 0, None, "New", Cause.MODEL),
    _move("c", 0, None, "Lost", Cause.MODEL),
]


def test_moves_count_by_customer_and_year_and_those_that_go_back() -> None:
    rows = _orders(a=[-5], b=[-5], c=[-5, 20])
    moves = [*STARTS, _move("c", 20, "Lost", "New", Cause.ORDER), _move("c", 30, "New", "Lost")]
    worth = _worth(rows, moves)
    assert worth.moves_per_year == round(2 / (3 * 181 / 365), 2)
    assert worth.back == {"14": 0.5, "30": 0.5}


def test_segments_are_judged_by_the_last_90_days() -> None:
    rows = _orders(a=[-5, 50, 90, 179], b=[-5, 10], c=[-50], new=[100])
    rows.append(refunded("a179", "a", _at(179.5), 5_0000, "USD", names_order=True))
    worth = _worth(rows, [*STARTS, _move("b", 89, "New", "Loyal"), _move("c", 91, "Lost", "New")])
    assert worth.judged_at == iso(_at(91))
    assert worth.segments == [SegmentWorth("Loyal", 2, 0.5, 1.0), SegmentWorth("Lost", 1, 0.0, 0.0)]
    # Before, only customers of Loyal and of New had bought: that is what the ranking knows.
    assert worth.rankings["segments"] == Ranking(0.75, 0.15)
    assert worth.rankings["recency"] == Ranking(1.0, 0.3)


def test_a_short_time_judges_nothing() -> None:
    assert _worth(_orders(a=[-5, 3]), STARTS[:1], end=_at(80)).judged_at is None
    assert _worth(_orders(a=[-5, 3]), STARTS[:1], end=_at(180)).rankings == {}
    before, after = worth_sentences(_worth(_orders(a=[-5, 3]), STARTS[:1], end=_at(80)))
    assert (len(before), after) == (1, [])


def test_discounts_to_customers_who_order_anyway_are_counted() -> None:
    rows = _orders(a=[-5, 10, 40.5], b=[-5, 39], c=[-5])
    found = [_action("a", 10, "win-back", "20 % off"), _action("b", 10, "win-back", "20 % off")]
    worth = _worth(rows, STARTS, *found, _action("b", 10, "note", "A note"), _action("c", 10, "win-back", "20 % off"))
    assert worth.campaigns == {"win-back": 3, "note": 1}
    assert (worth.discounts, worth.needless_discounts) == (3, 1)
    assert "Discounts: 3, of which 1 to customers who ordered within 30 days" in worth_sentences(worth)[1][-1]
