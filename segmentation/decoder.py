"""Records into entries of customers, each with its clock; or into dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import accumulate
from typing import Final, Literal, NamedTuple

from segmentation.agreed import Agreed
from segmentation.backfills import NONE_OPEN, SLOTS, Backfills
from segmentation.entries import DAY_MS, NONE, PLACED, Entry, key_of
from segmentation.event_text import iso
from segmentation.events import (
    CONTROL_KEY,
    BackfillFinished,
    Control,
    CustomerJoined,
    CustomerMerged,
    EventForwarded,
    HandedOn,
    ModelActivated,
    Reason,
    RejectedEvent,
    ShardControl,
    decode,
    millis,
    to_entry,
)
from segmentation.links import Edge, stamp_of
from segmentation.rates import ONE_CURRENCY, Conversion, Rates
from segmentation.state_bytes import CustomerState, StateFormatError, unpack
from segmentation.step import Activation, DeadLetter, KafkaRecord

_SHOWN: Final = 64  # bytes of a key that a message repeats: a key may be as large as a record


def _shown(key: bytes | None) -> str:
    return repr(key and key[:_SHOWN])


NO_ENTRY: Final = Entry(0, 0, 0, 0)


class DecodedEvent(NamedTuple):
    """A record that can be used: the entry that it adds, its event's id, and the backfill that it belongs to."""

    entry: Entry  # of a merge or of what is handed on one that is never merged
    event_id: str
    backfill: str | None = None
    into: str | None = None  # the customer's id is merged into this one


class LinkRecord(NamedTuple):
    """A record that teaches its customer merges: a merge of the customer's own id, or what another one hands on."""

    edges: tuple[Edge, ...]
    giver: str | None = None  # None: the customer's own merge
    package: str = ""  # its id
    state: CustomerState | None = None  # that of the giver; None: nothing is known of it


@dataclass(slots=True)
class Batch:
    """A decoded batch: record i has `clocks[i]`, and `events[i]` where it can be used."""

    clock: int = 0  # of the last record so far
    before: Backfills = NONE_OPEN  # the registry before the first record
    registry: Backfills = NONE_OPEN  # after the last record so far
    clocks: list[int] = field(default_factory=list)
    events: list[DecodedEvent | None] = field(default_factory=list)
    own: dict[bytes, list[int]] = field(default_factory=dict)  # the positions of a customer's records, ascending
    dead: list[DeadLetter] = field(default_factory=list)
    start: Activation | None = None  # the record after the last one starts this activation
    close: tuple[str, ...] = ()  # these backfills end before anything else
    turn_records: int = 0  # 1 if `start` or `close` is due to a record, which isn't in `clocks`; else 0
    mutes: dict[int, int] = field(default_factory=dict)  # position of a record of a backfill -> slot
    changes: list[tuple[int, Backfills]] = field(default_factory=list)  # (position, the registry from there on)
    closed: bool = False  # a backfill ended within a replayed batch, which goes on
    links: dict[int, LinkRecord] = field(default_factory=dict)  # by position
    linked: set[bytes] = field(default_factory=set)  # their customers
    records: Sequence[KafkaRecord] = ()  # all that were given
    stamps: list[int] = field(default_factory=list)  # the highest up to each of them, once they are needed
    full: bool = False  # a replayed batch ends here: backfills that are over hold the slots that the next record needs
    conversion: Conversion = ONE_CURRENCY
    no_rate: bool = False  # a record found no rate that it may use

    def highest_stamp(self, position: int) -> int:
        """Return the highest stamp of the records up to this one: brokers' clocks may differ a little."""
        if len(self.stamps) < len(self.records):
            self.stamps = list(accumulate([stamp_of(r.timestamp, r.offset) for r in self.records], max))
        return self.stamps[position]

    def note(self, position: int, registry: Backfills) -> None:
        """Note that the registry changes at this position."""
        self.registry = registry
        self.changes.append((position, registry))

    def backfills(self, taken: int) -> Backfills | None:
        """Return the registry after the first `taken` records; None: as before."""
        return next((after for position, after in reversed(self.changes) if position < taken), None)

    def slots_to_keep(self, position: int, *, event_time: bool) -> frozenset[int]:
        """Return the slots that a replayed record leaves in its customer's state.

        The rescore at a backfill's end finds its customers by their slots. In event time it is over before the next
        record comes, so it can only be under way if the batch's last record is that end.
        """
        if not event_time:
            return self._registry_at(position).open_slots
        slots, last = self.registry.open_slots, len(self.events) - 1
        return slots if self.events[last] is not None else slots | self._registry_at(last - 1).open_slots

    def _registry_at(self, position: int) -> Backfills:
        """Return the registry at a record: with the backfill that it opens, without those that ended before it."""
        return self.backfills(position + 1) or self.before


@dataclass(frozen=True, slots=True)
class Reader:
    """Decodes records under a deployment's settings. Times in milliseconds."""

    currency: str
    time: Literal["wall", "event"]
    tolerance_ms: int  # how far ahead of the broker's timestamp an event may be dated
    max_jump_ms: int  # how far ahead of the shard's clock, in event time
    max_event_bytes: int
    earliest_ms: int = 0  # an earlier date is taken for a mistake
    backfill_expiry_ms: int = DAY_MS  # a backfill without a record for so long is over
    other_currencies: frozenset[str] = frozenset()  # that are converted

    @classmethod
    def under(cls, agreed: Agreed) -> Reader:
        """Return the reader under these settings."""
        return cls(
            currency=agreed.currency,
            time=agreed.time,
            tolerance_ms=agreed.future_tolerance_s * 1000,
            max_jump_ms=agreed.max_clock_jump_days * DAY_MS,
            max_event_bytes=agreed.max_event_bytes,
            earliest_ms=(date.fromisoformat(agreed.earliest_date) - date(1970, 1, 1)).days * DAY_MS,
            backfill_expiry_ms=int(agreed.backfill_expiry_hours * 3_600_000),
            other_currencies=frozenset(agreed.other_currencies.split(",")) - {""},
        )

    def read(
        self,
        records: Sequence[KafkaRecord],
        clock: int,
        backfills: Backfills = NONE_OPEN,
        *,
        replayed_until: int | None = None,
        rates: Rates | None = None,
    ) -> Batch:
        """Decode up to the end, or up to a record that starts a model (event time) or before which a backfill is over.

        In event time a record's clock is the running maximum of event times; in wall time all have `clock`, the turn's
        own. `replayed_until`: the records were delivered before, at clocks up to this one. Then they start no models,
        and in wall time the broker's timestamp stands in for the clock of their first delivery. `rates`: by which
        other currencies are converted.
        """
        conversion = Conversion(self.other_currencies, rates) if self.other_currencies else ONE_CURRENCY
        batch = Batch(clock=clock, before=backfills, registry=backfills, conversion=conversion, records=records)
        replayed = replayed_until is not None
        for index, record in enumerate(records):
            if batch.registry.rows:
                over = batch.registry.silent_since(record.timestamp - self.backfill_expiry_ms)
                if over and self._ends(batch, index, over, replayed=replayed):
                    return batch
            event: DecodedEvent | None = None
            try:
                if record.key == CONTROL_KEY:
                    control = self._control(record)
                    if isinstance(control, HandedOn):
                        event = self._take_handed_on(batch, index, record, control)
                    elif self._take_control(batch, index, record, control, replayed=replayed):
                        return batch
                else:
                    event = self._take_event(batch, index, record)
            except RejectedEvent as why:
                if replayed and why.reason is Reason.TOO_MANY_BACKFILLS and batch.registry.closed_slots:
                    batch.full = True
                    return batch
                batch.no_rate |= why.reason is Reason.NO_RATE
                batch.dead.append(DeadLetter(index, why.reason.value, why.field, str(why)))
            if replayed_until is not None and self.time == "wall":
                batch.clock = max(batch.clock, min(record.timestamp, replayed_until))
            batch.clocks.append(batch.clock)
            batch.events.append(event)
        return batch

    def _take_control(
        self, batch: Batch, index: int, record: KafkaRecord, event: ShardControl, *, replayed: bool
    ) -> bool:
        """Apply a control. Return whether it ends the batch, as a turn of its own."""
        if isinstance(event, ModelActivated):
            if self.time == "wall" or replayed:
                return False
            batch.start, batch.turn_records = Activation(event.activation, event.version), 1
            return True
        if isinstance(event, BackfillFinished):
            if not batch.registry.is_open(event.backfill):
                return False
            batch.turn_records = 1
            return self._ends(batch, index, [event.backfill], replayed=replayed)
        if self.time == "event":
            to = millis(event.to)
            self._check_date(to, record, batch.clock, "to")
            batch.clock = max(batch.clock, to)
        return False

    def _take_handed_on(
        self, batch: Batch, index: int, record: KafkaRecord, event: CustomerJoined | EventForwarded
    ) -> DecodedEvent:
        """Take what another customer hands on. Its shard has checked it; here it opens no backfill."""
        customer = event.customer_id.encode()
        if isinstance(event, EventForwarded):
            inner = event.event
            taken = DecodedEvent(
                to_entry(inner, self.currency, batch.conversion, event.arrived), inner.id, inner.backfill
            )
            newest = taken.entry.time
            if taken.backfill is not None and batch.registry.is_open(taken.backfill):
                self._mark(batch, index, taken.backfill, record.timestamp)
        else:
            link = _package(event)
            taken, newest = DecodedEvent(NO_ENTRY, event.merge), NONE
            if link.state is not None:
                newest = link.state.newest
            batch.links[index] = link
            batch.linked.add(customer)
        # As far as an event may set the clock ahead; the state or the event is taken in any case.
        ahead = newest - batch.clock
        if self.time == "event" and ahead > 0 and (batch.clock < 0 or ahead <= self.max_jump_ms):
            batch.clock = newest
        batch.own.setdefault(customer, []).append(index)
        return taken

    def _take_event(self, batch: Batch, index: int, record: KafkaRecord) -> DecodedEvent:
        customer, event = self._decoded(record, batch.conversion)
        at = event.entry.time
        self._check_age(at)
        self._check_date(at, record, batch.clock, "occurred_at")
        if event.backfill is not None:
            self._mark(batch, index, event.backfill, record.timestamp)
        if event.into is not None:
            batch.links[index] = LinkRecord((Edge(at, customer.decode(), event.into),))
            batch.linked.add(customer)
        if self.time == "event" and at > batch.clock:
            batch.clock = at
        own = batch.own.get(customer)
        if own is None:
            batch.own[customer] = [index]
        else:
            own.append(index)
        return event

    @staticmethod
    def _mark(batch: Batch, index: int, name: str, at: int) -> None:
        """Note that a record belongs to a backfill. Raises RejectedEvent if too many are open."""
        after, slot = batch.registry.mark(name, at)
        if slot is None:
            raise RejectedEvent(
                Reason.TOO_MANY_BACKFILLS,
                "backfill",
                f"backfill {name[:_SHOWN]!r} would be the {SLOTS + 1}th open one here: finish one of the others first.",
            )
        batch.mutes[index] = slot
        if after is not batch.registry:
            batch.note(index, after)

    @staticmethod
    def _ends(batch: Batch, index: int, names: list[str], *, replayed: bool) -> bool:
        """End these backfills. Return whether that ends the batch: a replayed one goes on."""
        if not replayed:
            batch.close = tuple(names)
            return True
        batch.note(index, batch.registry.close(names))
        batch.closed = True
        return False

    def _control(self, record: KafkaRecord) -> ShardControl | HandedOn:
        event = decode(record.value)
        if not isinstance(event, Control):
            raise RejectedEvent(
                Reason.KEY_NOT_CUSTOMER,
                "customer_id",
                f"an event of customer {event.customer_id[:_SHOWN]!r} under the key of controls.",
            )
        return event

    def _decoded(self, record: KafkaRecord, conversion: Conversion) -> tuple[bytes, DecodedEvent]:
        value = record.value
        if value is not None and len(value) > self.max_event_bytes:
            raise RejectedEvent(
                Reason.TOO_LARGE, None, f"the event has {len(value)} bytes, the limit is {self.max_event_bytes}."
            )
        event = decode(value)
        if isinstance(event, Control):
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
                f"the record's key is {_shown(record.key)}, the customer {_shown(customer)}: "
                "key orders by customer, or send to orders-unkeyed.",
            )
        if isinstance(event, CustomerMerged):
            return customer, _merge(event)
        entry = to_entry(event, self.currency, conversion, record.timestamp)
        return customer, DecodedEvent(entry, event.id, event.backfill)

    def _check_age(self, at: int) -> None:
        if at < self.earliest_ms:
            message = f"dated {iso(at)}, expected {iso(self.earliest_ms)} or later: check the sender's clock."
            raise RejectedEvent(Reason.DATE_OUT_OF_RANGE, "occurred_at", message)

    def _check_date(self, at: int, record: KafkaRecord, clock: int, name: str) -> None:
        if at > record.timestamp + self.tolerance_ms:
            raise RejectedEvent(
                Reason.DATED_AHEAD,
                name,
                f"dated {at - record.timestamp} ms after the record's arrival, allowed are {self.tolerance_ms} ms: "
                "check the sender's clock.",
            )
        # The first record of a shard sets its clock, and can't be ahead of it.
        if self.time == "event" and clock >= 0 and at > clock + self.max_jump_ms:
            raise RejectedEvent(
                Reason.CLOCK_JUMP,
                name,
                f"dated {at - clock} ms ahead of the shard's clock, allowed are {self.max_jump_ms} ms: "
                "send clock.advanced first.",
            )


def _merge(event: CustomerMerged) -> DecodedEvent:
    """Return a merge of the customer. Raises RejectedEvent."""
    if event.into in (event.from_, CONTROL_KEY.decode()):
        message = (
            f"customer {event.from_[:_SHOWN]!r} into {event.into[:_SHOWN]!r}: expected the id of another customer."
        )
        raise RejectedEvent(Reason.WRONG_FIELD, "into", message)
    entry = NO_ENTRY._replace(key=key_of(millis(event.occurred_at), PLACED))
    return DecodedEvent(entry, event.id, event.backfill, event.into)


def _package(event: CustomerJoined) -> LinkRecord:
    """Return what a package teaches. Raises RejectedEvent."""
    try:
        state = unpack(event.state)
    except StateFormatError as error:
        raise RejectedEvent(Reason.WRONG_FIELD, "state", str(error)) from None
    return LinkRecord(state.links.edges, event.giver, event.id, state if state.holds_anything else None)
