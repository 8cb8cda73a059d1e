"""Profiles: a join of dated fields, whatever comes when; and the checks of an event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation.events import Reason, RejectedEvent
from segmentation.profiles import (
    MAX_CHANNELS,
    MOST_CHANNELS,
    CustomerProfile,
    DatedText,
    Profile,
    decode_profile,
    profile_of,
)
from tests.support.oracles.local_time import ms_at, utc

AT = ms_at("2026-03-03T14:20:00Z")
ZONES = ["Europe/Berlin", "America/New_York", "Nowhere", "UTC"]


class Said(dict[str, Any]):
    """An event's own fields, of a few dates, zones, channels and languages, so that many meet."""


Events = st.fixed_dictionaries(
    {"at": st.integers(1, 4)},
    optional={
        "time_zone": st.sampled_from(ZONES),
        "consent": st.dictionaries(st.sampled_from(["email", "sms"]), st.sampled_from(["granted", "denied"])),
        "language": st.sampled_from(["de", "de-AT", "en"]),
    },
).map(Said)


def event(said: Said) -> CustomerProfile:
    body = {name: value for name, value in said.items() if name != "at"}
    at = utc(said["at"]).isoformat()
    return decode_profile(
        json.dumps({"type": "customer.profile", "id": "p", "customer_id": "c", "occurred_at": at, **body}).encode()
    )


def joined(events: Sequence[Said]) -> Profile:
    profile = Profile()
    for said in events:
        profile = profile.join(profile_of(event(said), AT, 0))
    return profile


def latest(events: Sequence[Said], erased_at: int) -> dict[str, str]:
    """Return what a reader of all events finds: of each field the content of the latest event that has it."""
    rows = []
    for said in events:
        fields = {name: said[name] for name in ("time_zone", "language") if name in said} | said.get("consent", {})
        rows += [(said["at"], text == "denied", text, name) for name, text in fields.items() if said["at"] > erased_at]
    return {name: text for _, _, text, name in sorted(rows)}


def content(profile: Profile) -> dict[str, str]:
    fields = {"time_zone": profile.time_zone, "language": profile.language, **dict(profile.consent)}
    return {name: found.text for name, found in fields.items() if found is not None}


Lists = st.lists(Events, max_size=6)


@given(Lists, st.integers(0, 5), st.randoms(use_true_random=False))
def test_of_each_field_the_latest_by_date_wins_in_any_order(events: list[Said], erased_at: int, random: Any) -> None:
    expected = latest(events, erased_at)
    assert content(joined(events).since(erased_at)) == expected
    again = [*events, *random.sample(events, len(events) // 2)]
    random.shuffle(again)
    assert joined(again) == joined(events)
    assert content(joined(again).since(erased_at)) == expected


@given(Lists, Lists, Lists, st.integers(0, 5))
def test_it_is_a_join_and_an_erasure_goes_through_it(a: list[Said], b: list[Said], c: list[Said], erased: int) -> None:
    x, y, z = joined(a), joined(b), joined(c)
    assert x.join(y) == y.join(x)
    assert x.join(y).join(z) == x.join(y.join(z))
    assert x.join(x) == x.join(Profile()) == Profile().join(x) == x
    assert x.join(y).since(erased) == x.since(erased).join(y.since(erased))
    assert x.since(erased).since(erased) == x.since(erased)


def test_of_two_answers_of_one_instant_the_denial_counts() -> None:
    """To send nothing is the smaller fault."""
    said = [Said(at=1, consent={"email": text}) for text in ("denied", "granted")]
    assert joined(said).consent_for("email") == joined(said[::-1]).consent_for("email") == "denied"


@given(Lists, st.sampled_from(["email", "sms", "phone"]))
def test_a_channel_without_an_answer_has_none(events: list[Said], channel: str) -> None:
    assert joined(events).consent_for(channel) == latest(events, 0).get(channel)


@pytest.mark.parametrize(
    ("known", "zone", "invalid"),
    [(None, "Asia/Tokyo", False), ("Europe/Berlin", "Europe/Berlin", False), ("Middle/Earth", "Asia/Tokyo", True)],
)
def test_an_invalid_zone_gives_way_to_the_other_and_is_seen(known: str | None, zone: str, *, invalid: bool) -> None:
    profile = Profile(None if known is None else DatedText(1, known))
    assert profile.zone("Asia/Tokyo") == (ZoneInfo(zone), invalid)


def test_a_later_invalid_zone_still_wins_by_date() -> None:
    """Whether a name is known depends on the machine's zones: states don't."""
    said = [Said(at=1, time_zone="Europe/Berlin"), Said(at=2, time_zone="Nowhere")]
    assert joined(said).zone("UTC") == (ZoneInfo("UTC"), True)


BODY = {"type": "customer.profile", "id": "p-1", "customer_id": "c-1", "occurred_at": "2026-03-03T14:20:00Z"}


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"type": "order.placed"}, Reason.UNKNOWN_TYPE, "type"),
        ({"type": "profile.forwarded"}, Reason.UNKNOWN_TYPE, "type"),
        ({"type": None}, Reason.WRONG_FIELD, "type"),
        ({"occurred_at": "2026-03-03T14:20:00"}, Reason.NO_TIME_ZONE, "occurred_at"),
        ({"occurred_at": "yesterday"}, Reason.WRONG_FIELD, "occurred_at"),
        ({"customer_id": ""}, Reason.ID_LENGTH, "customer_id"),
        ({"customer_id": "c" * 257}, Reason.ID_LENGTH, "customer_id"),
        ({"id": 7}, Reason.WRONG_FIELD, "id"),
        ({"time_zone": ""}, Reason.ID_LENGTH, "time_zone"),
        ({"time_zone": "z" * 65}, Reason.ID_LENGTH, "time_zone"),
        ({"language": "l" * 36}, Reason.ID_LENGTH, "language"),
        ({"consent": {"email": "yes"}}, Reason.WRONG_FIELD, "consent"),
        ({"consent": {"email": True}}, Reason.WRONG_FIELD, "consent"),
        ({"consent": ["email"]}, Reason.WRONG_FIELD, "consent"),
        ({"consent": {f"c{n}": "denied" for n in range(MAX_CHANNELS + 1)}}, Reason.WRONG_FIELD, "consent"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], reason: Reason, field: str) -> None:
    with pytest.raises(RejectedEvent) as caught:
        decode_profile(json.dumps(BODY | change).encode())
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert field in caught.value.message


@pytest.mark.parametrize("missing", ["type", "id", "customer_id", "occurred_at"])
def test_a_missing_field_is_named(missing: str) -> None:
    body = {name: value for name, value in BODY.items() if name != missing}
    with pytest.raises(RejectedEvent) as caught:
        decode_profile(json.dumps(body).encode())
    assert (caught.value.reason, caught.value.field) == (Reason.MISSING_FIELD, missing)


@pytest.mark.parametrize(
    "value", [None, b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"type": "customer.profile\xff"}']
)
def test_anything_else_is_refused_with_a_reason(value: bytes | None) -> None:
    with pytest.raises(RejectedEvent):
        decode_profile(value)


def test_a_channel_is_refused_with_the_answers_that_count() -> None:
    with pytest.raises(RejectedEvent, match="granted or denied") as caught:
        decode_profile(json.dumps(BODY | {"consent": {"email": "maybe"}}).encode())
    assert caught.value.field == "consent"


def test_fields_that_are_null_or_unknown_change_nothing() -> None:
    nothing = {"time_zone": None, "consent": None, "language": None, "shoe_size": 42}
    assert profile_of(decode_profile(json.dumps(BODY | nothing).encode()), AT, 0) == Profile()


@pytest.mark.parametrize(("ahead", "refused"), [(0, False), (300_000, False), (300_001, True)])
def test_a_date_ahead_of_the_record_is_refused_beyond_the_tolerance(ahead: int, *, refused: bool) -> None:
    found = decode_profile(json.dumps(BODY | {"language": "de"}).encode())
    if refused:
        with pytest.raises(RejectedEvent, match="later than the record's own time") as caught:
            profile_of(found, AT - ahead, 300_000)
        assert (caught.value.reason, caught.value.field) == (Reason.DATED_AHEAD, "occurred_at")
    else:
        assert profile_of(found, AT - ahead, 300_000) == Profile(language=DatedText(AT, "de"))


def test_a_date_before_1970_is_refused() -> None:
    with pytest.raises(RejectedEvent) as caught:
        profile_of(decode_profile(json.dumps(BODY | {"occurred_at": "1969-01-01T00:00:00Z"}).encode()), AT, 0)
    assert caught.value.reason is Reason.DATE_OUT_OF_RANGE


def test_of_ever_new_channels_the_latest_stay_in_any_order_and_the_forgotten_count_as_denied() -> None:
    parts = [
        Profile(consent=tuple(sorted((f"{n}-{i}", DatedText(n, "granted")) for i in range(MAX_CHANNELS))))
        for n in range(12)
    ]
    forward, backward, halves = Profile(), Profile(), Profile()
    for part in parts:
        forward = forward.join(part)
    for part in reversed(parts):
        backward = part.join(backward)
    for begin in range(0, 12, 2):
        halves = halves.join(parts[begin + 1].join(parts[begin]))
    assert forward == backward == halves == forward.join(parts[0])
    assert len(forward.consent) == MOST_CHANNELS
    assert (forward.consent_for("11-0"), forward.consent_for("0-0")) == ("granted", "denied")
    assert parts[0].consent_for("elsewhere") is None
