"""The latest outcomes of an endpoint in short: when it last took an action, and what has failed since. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from stream.delivery.outcomes import DeliveryEvent, DeliverySucceeded


class RecentOutcomes(Struct, frozen=True):
    """The latest outcomes in short. `failures`: those since the last delivery, the first of them at `since`.

    The last failure may be older than the last delivery: then `failures` is 0.
    """

    delivered_at: str | None = None
    failures: int = 0
    since: str | None = None
    failed_at: str | None = None
    failure: str = ""


def recent_outcomes(events: Iterable[DeliveryEvent]) -> dict[str, RecentOutcomes]:
    """Return it by endpoint, for outcomes in the order of their times."""
    found: dict[str, RecentOutcomes] = {}
    for event in events:
        before = found.get(event.endpoint, RecentOutcomes())
        if isinstance(event, DeliverySucceeded):
            found[event.endpoint] = RecentOutcomes(event.at, 0, None, before.failed_at, before.failure)
        else:
            since = before.since or event.at
            found[event.endpoint] = RecentOutcomes(
                before.delivered_at, before.failures + 1, since, event.at, event.detail
            )
    return found
