"""The profiles of a run: consents given and withdrawn, time zones and none, in any order, as a function of the seed."""

from __future__ import annotations

import json
import random
from typing import Any, Final

from segmentation.event_text import iso
from segmentation.partitioners import murmur2
from tests.simulation.plot import DAY_MS, PlotRecord

CHANNELS: Final = ("email", "phone", "letter")
ZONES: Final = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Mars/Olympus", "Europe")
LANGUAGES: Final = ("de", "en-GB", "fr-CA")


class ProfilePlot:
    """Generates records for the topic of profiles."""

    def __init__(self, seed: int, *, partitions: int, customers: int, often: int) -> None:
        """`often`: of a hundred scenes, so many have some."""
        self._rng = random.Random(f"{seed}:profiles")
        self._partitions = partitions
        self._customers = [f"c{number}" for number in range(customers)]
        self._often = often / 100
        self._serial = 0
        self._past: list[PlotRecord] = []

    def scene(self, at_ms: int, now_ms: int) -> list[PlotRecord]:
        """Return the records of a scene. `at_ms`: the time of its orders; `now_ms`: the present."""
        rng = self._rng
        if rng.random() >= self._often:
            return []
        return [self._something(at_ms, now_ms) for _ in range(rng.choice((1, 1, 2, 4)))]

    def last(self, at_ms: int) -> list[PlotRecord]:
        """Return for each customer whether it may have a message by each channel, dated last."""
        rng = self._rng
        return [
            self._profile(customer, at_ms, consent={c: rng.choice(("granted", "denied")) for c in CHANNELS})
            for customer in self._customers
        ]

    def _something(self, at_ms: int, now_ms: int) -> PlotRecord:
        rng = self._rng
        luck, customer = rng.random(), rng.choice(self._customers)
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

    def _unusable(self, customer: str, at_ms: int, now_ms: int) -> PlotRecord:
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

    def _profile(self, customer: str, at_ms: int, **fields: Any) -> PlotRecord:
        self._serial += 1
        event = {"type": "customer.profile", "id": f"profile{self._serial}", "customer_id": customer}
        return self._record(customer, json.dumps({**event, "occurred_at": iso(at_ms), **fields}).encode())

    def _record(self, customer: str, value: bytes) -> PlotRecord:
        key = customer.encode()
        return PlotRecord(murmur2(key, self._partitions), key, value)
