"""Rates: which record may use which, and what it comes to."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation.decoder import Reader
from segmentation.entries import DAY_MS, RATE_SCALE, Foreign, Kind, Rules, entry
from segmentation.events import Amount, OrderPlaced, OrderRefunded, Reason, RejectedEvent, encode, to_entry
from segmentation.meaning import net
from segmentation.rates import (
    LARGEST_RATE,
    SETTLED_MS,
    UNCHECKED,
    Conversion,
    KnownRate,
    NewRate,
    RateError,
    Rates,
    currency_code,
    currency_number,
    format_rate,
    parse_rate,
)
from segmentation.rfm import CustomerState, pack, settle
from segmentation.step import TurnContext
from tests.support.engine.memory_shard import Rec, at

DAY = 20_000
LOADED = DAY * DAY_MS
RATES = Rates("EUR").plus([NewRate("USD", DAY, KnownRate(865_300_000_000, LOADED))])
codes = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=3, max_size=3)


def order(currency: str, *, day: int = DAY, value: str = "10.00") -> OrderPlaced:
    amount = Amount(value=value, currency=currency)
    return OrderPlaced(id="e", order_id="o", customer_id="c", occurred_at=at(day * DAY_MS + 5), amount=amount)


def refused(event: OrderPlaced, arrived: int, rates: Rates = RATES) -> RejectedEvent:
    with pytest.raises(RejectedEvent) as caught:
        to_entry(event, "EUR", Conversion({"USD"}, rates), arrived)
    return caught.value


@given(codes)
def test_each_code_has_a_number_of_its_own(code: str) -> None:
    assert currency_code(currency_number(code)) == code
    assert 0 <= currency_number(code) < 26**3


@given(st.integers(1, LARGEST_RATE))
def test_a_rate_is_its_text(rate: int) -> None:
    assert parse_rate(format_rate(rate)) == rate


@pytest.mark.parametrize(
    "text",
    ["", "0", "0.0", "-1", "+1", "1e3", "1,5", "N/A", "0.0000000000001", ".5", "1.", "٣", "1_0", "9999999", " 1"],
)
def test_other_texts_are_no_rates(text: str) -> None:
    with pytest.raises(RateError, match="isn't a rate"):
        parse_rate(text)


def test_an_order_is_converted_at_its_own_days_rate() -> None:
    found = to_entry(order("USD"), "EUR", Conversion({"USD"}, RATES), LOADED + SETTLED_MS + 1)
    assert (found.amount, found.foreign) == (86_530, Foreign(13_991, 100_000, 865_300_000_000))
    plain = to_entry(order("EUR"), "EUR", Conversion({"USD"}, RATES), 0)
    assert (plain.amount, plain.foreign) == (100_000, ())


def test_a_record_may_use_a_rate_that_was_there_well_before_it() -> None:
    assert refused(order("USD"), LOADED + SETTLED_MS).reason == Reason.NO_RATE
    assert refused(order("USD", day=DAY + 1), LOADED + DAY_MS).reason == Reason.NO_RATE
    assert "loaded too late" in refused(order("USD"), LOADED).message
    assert "there was none" in refused(order("USD"), LOADED, Rates("EUR")).message
    assert refused(order("JPY"), LOADED + DAY_MS).reason == Reason.UNKNOWN_CURRENCY
    assert "'EUR' or 'USD'" in refused(order("JPY"), LOADED + DAY_MS).message


def test_an_amount_that_is_too_large_once_it_is_converted_is_refused() -> None:
    high = Rates("EUR").plus([NewRate("USD", DAY, KnownRate(LARGEST_RATE, 0))])
    assert refused(order("USD", value="100000.0001"), LOADED, high).reason == Reason.AMOUNT_OUT_OF_RANGE


def test_without_rates_nothing_is_converted() -> None:
    with pytest.raises(ValueError, match="no rates were read"):
        to_entry(order("USD"), "EUR", Conversion({"USD"}), LOADED)
    assert to_entry(order("USD"), "EUR", Conversion({"USD"}, UNCHECKED), 0).foreign


def test_more_rates_leave_the_former_ones_as_they_were() -> None:
    later = RATES.plus([NewRate("USD", DAY, KnownRate(1, 2)), NewRate("JPY", 3, KnownRate(4, 5))])
    assert RATES.of("USD", DAY) == KnownRate(865_300_000_000, LOADED)
    assert (later.of("USD", DAY), later.of("JPY", 3), RATES.of("JPY", 3)) == (KnownRate(1, 2), KnownRate(4, 5), None)
    assert [rate.currency for rate in later] == ["JPY", "USD"]


def test_a_batch_says_that_a_rate_was_missing_and_the_clock_stands_still() -> None:
    reader = Reader("EUR", "event", 10**12, 10**6 * DAY_MS, 1 << 20, other_currencies=frozenset({"USD"}))

    def read(**given: Any) -> Any:
        record = Rec(0, b"c", encode(order("USD")), **given)
        return reader.read([record], 7, rates=RATES)

    late, early = read(timestamp=LOADED + DAY_MS), read(timestamp=LOADED)
    assert (late.no_rate, late.dead, len(late.own)) == (False, [], 1)
    assert (early.no_rate, [d.reason for d in early.dead], early.own, early.clocks) == (True, ["no_rate"], {}, [7])
    assert TurnContext(0, 0).rates is None


@given(
    st.integers(1, 10**12),
    st.integers(1, 10 * RATE_SCALE),
    st.lists(st.integers(1, 10**6), max_size=5),
    st.integers(0, 9),
)
def test_a_full_refund_leaves_exactly_nothing(paid: int, rate: int, parts: list[int], late: int) -> None:
    def of(kind: Kind, name: str, units: int, by: int) -> Any:
        made = entry(
            kind, name, 1_000 + (late if kind == Kind.REFUNDED else 0), order="o", amount=units * by // RATE_SCALE
        )
        return made._replace(foreign=Foreign(13_991, units, by))

    parts = [part for i, part in enumerate(parts) if sum(parts[: i + 1]) < paid]
    # Refunds come at rates of their own days, which don't matter.
    back = [of(Kind.REFUNDED, f"r{i}", part, rate + i) for i, part in enumerate([*parts, paid - sum(parts)])]
    placed = of(Kind.PLACED, "e", paid, rate)
    assert net(placed, back) == 0
    exact = Decimal(paid - sum(parts)) * rate / RATE_SCALE
    assert net(placed, back[:-1]) == exact.quantize(Decimal(1), ROUND_HALF_EVEN)
    state = settle(CustomerState(), [placed, *back], 2_000, Rules())
    assert (state.monetary, state.life.money, state.frequency) == (0, 0, 1)
    assert pack(state) == pack(settle(CustomerState(), [*back, placed], 2_000, Rules()))


def test_a_refund_in_the_deployments_currency_is_taken_off_as_it_is() -> None:
    placed = to_entry(order("USD"), "EUR", Conversion({"USD"}, RATES), LOADED + DAY_MS)
    amount = Amount(value="1.00", currency="EUR")
    back = OrderRefunded(id="r", customer_id="c", order_id="o", occurred_at=at(LOADED + 9), amount=amount)
    assert net(placed, [to_entry(back, "EUR", Conversion({"USD"}, RATES), LOADED + DAY_MS)]) == 76_530
