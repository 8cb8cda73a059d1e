"""The remains of gone customers in campaigns: the later one of two is found, and other ids are sealed."""

from __future__ import annotations

from segmentation.campaign_rules import default_rules, parse_rules
from segmentation.campaign_state import CampaignState, Facts, Merged
from segmentation.campaigns import CampaignStep
from segmentation.profiles import DatedText, Profile
from stream.reshard.placement import later
from stream.storage.remains import opened_remains, stored_remains

STEP = CampaignStep(parse_rules(default_rules()), "shop")
PROFILE = Profile(time_zone=DatedText(1, "Europe/Berlin"))


def stored(state: CampaignState) -> bytes:
    value = state.pack()
    assert STEP.is_gone(value)
    return stored_remains(value, b"guest-1", b"salt", STEP.rank(value))[1]


def test_the_later_of_two_remains_is_that_of_the_greater_sequence() -> None:
    for first, second in ((1, 2), (255, 256), (65_535, 65_536), (2**31, 2**32 - 1)):
        one, other = (stored(CampaignState(n, since=n, facts=Facts(PROFILE))) for n in (first, second))
        assert later(one, other) == later(other, one) == other


def test_the_id_that_another_was_merged_into_is_sealed() -> None:
    state = CampaignState(3, since=3, facts=Facts(PROFILE, merged=Merged(7, "ann-of-the-test")))
    left = stored(state)
    assert b"ann-of-the-test" not in left
    assert b"Berlin" not in left
    assert CampaignState.unpack(opened_remains(left, b"guest-1", b"salt")) == state
    erased = stored(CampaignState(9, since=9))
    assert later(left, erased) == left, "a merge is never forgotten"
