"""Hold-outs: who is held out is stable, of the right size, independent of all else, and changes by the period only."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from hashlib import blake2b
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation.holdouts import (
    GLOBAL,
    Rotation,
    campaign_scope,
    is_held_out,
    period_end,
    period_of,
    tag_scope,
)
from tests.support.oracles.local_time import ms_at, on_the_wall, utc

ROTATIONS: list[Rotation] = ["never", "month", "quarter", "year"]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Pacific/Kiritimati", "Australia/Lord_Howe", "Asia/Beirut"]
Customers = st.text(min_size=1, max_size=20).map(lambda name: name.encode("utf-8", "surrogatepass"))
Scopes = st.sampled_from([GLOBAL, tag_scope("marketing"), campaign_scope("win-back"), campaign_scope("global")])
Texts = st.sampled_from(["", "2026", "2026-Q1", "2", "026-Q1"])
Shares = st.decimals(0, 1, places=4) | st.sampled_from([Decimal(0), Decimal("0.05"), Decimal(1)])
Rotations = st.sampled_from(ROTATIONS)
Zones = st.sampled_from(ZONES)
Instants = st.integers(ms_at("2025-12-30T00:00:00Z"), ms_at("2028-03-02T00:00:00Z"))


def held(n: int, scope: str, share: float, salt: str = "2026", period: str = "") -> set[int]:
    """Return the held out ones of the customers c-0 to c-(n-1)."""
    return {i for i in range(n) if is_held_out(b"c-%d" % i, scope, Decimal(str(share)), salt, period)}


@given(Customers, Scopes, Shares, Shares, Texts, Texts)
def test_a_greater_share_holds_out_all_of_a_smaller_one(
    customer: bytes, scope: str, one: Decimal, other: Decimal, salt: str, period: str
) -> None:
    small, great = sorted((one, other))
    if is_held_out(customer, scope, small, salt, period):
        assert is_held_out(customer, scope, great, salt, period)


@given(Customers, Scopes, Texts, Texts)
def test_no_share_holds_out_nobody_and_the_whole_everybody(customer: bytes, scope: str, salt: str, period: str) -> None:
    assert not is_held_out(customer, scope, Decimal(0), salt, period)
    assert is_held_out(customer, scope, Decimal(1), salt, period)


@given(Customers, Scopes, Shares, Texts, Texts)
def test_it_is_the_hash_and_nothing_else(customer: bytes, scope: str, share: Decimal, salt: str, period: str) -> None:
    """The formula is a promise: another one would swap the groups of all campaigns under way."""
    text = b""
    for part in (salt.encode(), scope.encode(), period.encode(), customer):
        text += len(part).to_bytes(4, "big") + part
    drawn = Fraction(int.from_bytes(blake2b(text, digest_size=8).digest(), "big"), 2**64)
    assert is_held_out(customer, scope, share, salt, period) is (drawn < Fraction(share))


def test_some_customers_stay_where_they_are() -> None:
    """Frozen: they must not change with a version of segstream."""
    assert sorted(held(40, GLOBAL, 0.1)) == [0, 8, 13, 14, 20, 22, 35, 37]
    assert sorted(held(40, tag_scope("marketing"), 0.1, "", "2026-Q1")) == [4, 11]
    assert sorted(held(40, campaign_scope("win-back"), 0.1, "2026", "2026-12")) == [5, 6, 10, 13, 24, 29, 36]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("scope", [GLOBAL, tag_scope("marketing"), campaign_scope("win-back")])
def test_the_share_is_held_out(scope: str, share: float) -> None:
    n = 20_000
    assert abs(len(held(n, scope, share)) / n - share) < 4 * (share * (1 - share) / n) ** 0.5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((GLOBAL, "2026", ""), (tag_scope("marketing"), "2026", "")),
        ((tag_scope("a"), "2026", ""), (campaign_scope("a"), "2026", "")),
        ((campaign_scope("a"), "2026", ""), (campaign_scope("b"), "2026", "")),
        ((GLOBAL, "2026", ""), (GLOBAL, "2027", "")),
        ((GLOBAL, "2026", "2026-Q1"), (GLOBAL, "2026", "2026-Q2")),
        ((GLOBAL, "2026", "2026-01"), (GLOBAL, "2026-0", "1")),  # no text runs over into the next
    ],
)
def test_another_scope_salt_or_period_draws_anew(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    n, share = 20_000, 0.2
    both = held(n, one[0], share, *one[1:]) & held(n, other[0], share, *other[1:])
    # Independent: a share of a share.
    assert abs(len(both) / n - share**2) < 4 * (share**2 * (1 - share**2) / n) ** 0.5


@given(Instants, Rotations, Zones)
def test_a_period_lasts_until_its_end_and_a_new_one_begins_then(at: int, rotation: Rotation, name: str) -> None:
    zone = ZoneInfo(name)
    end = period_end(at, rotation, zone)
    if rotation == "never":
        assert end is None
        assert period_of(at, rotation, zone) == period_of(0, rotation, zone) == ""
        return
    assert end is not None
    end_ms = ms_at(end.isoformat())
    assert at < end_ms
    assert (end.day, end.hour, end.minute, end.second) == (1, 0, 0, 0)
    assert period_of(end_ms - 1, rotation, zone) == period_of(at, rotation, zone) != period_of(end_ms, rotation, zone)


@given(Instants, Instants, Rotations, Zones)
def test_two_instants_share_a_period_as_on_the_calendar(one: int, other: int, rotation: Rotation, name: str) -> None:
    def begun(at: int) -> tuple[int, int]:
        day = on_the_wall(at, name).date()
        month = {"never": 0, "month": day.month, "quarter": (day.month + 2) // 3, "year": 0}[rotation]
        return (0 if rotation == "never" else day.year), month

    same = period_of(one, rotation, ZoneInfo(name)) == period_of(other, rotation, ZoneInfo(name))
    assert same is (begun(one) == begun(other))


@pytest.mark.parametrize(
    ("at", "rotation", "zone", "period", "end"),
    [
        ("2026-12-31T22:59:59.999Z", "year", "Europe/Berlin", "2026", "2027-01-01T00:00:00+01:00"),
        ("2026-12-31T23:00:00Z", "year", "Europe/Berlin", "2027", "2028-01-01T00:00:00+01:00"),
        ("2026-12-31T23:00:00Z", "quarter", "UTC", "2026-Q4", "2027-01-01T00:00:00+00:00"),
        ("2026-12-31T23:00:00Z", "month", "UTC", "2026-12", "2027-01-01T00:00:00+00:00"),
        ("2026-03-31T22:00:00Z", "quarter", "Europe/Berlin", "2026-Q2", "2026-07-01T00:00:00+02:00"),
        ("2028-02-29T12:00:00Z", "month", "UTC", "2028-02", "2028-03-01T00:00:00+00:00"),
    ],
)
def test_some_periods(at: str, rotation: Rotation, zone: str, period: str, end: str) -> None:
    assert period_of(ms_at(at), rotation, ZoneInfo(zone)) == period
    assert period_end(ms_at(at), rotation, ZoneInfo(zone)) == datetime.fromisoformat(end)


def test_a_rotation_draws_other_customers_each_quarter() -> None:
    at, groups = ms_at("2026-01-15T00:00:00Z"), []
    for _ in range(4):
        groups.append(held(5_000, GLOBAL, 0.1, "s", period_of(at, "quarter", ZoneInfo("UTC"))))
        at = ms_at((utc(at) + timedelta(days=91)).isoformat())
    assert len({frozenset(group) for group in groups}) == 4
