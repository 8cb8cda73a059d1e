"""The input of a run: orders and all that comes between them, as a function of the seed."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Final, NamedTuple

from segmentation.event_text import instant
from segmentation.events import (
    CONTROL_KEY,
    BackfillFinished,
    ClockAdvanced,
    CustomerErased,
    CustomerMerged,
    InputEvent,
    ModelActivated,
    encode,
)
from segmentation.partitioners import murmur2
from stream.orders.rows import cancelled, placed, refunded, to_event

DAY_MS: Final = 86_400_000
START_MS: Final = 946_684_800_000  # the year 2000
STEP_MS: Final = 80 * DAY_MS  # clocks advance in steps below SEGSTREAM_MAX_CLOCK_JUMP_DAYS
UNIT: Final = 10_000  # ten-thousandths in one unit of currency
CURRENCY: Final = "USD"
COMMITTED: Final = 1
ABORTED: Final = 2


class PlotRecord(NamedTuple):
    """One record for the input topic."""

    partition: int
    key: bytes
    value: bytes


class PlotScene(NamedTuple):
    """Records that are sent at once."""

    records: list[PlotRecord]
    transaction: int  # COMMITTED, ABORTED; 0: none
    pause_ms: int  # before the next scene
    starts: int | None = None  # the model that is published before


class Plot:
    """Generates the scenes. In wall time an order's instant is the present, so it is given by the run."""

    def __init__(
        self,
        seed: int,
        *,
        partitions: int,
        customers: int,
        wall: bool,
        litter: int = 0,
        merges: int = 0,
        most_days: int | None = None,
    ) -> None:
        """`litter`: of a hundred records, so many are garbage; `merges`: so many merge two customers.

        `most_days`: that pass in event time before the silence at the end; None: any number.
        """
        self._rng = random.Random(f"{seed}:plot")
        self._partitions = partitions
        self._wall = wall
        self.customers = [f"c{number}" for number in range(customers)]
        self._at = START_MS
        self._last = None if most_days is None else START_MS + most_days * DAY_MS
        self._clocks = [START_MS] * partitions
        self._orders: list[tuple[str, str]] = []
        self._past: list[PlotRecord] = []
        self._backfill: str | None = None
        self._serial = 0
        self._litter = random.Random(f"{seed}:litter")
        self._littered = litter / 100
        self._mergers = random.Random(f"{seed}:mergers")
        self._merged = merges / 100 if customers > 1 else 0.0
        self.models = 0

    def scene(self, number: int, now_ms: int, skipped: Collection[int] = ()) -> PlotScene:
        """Return the next scene. One that is skipped is made all the same, without records."""
        rng = self._rng
        records: list[PlotRecord] = []
        starts = None
        if self._wall:
            self._at = max(self._at, now_ms)
        if number == 0 or (number > 2 and rng.random() < 0.04):
            starts = self.models
            self.models += 1
            records += self._started(starts)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
            records += self._something()
        luck = rng.random()
        transaction = COMMITTED if luck < 0.08 else ABORTED if luck < 0.12 else 0
        pause_ms = rng.choice((0, 0, 10, 100, 400, 1_500))
        if number in skipped:
            # Its records are left out; a model stays published, since later scenes build on it.
            return PlotScene([], 0, pause_ms, starts)
        if self._wall:
            records = [r for r in records if b"clock.advanced" not in r.value and b"model.activated" not in r.value]
        clocks = list(self._clocks)
        scene = PlotScene(self._reached(records), transaction, pause_ms, starts)
        if transaction == ABORTED:
            self._clocks = clocks
        return scene

    def _something(self) -> list[PlotRecord]:
        rng = self._rng
        luck = rng.random()
        self._serial += 1
        serial = self._serial
        if not self._wall:
            self._at += int(rng.choice((0, 0, 1, 5, 20, 60)) * DAY_MS * rng.random())
            if self._last is not None:
                self._at = min(self._at, self._last)
        if luck < 0.06:
            return self._end_or_begin_of_backfill()
        if luck < 0.10 and self._past:
            return [rng.choice(self._past)]
        if 0.10 <= luck < 0.12 and not self._wall:  # an activation comes again, late
            return self._started(rng.randrange(max(self.models, 1)))
        return self._about_a_customer(luck, serial)

    def _about_a_customer(self, luck: float, serial: int) -> list[PlotRecord]:
        rng = self._rng
        if luck < 0.14 or self._litter.random() < self._littered:
            return [self._record(rng.choice(self.customers), b'{"garbage": %d}' % serial)]
        if self._merged and self._mergers.random() < self._merged:
            return [self._of_a_merge(serial)]
        customer = rng.choice(self.customers)
        if luck < 0.19:
            erased = CustomerErased(id=f"erase{serial}", customer_id=customer, occurred_at=instant(self._at))
            return [self._record(customer, encode(erased))]
        if luck < 0.28 and self._orders:
            order, customer = rng.choice(self._orders)
            if rng.random() < 0.5:
                row = cancelled(order, customer, self._at, CURRENCY)
            else:
                row = refunded(order, customer, self._at, UNIT, CURRENCY, names_order=True)
            return [self._record(customer, encode(to_event(row)))]
        row = placed(f"O{serial}", customer, self._at, rng.choice((5, 20, 100, 400)) * UNIT, CURRENCY)
        self._orders.append((f"O{serial}", customer))
        marked = self._backfill if rng.random() < 0.5 else None
        record = self._record(customer, encode(to_event(row, marked)))
        self._past.append(record)
        return [record]

    def _of_a_merge(self, serial: int) -> PlotRecord:
        rng = self._mergers
        giver, into = rng.sample(self.customers, 2)
        at = self._at - rng.choice((0, 0, 0, 1, 30)) * DAY_MS
        merged = CustomerMerged(id=f"merge{serial}", from_=giver, into=into, occurred_at=instant(max(at, START_MS)))
        return self._record(giver, encode(merged))

    def _end_or_begin_of_backfill(self) -> list[PlotRecord]:
        if self._backfill is None:
            self._backfill = f"archive{self._serial}"
            return []
        ended = BackfillFinished(id=f"end of {self._backfill}", backfill=self._backfill)
        self._backfill = None
        return self._everywhere(ended)

    def _started(self, model: int) -> list[PlotRecord]:
        return self._everywhere(ModelActivated(id=f"m{model}", activation=model + 1, version=f"v{model}"))

    def _everywhere(self, event: InputEvent) -> list[PlotRecord]:
        return [PlotRecord(p, CONTROL_KEY, encode(event)) for p in range(self._partitions)]

    def _record(self, customer: str, value: bytes) -> PlotRecord:
        key = customer.encode()
        return PlotRecord(murmur2(key, self._partitions), key, value)

    def _reached(self, records: list[PlotRecord]) -> list[PlotRecord]:
        """Return the records behind those that advance their shards' clocks so far that they may come."""
        if self._wall:
            return records
        first = [advance for p in sorted({r.partition for r in records}) for advance in self._advanced(p, self._at)]
        return first + records

    def _advanced(self, partition: int, to_ms: int) -> list[PlotRecord]:
        made = []
        while self._clocks[partition] + STEP_MS < to_ms:
            self._clocks[partition] += STEP_MS
            made.append(self._clock(partition, self._clocks[partition]))
        return made

    @staticmethod
    def _clock(partition: int, to_ms: int) -> PlotRecord:
        event = ClockAdvanced(id=f"clock{to_ms}", to=instant(to_ms))
        return PlotRecord(partition, CONTROL_KEY, encode(event))

    @property
    def at_ms(self) -> int:
        """The time that the orders have come to."""
        return self._at

    def orders(self, now_ms: int) -> list[PlotRecord]:
        """Return an order of each customer."""
        if self._wall:
            self._at = max(self._at, now_ms)
        made = []
        for customer in self.customers:
            self._serial += 1
            row = placed(f"O{self._serial}", customer, self._at, 50 * UNIT, CURRENCY)
            made.append(self._record(customer, encode(to_event(row))))
        return made

    def silence(self, days: int) -> list[PlotRecord]:
        """Return the records of the end: backfills end, and in event time so many days pass without orders."""
        records = self._end_or_begin_of_backfill() if self._backfill else []
        if self._wall:
            return records
        end = self._at = self._at + days * DAY_MS
        for p in range(self._partitions):
            records += [*self._advanced(p, end), self._clock(p, end)]
        return records
