"""All that the uplift of campaigns is measured by, read from the topics; the orders also from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.entries import DAY_MS, NEVER, NONE
from segmentation.rates import ONE_CURRENCY, Conversion
from stream.errors import SegstreamError
from stream.orders.files import FileFormat, read_orders
from stream.rates.topic import read_rates
from stream.uplift.contacts import Contacts
from stream.uplift.measure import BEFORE_DAYS, UpliftReport, UpliftRequest, measure
from stream.uplift.purchases import PurchaseHistories
from stream.uplift.reading import read_since

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from stream.settings import Settings

# An order's record may be this much older than the order says it is: the tolerance of dates ahead, and clocks.
_EARLIER_MS: Final = DAY_MS


class NoContacts(SegstreamError):
    """No campaign has reached anybody, or not the one that was named."""


class UpliftWanted(NamedTuple):
    """The uplift that is wanted. `since_ms`: contacts from then on, None: all; `campaigns`: none means all.

    `orders`: a file of orders instead of the topic.
    """

    days: int
    since_ms: int | None = None
    campaigns: Collection[str] = ()
    orders: Path | None = None
    file_format: FileFormat | None = None


async def uplift(
    settings: Settings, wanted: UpliftWanted, now_ms: int, progress: Callable[[int], None] = lambda _records: None
) -> UpliftReport:
    """Read the decisions and the orders, and return the uplift of each campaign.

    Keeps the contacts, and the orders of customers with a contact; everything else goes by. Raises NoContacts,
    OrderFileError, KafkaUnreachable, TopicUnusable, ReadingStalled.
    """
    since, span = wanted.since_ms or 0, wanted.days * DAY_MS
    contacts = Contacts()
    start = None if wanted.since_ms is None else since - span
    await read_since(settings, settings.actions_topic, start, lambda record: contacts.take(record.value), progress)
    _check(settings, wanted, contacts)
    first = min(own[0].at for own in map(sorted, contacts.by_customer.values()))
    purchases = await _purchases(settings, wanted, contacts, max(first, since) - BEFORE_DAYS * DAY_MS, progress)
    known_until = _known_until(settings, wanted, contacts, purchases)
    request = UpliftRequest(
        since, min(now_ms, known_until), wanted.days, settings.rules, settings.currency, wanted.campaigns
    )
    return measure(request, contacts, purchases)


async def _purchases(
    settings: Settings, wanted: UpliftWanted, contacts: Contacts, since_ms: int, progress: Callable[[int], None]
) -> PurchaseHistories:
    others = settings.all_currencies - {settings.currency}
    conversion = Conversion(others, await read_rates(settings)) if others else ONE_CURRENCY
    found = PurchaseHistories(contacts.by_customer, settings.currency, conversion)
    if wanted.orders is None:
        await read_since(settings, settings.orders_topic, since_ms - _EARLIER_MS, found.take_record, progress)
    else:
        for row in read_orders(wanted.orders, format=wanted.file_format, currency=settings.currency):
            found.take_row(row)
    return found


def _known_until(settings: Settings, wanted: UpliftWanted, contacts: Contacts, purchases: PurchaseHistories) -> int:
    """Return the instant (ms) up to which purchases are known; NEVER: up to now. Raises NoContacts."""
    if wanted.orders is not None:
        if purchases.latest_ms == NONE:
            raise NoContacts(f"{wanted.orders} has no usable row.", hint="Give the file with the orders.")
        return purchases.latest_ms
    if settings.time == "event":
        # A decision is dated by the clock, so all that came before it had been read.
        return max(purchases.latest_ms, *(contact.at for own in contacts.by_customer.values() for contact in own))
    return NEVER


def _check(settings: Settings, wanted: UpliftWanted, contacts: Contacts) -> None:
    """Raise NoContacts where there is nothing to compare."""
    if not contacts.campaigns:
        raise NoContacts(
            f"no campaign has acted, nor held anybody out, on topic {settings.actions_topic} in this time.",
            hint="`segstream tail actions` shows the decisions; --since may lie too late.",
        )
    if unknown := sorted(set(wanted.campaigns) - set(contacts.campaigns)):
        raise NoContacts(
            f"no decision of a campaign {unknown[0]!r} on topic {settings.actions_topic} in this time.",
            hint=f"Its decisions are of: {', '.join(sorted(contacts.campaigns))}.",
        )
