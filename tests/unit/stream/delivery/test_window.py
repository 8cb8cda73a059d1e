"""The window of unresolved records, against a list that keeps everything."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.delivery.filters import ActionFacts
from stream.delivery.window import DeliveryWindow, LogPartition, Unresolved

PLACES = [LogPartition("actions", 0), LogPartition("actions", 1), LogPartition("redeliveries", 0)]


def record(place: LogPartition, offset: int, customer: str, stored_ms: int = 0, size: int = 1) -> Unresolved:
    facts = ActionFacts("campaign.action", f"{place}-{offset}", customer)
    return Unresolved(place, offset, facts, customer.encode(), b"x" * size, (), stored_ms)


@dataclass
class Naive:
    """All records in the order in which they came, and which of them are resolved or being sent."""

    records: list[Unresolved] = field(default_factory=list)

    def open_of(self, customer: str) -> list[Unresolved]:
        return [r for r in self.records if r.facts.customer_id == customer and not r.resolved]

    def due(self, now: int) -> set[str]:
        customers = {r.facts.customer_id for r in self.records}
        heads = [queue[0] for customer in customers if (queue := self.open_of(customer))]
        return {r.facts.id for r in heads if not r.sending and r.due_ms <= now}

    def lowest(self, place: LogPartition) -> int | None:
        return min((r.offset for r in self.records if r.place == place and not r.resolved), default=None)


class WindowAndModel:
    """The window and the list, taken through the same steps."""

    def __init__(self) -> None:
        self.window, self.naive = DeliveryWindow(), Naive()
        self.sending: list[Unresolved] = []
        self.now = 0
        self._offsets = dict.fromkeys(PLACES, 0)

    def add(self, place: int, customer: int) -> None:
        at = PLACES[place % len(PLACES)]
        self._offsets[at] += 2  # with gaps: records of other kinds, and the ends of transactions
        added = record(at, self._offsets[at], "abc"[customer % 3], stored_ms=self.now)
        self.naive.records.append(added)
        self.window.add(added)

    def send(self, *_: int) -> None:
        due, taken = self.naive.due(self.now), self.window.next_due(self.now)
        if taken is None:
            assert not due
            return
        assert taken.facts.id in due
        assert taken.due_ms == min(r.due_ms for r in self.naive.records if r.facts.id in due)
        self.sending.append(taken)

    def resolve(self, which: int, _: int) -> None:
        if self.sending:
            self.window.resolve(self.sending.pop(which % len(self.sending)))

    def retry(self, which: int, wait: int) -> None:
        if self.sending:
            self.window.retry(self.sending.pop(which % len(self.sending)), self.now + wait)

    def give_up(self, before: int, most: int) -> None:
        old = [r for r in self.naive.records if not (r.resolved or r.sending) and r.stored_ms < before]
        found = self.window.older_than(before, 1 + most % 3)
        assert {r.facts.id for r in found} <= {r.facts.id for r in old}
        self.sending += found

    def wait(self, passed: int, _: int) -> None:
        self.now += passed

    def compare(self) -> None:
        opened = [r for r in self.naive.records if not r.resolved]
        assert len(self.window) == len(opened)
        for place in PLACES:
            assert self.window.lowest(place) == self.naive.lowest(place)
            assert list(self.window.unresolved_of(place)) == [r for r in opened if r.place == place]
        assert (self.window.due_in_ms(self.now) == 0) == bool(self.naive.due(self.now))


NAMES = ["add", "add", "send", "send", "resolve", "retry", "give_up", "wait"]


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 30), st.integers(0, 30)), max_size=80))
def test_the_window_does_as_a_list_that_keeps_everything(steps: list[tuple[str, int, int]]) -> None:
    both = WindowAndModel()
    for name, first, second in steps:
        getattr(both, name)(first, second)
        both.compare()


def test_a_customer_s_next_record_waits_for_the_one_before_and_others_do_not() -> None:
    window = DeliveryWindow()
    first, second, other = (record(PLACES[0], n, customer) for n, customer in enumerate("aab"))
    for each in (first, second, other):
        window.add(each)
    assert [window.next_due(0), window.next_due(0), window.next_due(0)] == [first, other, None]
    window.retry(first, 1_000)
    assert window.next_due(999) is None
    assert window.due_in_ms(400) == 600
    assert window.next_due(1_000) is first
    window.resolve(first)
    assert window.next_due(0) is second


def test_a_full_window_has_room_again_only_well_below_its_limits() -> None:
    window = DeliveryWindow(most_records=10)
    records = [record(PLACES[0], n, str(n)) for n in range(10)]
    for each in records:
        window.add(each)
    assert window.full
    window.resolve(records[0])
    assert (window.full, window.has_room) == (False, False)
    window.resolve(records[5])
    assert window.has_room
    large = DeliveryWindow(most_bytes=10_000)
    large.add(record(PLACES[0], 0, "a", size=10_000))
    assert large.full


def test_what_waits_behind_another_can_become_too_old() -> None:
    window = DeliveryWindow()
    first, second = record(PLACES[0], 0, "a", stored_ms=5), record(PLACES[0], 1, "a", stored_ms=6)
    window.add(first)
    window.add(second)
    assert window.next_due(0) is first
    assert window.older_than(7, 10) == [second], "the one that is being sent isn't touched"
    window.resolve(second)
    window.retry(first, 0)
    assert window.next_due(0) is first


def test_records_that_were_cleared_do_no_harm() -> None:
    window = DeliveryWindow()
    gone, sent = record(PLACES[0], 0, "a"), record(PLACES[0], 1, "b")
    window.add(gone)
    window.add(sent)
    window.next_due(0)
    window.clear()
    window.resolve(gone)
    window.retry(sent, 0)
    assert (len(window), window.next_due(10), window.lowest(PLACES[0])) == (0, None, None)


def test_a_record_that_waits_for_days_keeps_no_later_ones_in_memory() -> None:
    window = DeliveryWindow()
    waiting = record(PLACES[0], 0, "a", stored_ms=5)
    window.add(waiting)
    assert window.next_due(0) is waiting
    window.retry(waiting, 259_200_000)
    for offset in range(1, 101):
        window.add(record(PLACES[0], offset, str(offset), stored_ms=6))
        later = window.next_due(0)
        assert later is not None
        window.resolve(later)
    assert window.oldest_ms() == 5
    del later
    gc.collect()
    kept = [each for each in gc.get_objects() if isinstance(each, Unresolved) and each.place is PLACES[0]]
    assert kept == [waiting]
