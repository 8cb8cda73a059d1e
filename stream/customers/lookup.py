"""The look-up of one customer, with the outlook and the next move if nothing is bought."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from segmentation.clock_scorer import ClockScorer
from segmentation.decisions import CompiledModel, ScoringContext, search
from segmentation.definitions import clock_facts, definition, outlook_line, why
from segmentation.entries import NONE, Entry, Kind
from segmentation.event_text import instant, iso
from segmentation.forecast import keeping_purchase
from segmentation.life_figures import LIFELESS, life_figures
from segmentation.meaning import read_counted
from segmentation.money import format_units
from segmentation.outlook_figures import outlook_of_lives, purchases_of_lives
from segmentation.output_events import LifeFigures, OutlookFigures
from segmentation.rates import currency_code, format_rate
from segmentation.rfm import StateFormatError, advance_bytes, announcement, is_silent, muted_by, unpack
from segmentation.step import NEVER_DUE
from stream.customers.figures import CustomerFigures, figures_at
from stream.errors import SegstreamError
from stream.orders.rows import parse_at
from stream.storage.client import redis_client
from stream.storage.keys import ShardKeys
from stream.storage.reads import read_clock, read_head, require_head
from stream.traces.person import Person, person_of, stored_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from segmentation.model import SegmentModel
    from stream.models.topic import PublishedModels
    from stream.settings import Settings

_KINDS: Final = {
    Kind.PLACED: "placed",
    Kind.REFUNDED: "refunded",
    Kind.CANCELLED: "cancelled",
    Kind.ANCHOR: "last order before the window",
    Kind.ERASED: "erased",
}


_SMALLEST_PURCHASE: Final = "0.01"


class CustomerUnknown(SegstreamError):
    """No shard has a customer with that id."""


class CustomerUnreadable(SegstreamError):
    """The customer's value in Redis isn't a state."""


class KnownEntry(msgspec.Struct, frozen=True):
    """An event that the state keeps, without its id: the state has only a hash of that.

    `counts`: whether it is part of frequency or monetary value. Cancellations, cancelled orders and events that have
    left the window aren't. `paid`: what was paid, like "25.00 USD", where that was in another currency.
    """

    at: str
    kind: str
    amount: str  # in the deployment's currency
    counts: bool
    paid: str | None = None
    rate: str | None = None  # that it was converted by


class NextSegment(msgspec.Struct, frozen=True):
    """The segment that the customer will move to, and when, unless something happens before.

    `kept_by`: the smallest purchase just before that instant that keeps the present segment; None: no purchase does.
    """

    segment: str
    at: str
    kept_by: str | None = None


class CustomerReport(msgspec.Struct, frozen=True):
    """All that is known of a customer, as of the shard's clock in event time, as of now in wall time."""

    customer_id: str
    ids: list[str]  # of the same customer, the one that stays first
    merged_into: str | None  # the id that stays, if it is another: then nothing else is known under this one
    partition: int
    as_of: str
    recency_days: float | None
    frequency: int
    monetary: str
    incomplete: bool
    erased_at: str | None  # set if the erasure is all that is known of the customer
    first_order_at: str | None  # of the orders that stand
    life: LifeFigures | None  # None: no order stands
    outlook: OutlookFigures | None  # None: no order stands, or the active model has none
    segment: str | None
    definition: str | None  # who is in the segment; None: its model places by centres, or isn't active any more
    why: str | None  # by the customer's own figures; None: likewise
    sequence: int
    last_move_at: str | None
    backfill: str | None  # the backfill that mutes the customer
    next: NextSegment | None
    entries: list[KnownEntry]


def customer(settings: Settings, published: PublishedModels, customer_id: str, now_ms: int) -> CustomerReport:
    """Return all that is known of a customer. Raises CustomerUnknown, CustomerUnreadable, RedisUnreachable."""
    with redis_client(settings) as redis:
        for found in reports(redis, settings, published, customer_id, now_ms):
            return found
    raise CustomerUnknown(
        f"no customer {customer_id!r} in the {settings.partitions} shards of {settings.group}.",
        hint="Check the id, and check with `segstream status` that the workers have read its orders.",
    )


def reports(
    redis: Redis, settings: Settings, published: PublishedModels, customer_id: str, now_ms: int
) -> Iterator[CustomerReport]:
    """Yield all that each shard knows of a customer: usually one does.

    Raises CustomerUnreadable, ShardUnreadable where a shard can't answer, RedisError.
    """
    for partition in range(settings.partitions):
        keys = ShardKeys(settings.group, settings.orders_topic, partition)
        require_head(redis, keys, settings)
        value = stored_value(redis, settings, keys, customer_id)
        if value is None:
            continue
        at_ms = _as_of(redis, settings, keys, now_ms)
        try:
            person = person_of(redis, settings, customer_id)
            yield report(
                settings, published, person, customer_id, partition, value, at_ms, _muted_by(redis, keys, value)
            )
        except StateFormatError as error:
            raise CustomerUnreadable(
                f"the state of {customer_id!r} in {keys.states} can't be read: {error}.",
                hint="Check SEGSTREAM_REDIS_URL and SEGSTREAM_GROUP; `segstream rebuild` rebuilds all states.",
            ) from error


def report(
    settings: Settings,
    published: PublishedModels,
    person: Person,
    customer_id: str,
    partition: int,
    value: bytes,
    as_of_ms: int,
    backfill: str | None = None,
) -> CustomerReport:
    """Return all that a state holds, as of an instant. `backfill`: the one that mutes it. Raises StateFormatError."""
    # The clock was read before the state, which a worker may have advanced in between.
    state = unpack(advance_bytes(value, as_of_ms, settings.rules))
    known = figures_at(value, as_of_ms, settings.rules)
    erased = None if known else next((e.time for e in state.entries if e.kind == Kind.ERASED), None)
    counting = read_counted(state.entries, as_of_ms, state.cut, settings.rules)
    counts = {*counting.orders.values(), *counting.refunds}
    life = life_figures(known.life) if known else None
    figures = known or CustomerFigures(None, 0, 0, state.segment, state.sequence, False, LIFELESS)
    explained = _explained(published.active, figures, as_of_ms, settings.currency)
    outlook = published.active.outlook if published.active else None
    return CustomerReport(
        customer_id=customer_id,
        ids=list(person.ids),
        merged_into=None if person.customer_id == customer_id else person.customer_id,
        partition=partition,
        as_of=iso(as_of_ms),
        recency_days=figures.recency_days,
        frequency=figures.frequency,
        monetary=format_units(figures.monetary_units),
        incomplete=figures.incomplete,
        erased_at=None if erased is None else iso(erased),
        first_order_at=life.first_order_at if life else None,
        life=life,
        outlook=outlook_of_lives(outlook, [figures.life], as_of_ms)[0],
        segment=published.name(state.segment),
        definition=explained.definition,
        why=explained.why,
        sequence=state.sequence,
        last_move_at=None if state.moved_at == NONE else iso(state.moved_at),
        backfill=backfill,
        next=forecast(settings, published, value, as_of_ms),
        entries=[_known_entry(e, counts=e in counts) for e in reversed(state.entries)],
    )


class _Explained(NamedTuple):
    definition: str | None = None
    why: str | None = None


def _explained(model: SegmentModel | None, figures: CustomerFigures, as_of_ms: int, currency: str) -> _Explained:
    """Return who is in the customer's segment, and why the customer is."""
    segment = next((s for s in model.segments if s.id == figures.segment), None) if model else None
    if model is None or segment is None:
        return _Explained()
    who = definition(model, segment, currency)
    if model.format == 1 or not figures.life.life.orders:
        return _Explained(who)
    purchases = purchases_of_lives([figures.life], as_of_ms)
    facts = clock_facts(ClockScorer(model), purchases, as_of_ms, figures.life.last)
    return _Explained(who, why(model, segment, facts, currency))


def _known_entry(e: Entry, *, counts: bool) -> KnownEntry:
    paid = rate = None
    if e.foreign:
        paid = f"{format_units(e.foreign.paid)} {currency_code(e.foreign.currency)}"
        rate = format_rate(e.foreign.rate)
    return KnownEntry(iso(e.time), _KINDS[Kind(e.kind)], format_units(e.amount), counts, paid, rate)


def forecast(settings: Settings, published: PublishedModels, value: bytes, as_of_ms: int) -> NextSegment | None:
    """Return the next move if nothing is bought, by the worker's search; None without a model, segment or move."""
    if published.active is None or is_silent(value):
        return None
    model = CompiledModel.of(published.active, settings.group, published.names)
    scoring = ScoringContext.of(model, settings.dwell_ms, settings.rules)
    value = advance_bytes(value, as_of_ms, settings.rules)
    if announcement(value)[0] not in model.scorer.index_of:
        return None
    (due,), (target,), _ = search([value], [as_of_ms], scoring)
    if due >= NEVER_DUE:
        return None
    kept = keeping_purchase(value, due, scoring)
    to = next(segment.name for segment in published.active.segments if segment.id == target)
    return NextSegment(to, iso(due), None if kept is None else format_units(kept))


def _muted_by(redis: Redis, keys: ShardKeys, value: bytes) -> str | None:
    """Return the id of the backfill that mutes a customer; None: no backfill does."""
    slot = muted_by(value)
    head = read_head(redis, keys) if slot else None
    rows = head.backfills.rows if head else ()
    return next((row.id for row in rows if row.slot == slot and not row.closed), None)


def _as_of(redis: Redis, settings: Settings, keys: ShardKeys, now_ms: int) -> int:
    """Return the instant of a report. Raises SettingsDiffer where the state is under other settings."""
    clock = read_clock(redis, keys, settings)
    return now_ms if clock is None or settings.time == "wall" else clock


def sentence(next_move: NextSegment, at_ms: int, segment: str, currency: str) -> str:
    """Return a forecast as text for people. `segment`: the present one.

    >>> sentence(NextSegment("At Risk", "2026-03-03T14:20:00.000Z", "49.90"), 1_772_547_600_000, "Loyal", "EUR")
    'goes to At Risk on 3 March 2026, 14:20 UTC, unless something is bought: a purchase of 49.90 EUR keeps Loyal'
    """
    at = instant(at_ms)
    text = f"goes to {next_move.segment} on {at.day} {at:%B %Y, %H:%M} UTC, unless something is bought"
    if next_move.kept_by is None:
        return text
    least = (
        "any purchase" if next_move.kept_by == _SMALLEST_PURCHASE else f"a purchase of {next_move.kept_by} {currency}"
    )
    return f"{text}: {least} keeps {segment}"


def life_lines(life: LifeFigures, currency: str) -> list[str]:
    """Return a whole life as text for people.

    >>> days = {"first_order_at": "2024-01-05T09:00:00.000Z", "last_order_at": "2026-03-03T14:20:00.000Z"}
    >>> for line in life_lines(LifeFigures(40, 33, "1900.00", "47.50", **days, typical_gap_days=14.0), "EUR"):
    ...     print(line)
    whole life: 40 orders on 33 days, net 1900.00 EUR, 47.50 EUR an order, typically 14 days between two purchase days
      from 2024-01-05T09:00:00.000Z to 2026-03-03T14:20:00.000Z
    """
    orders, days = (f"{n} {noun}{'s' * (n != 1)}" for n, noun in ((life.orders, "order"), (life.purchase_days, "day")))
    figures = f"{orders} on {days}, net {life.monetary} {currency}, {life.mean_order_value} {currency} an order"
    if life.typical_gap_days is not None:
        figures += f", typically {life.typical_gap_days:g} days between two purchase days"
    known = " (partial: earlier orders were forgotten before they were counted)" if life.partial else ""
    return [f"whole life: {figures}", f"  from {life.first_order_at} to {life.last_order_at}{known}"]


def report_lines(report: CustomerReport, settings: Settings) -> list[str]:
    """Return a report as text for people, without the entries."""
    where = f"(partition {report.partition})"
    if report.merged_into is not None:
        shown = f"`segstream customer {report.merged_into}` shows the customer"
        return [f"{report.customer_id} was merged into {report.merged_into} {where}: {shown}"]
    if report.erased_at is not None:
        return [f"{report.customer_id} was erased at {report.erased_at} {where}: nothing else is known"]
    currency, lines = settings.currency, []
    if len(report.ids) > 1:
        lines.append(f"{report.customer_id} has {len(report.ids)} ids: {', '.join(report.ids)}")
    recency = "no order left" if report.recency_days is None else f"last order {report.recency_days:.2f} days before"
    lines.append(f"{report.customer_id} as of {report.as_of} {where}")
    lines.append(
        f"  {recency}; orders in the last {settings.window_days} days: {report.frequency}, net "
        f"{report.monetary} {currency}" + (", incomplete" if report.incomplete else "")
    )
    if report.life is not None:
        lines += [f"  {line}" for line in life_lines(report.life, currency)]
    if report.outlook is not None:
        lines.append(f"  {outlook_line(report.outlook, currency)}")
    since = f" since {report.last_move_at}, move {report.sequence}" if report.last_move_at else ""
    lines.append(f"  segment {report.segment or 'none yet'}{since}")
    if report.definition is not None:
        lines.append(f"    who this is: {report.definition}")
    if report.why is not None:
        lines.append(f"    this customer: {report.why}")
    if report.backfill is not None:
        lines.append(f"  muted by backfill {report.backfill}: no move is published until it is finished")
    if report.next is not None:
        lines.append(f"  {sentence(report.next, parse_at(report.next.at), report.segment or '', currency)}")
    return lines
