"""Profiles of customers: consents given and withdrawn, time zones and none, in any order, as a function of the seed."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, Final

from segmentation.event_text import iso
from segmentation.partitioners import murmur2
from tests.recovery.rig.feed import DAY_MS, FeedRecord

CHANNELS: Final = ("email", "phone", "letter")
ZONES: Final = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Mars/Olympus", "Europe")
LANGUAGES: Final = ("de", "en-GB", "fr-CA")


class ProfileFeed:
    """Generates records for the topic of profiles."""

    def __init__(self, seed: int, partitions: int) -> None:
        self._rng = random.Random(f"{seed}:profiles")
        self._partitions = partitions
        self._serial = 0
        self._past: list[FeedRecord] = []

    def some(self, customers: Sequence[str], at_ms: int, now_ms: int) -> list[FeedRecord]:
        """Return a few records. `at_ms`: the time that the orders have come to; `now_ms`: the present."""
        return [self._something(customers, at_ms, now_ms) for _ in range(self._rng.choice((1, 1, 2, 4)))]

    def last(self, customers: Sequence[str], at_ms: int) -> list[FeedRecord]:
        """Return for each customer whether it may have a message by each channel, dated last."""
        rng = self._rng
        return [
            self._profile(customer, at_ms, consent={c: rng.choice(("granted", "denied")) for c in CHANNELS})
            for customer in customers
        ]

    def _something(self, customers: Sequence[str], at_ms: int, now_ms: int) -> FeedRecord:
        rng = self._rng
        luck, customer = rng.random(), rng.choice(customers)
        if luck < 0.1 and self._past:
            return rng.choice(self._past)
        if luck < 0.2:
            return self._unusable(customer, at_ms, now_ms)
        at = at_ms - rng.choice((0, 0, 0, 1, 20)) * DAY_MS
        fields: dict[str, Any] = {}
        if rng.random() < 0.7:
            said = rng.choice(("granted", "denied", "denied"))
            fields["consent"] = dict.fromkeys(rng.sample(CHANNELS, rng.choice((1, 1, 2))), said)
        if rng.random() < 0.5:
            fields["time_zone"] = rng.choice(ZONES)
        if rng.random() < 0.3:
            fields["language"] = rng.choice(LANGUAGES)
        record = self._profile(customer, at, **fields)
        self._past.append(record)
        return record

    def _unusable(self, customer: str, at_ms: int, now_ms: int) -> FeedRecord:
        rng = self._rng
        kind = rng.randrange(4)
        if kind == 0:
            record = self._profile(customer, at_ms)
            return record._replace(value=b'{"garbage": %d}' % self._serial)
        if kind == 1:
            return self._profile(customer, at_ms, consent={"email": "perhaps"})
        if kind == 2:
            return self._profile(customer, now_ms + DAY_MS, language="de")
        record = self._profile("somebody", at_ms, language="de")
        return self._record(customer, record.value)

    def _profile(self, customer: str, at_ms: int, **fields: Any) -> FeedRecord:
        self._serial += 1
        event = {"type": "customer.profile", "id": f"profile{self._serial}", "customer_id": customer}
        return self._record(customer, json.dumps({**event, "occurred_at": iso(at_ms), **fields}).encode())

    def _record(self, customer: str, value: bytes) -> FeedRecord:
        key = customer.encode()
        return FeedRecord(key, value, murmur2(key, self._partitions))
