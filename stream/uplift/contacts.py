"""Customers' contacts with campaigns, from the topic of decisions; and which of them can be compared.

A contact is a `campaign.action`, or the `campaign.withheld` of a customer who was held out at the moment at which the
action would have been sent. Each customer counts once in a campaign, by the first contact of the period, and stays in
that group whatever comes later: what a campaign sets off is part of its effect.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from segmentation.output_events import Withheld
from stream.orders.rows import parse_at

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Contact(NamedTuple):
    """One contact of a customer. `at`: ms; `campaign`: a number; `held_out`: nothing was sent."""

    at: int
    campaign: int
    held_out: bool


class _Decision(msgspec.Struct, frozen=True, gc=False):
    """A record of the topic, as far as contacts need it."""

    type: str
    customer_id: str
    campaign: str
    occurred_at: str
    decided_at: str | None = None
    reason: str | None = None


class _Kind(msgspec.Struct, frozen=True, gc=False):
    type: str


_decision: Final = msgspec.json.Decoder(_Decision)
_kind: Final = msgspec.json.Decoder(_Kind)
_HELD_OUT: Final = Withheld.HELD_OUT.value


class Contacts:
    """All contacts of the customers with campaigns."""

    def __init__(self) -> None:
        """Give it the records with `take`."""
        self.campaigns: list[str] = []  # by number
        self.by_customer: dict[str, list[Contact]] = {}
        self.unreadable = 0  # records that are no decisions
        self._numbers: dict[str, int] = {}

    def take(self, value: bytes | None) -> None:
        """Take a record's value. Of decisions only contacts are kept; a record that is none is counted."""
        try:
            kind = _kind.decode(value or b"").type
            if kind not in {"campaign.action", "campaign.withheld"}:
                return
            decision = _decision.decode(value or b"")
            at = parse_at(decision.decided_at or decision.occurred_at)
        except ValueError:  # msgspec's errors are some
            self.unreadable += 1
            return
        held_out = kind == "campaign.withheld"
        if held_out and decision.reason != _HELD_OUT:
            return
        number = self._numbers.setdefault(decision.campaign, len(self.campaigns))
        if number == len(self.campaigns):
            self.campaigns.append(decision.campaign)
        self.by_customer.setdefault(decision.customer_id, []).append(Contact(at, number, held_out))


class Enrolment(NamedTuple):
    """A customer of a campaign's comparison. `at`: ms, of the first contact in the period."""

    customer: str
    at: int
    held_out: bool


@dataclass(slots=True)
class CampaignSample:
    """The customers of one campaign who can be compared.

    `contaminated`: customers left out because of contacts before; `later`: customers who stay in, although another
    campaign reached them within the time after.
    """

    campaign: str
    enrolled: list[Enrolment] = field(default_factory=list)
    contaminated: int = 0
    later: int = 0


def samples(contacts: Contacts, since_ms: int, span_ms: int, campaigns: Collection[str] = ()) -> list[CampaignSample]:
    """Return the samples by campaign, by name. `since_ms`: the beginning of the period; `campaigns`: none means all.

    Left out is a customer whom another campaign reached within `span_ms` before the first contact, or this one in the
    other group, whether treated or held out by it. A campaign that never held anybody out leaves nobody out: it has
    reached both groups alike, so the difference isn't its work. Those reached by others only afterwards stay: nothing
    that happens after a contact may decide who is compared, because the campaign itself can have set it off.
    """
    found = {name: CampaignSample(name) for name in contacts.campaigns if not campaigns or name in campaigns}
    dividing = {c.campaign for own in contacts.by_customer.values() for c in own if c.held_out}
    for customer, own in contacts.by_customer.items():
        own.sort()
        met: set[int] = set()
        for contact in own:
            number = contact.campaign
            sample = found.get(contacts.campaigns[number])
            if contact.at < since_ms or number in met or sample is None:
                continue
            met.add(number)
            if is_contaminated(contact, (c for c in own if c.campaign in dividing or c.campaign == number), span_ms):
                sample.contaminated += 1
                continue
            sample.enrolled.append(Enrolment(customer, contact.at, contact.held_out))
            sample.later += any(c.campaign != number and contact.at < c.at <= contact.at + span_ms for c in own)
    return sorted(found.values(), key=lambda sample: sample.campaign)


def is_contaminated(contact: Contact, own: Iterable[Contact], span_ms: int) -> bool:
    """Return whether another of the customer's contacts, up to this one, keeps it from being compared.

    >>> is_contaminated(Contact(9, 1, False), [Contact(5, 2, False), Contact(9, 1, False)], 4)
    True
    >>> is_contaminated(Contact(9, 1, False), [Contact(4, 2, False), Contact(9, 1, False), Contact(10, 2, True)], 4)
    False
    """
    begun = contact.at - span_ms
    return any(
        begun <= other.at <= contact.at and (other.campaign, other.held_out) != (contact.campaign, contact.held_out)
        for other in own
    )


def share_shifts(enrolled: list[Enrolment]) -> bool:
    """Return whether the share of those held out changes with time, more than chance would explain (1 in 1,000).

    Chi square of four equal spans of customers in the order of time, with 3 degrees of freedom.
    """
    ordered = [e.held_out for e in sorted(enrolled, key=lambda e: e.at)]
    size = len(ordered) // _SPANS
    counts = Counter[int]()
    for place, held_out in enumerate(ordered[: size * _SPANS]):
        counts[place // size] += held_out
    share = counts.total() / max(size * _SPANS, 1)
    expected = share * size
    if min(expected, size - expected) < _LEAST_EXPECTED:
        return False
    chi_square = sum((counts[span] - expected) ** 2 for span in range(_SPANS)) / (expected * (1 - share))
    return chi_square > _RARE_CHI_SQUARE


_SPANS: Final = 4
_LEAST_EXPECTED: Final = 5  # in each span: below, the approximation isn't good
_RARE_CHI_SQUARE: Final = 16.266
