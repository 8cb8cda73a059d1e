from __future__ import annotations

import random
from typing import Any

from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.events import encode
from segmentation.output_events import CampaignAction, CampaignScheduled, CampaignWithheld, Withheld
from stream.uplift.contacts import Contacts, Enrolment, samples, share_shifts

SPAN = 30 * DAY_MS
START = 1_780_000_000_000


def common(customer: str, campaign: str, day: float) -> dict[str, Any]:
    at = iso(START + int(day * DAY_MS))
    return {
        "id": f"{customer}{campaign}{day}",
        "customer_id": customer,
        "campaign": campaign,
        "segment": "Lost",
        "action": "Mail",
        "channel": "email",
        "change_id": f"{customer}{day}",
        "occurred_at": at,
        "decided_at": at,
        "rules": "0123abcd",
    }


def sent(customer: str, campaign: str = "win-back", day: float = 0) -> bytes:
    return encode(CampaignAction(**common(customer, campaign, day), reason="it is time"))


def withheld(customer: str, campaign: str = "win-back", day: float = 0, reason: Withheld = Withheld.HELD_OUT) -> bytes:
    return encode(CampaignWithheld(**common(customer, campaign, day), reason=reason, detail="in the control group"))


def contacts_of(*values: bytes | None) -> Contacts:
    contacts = Contacts()
    for value in values:
        contacts.take(value)
    return contacts


def enrolled(*values: bytes, since: int = 0, campaign: str = "win-back") -> list[tuple[str, bool]]:
    (found,) = (s for s in samples(contacts_of(*values), since, SPAN) if s.campaign == campaign)
    return [(e.customer, e.held_out) for e in found.enrolled]


def test_actions_and_hold_outs_are_contacts_and_nothing_else() -> None:
    other = [withheld(f"x{reason}", reason=reason) for reason in Withheld if reason is not Withheld.HELD_OUT]
    scheduled = encode(CampaignScheduled(**common("s", "win-back", 0), until=iso(START), why="delay"))
    assert enrolled(sent("a"), withheld("b"), *other, scheduled) == [("a", False), ("b", True)]


def test_records_that_are_no_decisions_are_counted() -> None:
    found = contacts_of(None, b"", b"\xff", b"[1]", b'{"type": "campaign.action"}', b'{"type": "else"}', sent("a"))
    assert found.unreadable == 5
    assert set(found.by_customer) == {"a"}


def test_an_action_of_a_version_before_is_dated_by_its_move() -> None:
    fields = {**common("a", "win-back", 3), "decided_at": None, "rules": None}
    (own,) = contacts_of(encode(CampaignAction(**fields, reason=""))).by_customer.values()
    assert own[0].at == START + 3 * DAY_MS


def test_each_customer_counts_once_from_the_first_contact_of_the_period() -> None:
    values = [sent("a", day=9), sent("a", day=5), sent("a", day=70)]
    (sample,) = samples(contacts_of(*values), 0, SPAN)
    assert sample.enrolled == [Enrolment("a", START + 5 * DAY_MS, held_out=False)]
    (later,) = samples(contacts_of(*values), START + 6 * DAY_MS, SPAN)
    assert later.enrolled == [Enrolment("a", START + 9 * DAY_MS, held_out=False)]


DIVIDED = withheld("z", "thanks")  # somebody is held out of it


def test_a_campaign_before_contaminates_in_whatever_group() -> None:
    for before in (sent("a", "thanks", 1), withheld("a", "thanks", 1)):
        for own in (sent("a", day=5), withheld("a", day=5)):
            assert enrolled(DIVIDED, before, own) == []
            assert enrolled(before, own, campaign="thanks") == [("a", before == withheld("a", "thanks", 1))]
    assert enrolled(DIVIDED, sent("a", "thanks", 0), sent("a", day=31)) == [("a", False)]
    assert enrolled(DIVIDED, sent("a", "thanks", 5), sent("a", day=5)) == []  # at one instant neither is alone


def test_a_campaign_that_holds_nobody_out_contaminates_nobody() -> None:
    receipt = [sent(name, "receipt", 4) for name in "ab"]
    both = [sent("a", day=5), withheld("b", day=5)]
    assert enrolled(*receipt, *both) == [("a", False), ("b", True)]
    assert enrolled(*receipt, *both, withheld("z", "receipt", 60)) == []


def test_contacts_before_the_period_contaminate_too() -> None:
    assert enrolled(DIVIDED, sent("a", "thanks", 1), sent("a", day=5), since=START + 2 * DAY_MS) == []


def test_the_other_group_of_the_same_campaign_contaminates() -> None:
    """With a rotation, a customer who was treated may be held out a month later."""
    since = START + 10 * DAY_MS
    assert enrolled(sent("a", day=5), withheld("a", day=20), since=since) == []
    assert enrolled(withheld("a", day=5), withheld("a", day=20), since=since) == [("a", True)]


def test_a_campaign_afterwards_takes_nobody_out() -> None:
    (thanks, own) = samples(contacts_of(sent("a", day=5), withheld("a", "thanks", 9), withheld("z")), 0, SPAN)
    assert [e.customer for e in own.enrolled] == ["a", "z"]
    assert (own.later, own.contaminated) == (1, 0)
    assert (thanks.enrolled, thanks.contaminated) == ([], 1)


def test_only_the_wanted_campaigns() -> None:
    contacts = contacts_of(sent("a"), sent("b", "thanks"))
    assert [s.campaign for s in samples(contacts, 0, SPAN, ["thanks"])] == ["thanks"]
    assert [s.campaign for s in samples(contacts, 0, SPAN)] == ["thanks", "win-back"]


def test_a_share_that_changes_is_noticed() -> None:
    rng = random.Random(1)

    def people(shares: list[float]) -> list[Enrolment]:
        return [Enrolment(str(i), i, held_out=rng.random() < share) for i, share in enumerate(shares)]

    assert share_shifts(people([0.05] * 2_000 + [0.2] * 2_000))
    assert not share_shifts(people([0.05] * 20 + [0.9] * 20)[:15])
    assert sum(share_shifts(people([0.1] * 2_000)) for _ in range(200)) <= 2
    assert not share_shifts([])
