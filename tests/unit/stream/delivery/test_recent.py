from __future__ import annotations

from stream.delivery.outcomes import ActionRecord, DeliveryEvent, DeliveryGivenUp, DeliveryRetrying, DeliverySucceeded
from stream.delivery.recent import RecentOutcomes, recent_outcomes


def outcome(kind: type[DeliveryEvent], at: str, detail: str = "", endpoint: str = "crm") -> DeliveryEvent:
    return kind(
        id="o",
        action_id="a",
        customer_id="c",
        campaign="win-back",
        channel="email",
        endpoint=endpoint,
        attempt=1,
        status=None,
        detail=detail,
        at=at,
        next_attempt_at=None,
        record=ActionRecord("campaign-actions", 0, 0),
    )


def test_failures_count_from_the_last_delivery_on() -> None:
    events = [
        outcome(DeliveryRetrying, "01", "500"),
        outcome(DeliverySucceeded, "02"),
        outcome(DeliveryRetrying, "03", "503"),
        outcome(DeliverySucceeded, "04", endpoint="push"),
        outcome(DeliveryGivenUp, "05", "ten attempts have failed"),
    ]
    assert recent_outcomes(events) == {
        "crm": RecentOutcomes("02", 2, "03", "05", "ten attempts have failed"),
        "push": RecentOutcomes("04"),
    }


def test_a_delivery_ends_the_failures_and_leaves_the_last_one_to_be_seen() -> None:
    events = [outcome(DeliveryRetrying, "01", "500"), outcome(DeliverySucceeded, "02")]
    assert recent_outcomes(events) == {"crm": RecentOutcomes("02", 0, None, "01", "500")}
