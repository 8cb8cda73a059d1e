"""The worked example of a shop's rules does what its comments say."""

from __future__ import annotations

from typing import Any, Final

from segmentation.campaign_rules import parse_rules
from segmentation.campaigns import CampaignStep
from segmentation.entries import DAY_MS
from segmentation.event_text import instant, iso
from segmentation.events import Amount, OrderPlaced, encode
from segmentation.output_events import (
    CampaignDecision,
    CampaignWithheld,
    Cause,
    LifeFigures,
    OutlookFigures,
    SegmentChanged,
    Withheld,
)
from segmentation.profiles import CustomerProfile
from stream.orders.rows import parse_at
from stream.rehearsal.campaign_replay import CampaignReplay, TimedRecord
from tests.support.paths import ROOT

TABLE: Final = parse_rules((ROOT / "examples" / "campaigns" / "shop.yaml").read_text("utf-8"))
# Nobody is held out: what the rules do else is looked at.
EVERYBODY: Final = TABLE.model_copy(
    update={
        "holdouts": type(TABLE.holdouts)(),
        "rules": tuple(rule.model_copy(update={"holdout": None}) for rule in TABLE.rules),
    }
)
NOON: Final = parse_at("2026-06-10T10:00:00Z")  # 12:00 in Berlin, a Wednesday
HOUR_MS: Final = DAY_MS // 24
SILENT: Final = OutlookFigures(0.1, 0.1, "5.00", 30.0, 2.5)


def move(
    to: str, cause: Cause, *, at: int = NOON, orders: int = 5, number: int = 1, source: str = "Loyal"
) -> TimedRecord:
    first = NOON - 300 * DAY_MS if orders > 1 else at
    content: dict[str, Any] = {"scored_at": iso(at), "model_version": None, "rfm": None, "before": None}
    event = SegmentChanged(
        id=f"move-{number}",
        customer_id="ann",
        sequence=number,
        from_=None if cause is Cause.FIRST else source,
        to=to,
        cause=cause,
        occurred_at=iso(at),
        distances={},
        next=None,
        causation_id=None,
        life=LifeFigures(orders, orders, "500.00", "100.00", iso(first), iso(at)),
        outlook=SILENT if cause is Cause.SILENCE else OutlookFigures(0.9, 3.0, "300.00", 30.0, 0.0),
        **content,
    )
    return TimedRecord(at, "moves", number, b"ann", encode(event))


def profile(consent: dict[str, Any] | None = None, zone: str | None = None) -> TimedRecord:
    before = NOON - DAY_MS
    event = CustomerProfile(
        id="p", customer_id="ann", occurred_at=instant(before), consent=consent or {}, time_zone=zone or "Europe/Berlin"
    )
    return TimedRecord(before, "profiles", 1, b"ann", encode(event))


def order(at: int) -> TimedRecord:
    event = OrderPlaced(id="o", order_id="o", customer_id="ann", occurred_at=instant(at), amount=Amount("30.00", "EUR"))
    return TimedRecord(at, "orders", 1, b"ann", encode(event))


def decided(*records: TimedRecord, until: int = NOON + 90 * DAY_MS) -> list[tuple[str, str, str]]:
    """Return each decision: its campaign, its type or the reason why nothing is sent, and the instant."""
    run = CampaignReplay(CampaignStep(EVERYBODY, "shop"))
    found = [*run.feed(records), *run.advance(until)]
    return [(event.campaign, kind(event), (event.decided_at or "")[:16]) for event in found]


def kind(event: CampaignDecision) -> str:
    return (
        event.reason if isinstance(event, CampaignWithheld) else type(event).__name__.removeprefix("Campaign").lower()
    )


FIRST = move("New", Cause.FIRST, orders=1)


def test_a_first_order_has_service_at_once_and_a_campaign_later() -> None:
    assert decided(FIRST) == [
        ("account-tips", "action", "2026-06-10T10:00"),
        ("second-order", "scheduled", "2026-06-10T10:00"),
        ("second-order", "action", "2026-06-13T10:00"),
    ]


def test_the_second_order_isn_t_asked_for_once_it_is_there() -> None:
    found = decided(FIRST, order(NOON + DAY_MS))
    assert found[2:] == [("second-order", Withheld.ORDERED, "2026-06-11T10:00")]
    assert ("second-order", "action", "2026-06-13T10:00") in decided(
        FIRST, move("Promising", Cause.WINDOW, at=NOON + DAY_MS, number=2)
    )


def test_nobody_hears_anything_at_night_where_they_live() -> None:
    late = move("Champions", Cause.ORDER, at=NOON + 9 * HOUR_MS)  # 21:00 in Berlin, 20:00 in Lisbon, 15:00 in New York
    assert decided(late)[-1] == ("champions", "action", "2026-06-11T06:30")
    assert decided(profile(zone="Europe/Lisbon"), late)[-1] == ("champions", "action", "2026-06-11T07:30")
    assert decided(profile(zone="America/New_York"), late) == [("champions", "action", "2026-06-10T19:00")]


def test_a_call_needs_consent_and_a_reminder_stands_in_for_it() -> None:
    silence = move("Cannot Lose", Cause.SILENCE)
    assert decided(silence) == [
        ("call", Withheld.NO_CONSENT, "2026-06-10T10:00"),
        ("reminder", "action", "2026-06-10T10:00"),
    ]
    assert decided(profile({"phone": "granted"}), silence) == [("call", "action", "2026-06-10T10:00")]
    denied = profile({"phone": "denied", "email": "denied"})
    assert [reason for _, reason, _ in decided(denied, silence)] == [Withheld.NO_CONSENT] * 2
    # At 18:00 the office is empty: the call waits for the morning, and takes the move with it.
    evening = move("Cannot Lose", Cause.SILENCE, at=NOON + 6 * HOUR_MS)
    assert decided(profile({"phone": "granted"}), evening)[1:] == [("call", "action", "2026-06-11T07:00")]


def test_a_discount_comes_once_a_year_and_only_to_those_who_stay_away() -> None:
    lost = move("Lost", Cause.SILENCE)
    assert decided(lost)[-1] == ("win-back", "action", "2026-06-11T10:00")
    assert decided(lost, order(NOON + HOUR_MS))[-1][:2] == ("win-back", Withheld.ORDERED)
    back = move("Loyal", Cause.ORDER, at=NOON + HOUR_MS, number=2, source="Lost")
    assert ("win-back", Withheld.MOVED_ON) in [found[:2] for found in decided(lost, back)]
    again = move("Lost", Cause.SILENCE, at=NOON + 80 * DAY_MS, number=2)
    assert decided(lost, again)[-1][:2] == ("win-back", Withheld.COOLDOWN)


def test_there_is_one_message_a_day_and_two_a_week() -> None:
    moves = [
        move("Champions", Cause.ORDER, number=1),
        move("At Risk", Cause.SILENCE, at=NOON + HOUR_MS, number=2),
        move("About to Sleep", Cause.SILENCE, at=NOON + DAY_MS, number=3),
        move("Loyal", Cause.ORDER, at=NOON + 2 * DAY_MS, number=4, source="At Risk"),
    ]
    assert [found[:2] for found in decided(*moves)] == [
        ("champions", "action"),
        ("reminder", Withheld.CAP),
        ("reminder", "action"),
        ("thanks", Withheld.CAP),
    ]


def test_the_season_s_campaign_acts_in_its_season() -> None:
    sms = profile({"sms": "granted"})
    assert not any(campaign == "winter-sale" for campaign, _, _ in decided(sms, move("Loyal", Cause.ORDER)))
    december = parse_at("2026-12-24T12:00:00Z")
    found = decided(sms, move("Loyal", Cause.ORDER, at=december), until=december + DAY_MS)
    assert ("winter-sale", "action", "2026-12-24T12:00") in found
