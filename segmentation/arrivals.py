"""Records -> what they add to whom, each with its clock; or why they can't be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from segmentation.events import (
    CONTROL_KEY,
    BackfillFinished,
    ClockAdvanced,
    ModelActivated,
    Reason,
    RejectedEvent,
    decode,
    iso,
    millis,
    to_entry,
)
from segmentation.rfm import Entry
from segmentation.step import Activation, DeadLetter, Record

_SHOWN: Final = 64  # bytes of a key that a message repeats: a key may be as large as a record


def _shown(key: bytes | None) -> str:
    return repr(key and key[:_SHOWN])


class Arrival(NamedTuple):
    """A record that can be used: what it adds, and the id of its event."""

    entry: Entry
    event_id: str


@dataclass(slots=True)
class Batch:
    """A decoded batch: record i has `clocks[i]`, and `arrivals[i]` where it can be used."""

    clocks: list[int] = field(default_factory=list)
    arrivals: list[Arrival | None] = field(default_factory=list)
    own: dict[bytes, list[int]] = field(default_factory=dict)  # the places of a customer's records, in their order
    dead: list[DeadLetter] = field(default_factory=list)
    start: Activation | None = None  # the record behind the last one starts this activation


@dataclass(frozen=True, slots=True)
class Reader:
    """Decodes records under a deployment's settings. Times in milliseconds."""

    currency: str
    time: Literal["wall", "event"]
    tolerance_ms: int  # how far ahead of the broker's timestamp an event may be dated
    max_jump_ms: int  # how far ahead of the shard's clock, in event time
    max_event_bytes: int
    earliest_ms: int = 0  # what is dated before isn't a date that anybody meant

    def read(self, records: Sequence[Record], clock: int, *, replayed_until: int | None = None) -> Batch:
        """Decode until the end, or until a record that starts a model (event time).

        In event time a record's clock is the running maximum of event times; in wall time all have `clock`, the
        turn's own. `replayed_until`: the records were delivered before, at clocks up to this one, so models were
        started then, and in wall time the broker's timestamp is the closest thing to the clock of then.
        """
        batch = Batch()
        event_time = self.time == "event"
        for index, record in enumerate(records):
            arrival: Arrival | None = None
            try:
                if record.key == CONTROL_KEY:
                    event = self._control(record)
                    if event_time and isinstance(event, ModelActivated) and replayed_until is None:
                        batch.start = Activation(event.activation, event.version)
                        return batch
                    if event_time and isinstance(event, ClockAdvanced):
                        to = millis(event.to)
                        self._check_date(to, record, clock, "to")
                        clock = max(clock, to)
                else:
                    customer, arrival = self._arrival(record)
                    at = arrival.entry[0] >> 3
                    self._check_age(at)
                    self._check_date(at, record, clock, "occurred_at")
                    if event_time:
                        clock = max(clock, at)
                    own = batch.own.get(customer)
                    if own is None:
                        batch.own[customer] = [index]
                    else:
                        own.append(index)
            except RejectedEvent as why:
                arrival = None
                batch.dead.append(DeadLetter(index, why.reason.value, why.field, str(why)))
            if replayed_until is not None and not event_time:
                clock = max(clock, min(record.timestamp, replayed_until))
            batch.clocks.append(clock)
            batch.arrivals.append(arrival)
        return batch

    def _control(self, record: Record) -> ClockAdvanced | BackfillFinished | ModelActivated:
        event = decode(record.value)
        if not isinstance(event, ClockAdvanced | BackfillFinished | ModelActivated):
            raise RejectedEvent(
                Reason.KEY_NOT_CUSTOMER,
                "customer_id",
                f"an event of customer {event.customer_id[:_SHOWN]!r} under the key of controls.",
            )
        return event

    def _arrival(self, record: Record) -> tuple[bytes, Arrival]:
        value = record.value
        if value is not None and len(value) > self.max_event_bytes:
            raise RejectedEvent(
                Reason.TOO_LARGE, None, f"the event has {len(value)} bytes, the limit is {self.max_event_bytes}."
            )
        event = decode(value)
        if isinstance(event, ClockAdvanced | BackfillFinished | ModelActivated):
            raise RejectedEvent(
                Reason.CONTROL_NOT_ALLOWED,
                "type",
                f"a control needs the key {CONTROL_KEY!r}, not {_shown(record.key)}.",
            )
        customer = event.customer_id.encode()
        if record.key != customer:
            raise RejectedEvent(
                Reason.KEY_NOT_CUSTOMER,
                "customer_id",
                f"the record's key is {_shown(record.key)}, the customer {_shown(customer)}: key orders by customer, or send to orders-unkeyed.",
            )
        return customer, Arrival(to_entry(event, self.currency), event.id)

    def _check_age(self, at: int) -> None:
        if at < self.earliest_ms:
            message = f"dated {iso(at)}, expected {iso(self.earliest_ms)} or later: was the sender's clock set?"
            raise RejectedEvent(Reason.DATE_OUT_OF_RANGE, "occurred_at", message)

    def _check_date(self, at: int, record: Record, clock: int, name: str) -> None:
        if at > record.timestamp + self.tolerance_ms:
            raise RejectedEvent(
                Reason.DATED_AHEAD,
                name,
                f"dated {at - record.timestamp} ms later than the record arrived; {self.tolerance_ms} ms are allowed.",
            )
        # The first record of a shard sets its clock: there is nothing yet to be ahead of.
        if self.time == "event" and clock >= 0 and at > clock + self.max_jump_ms:
            raise RejectedEvent(
                Reason.CLOCK_JUMP,
                name,
                f"dated {at - clock} ms ahead of the shard's clock; {self.max_jump_ms} ms are allowed: send clock.advanced first.",
            )
