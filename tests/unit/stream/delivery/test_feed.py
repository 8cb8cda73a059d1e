"""Positions that are kept while something else happens. Reading and rebalances: tests/integration/delivery."""

from __future__ import annotations

from typing import Any

from stream.delivery.feed import ActionFeed
from stream.delivery.positions import DeliveryPosition, Resumption, WaitingRecord
from stream.delivery.window import DeliveryWindow, LogPartition
from stream.settings import Settings
from stream.webhooks.endpoints import Endpoint, SecretSource
from tests.unit.stream.delivery.test_window import record

PLACES = [LogPartition("campaign-actions", partition) for partition in range(3)]


class RebalancingJournal:
    """A journal during whose first write a rebalance takes all partitions away."""

    def __init__(self, window: DeliveryWindow) -> None:
        self.kept: dict[LogPartition, DeliveryPosition] = {}
        self._window = window

    async def keep_position(self, _endpoint: str, place: LogPartition, position: DeliveryPosition) -> None:
        self._window.clear()
        self.kept[place] = position


class QuietOutbox:
    """An outbox that knows where outcomes end."""

    def outcomes_from(self, _endpoint: str, _partition: int) -> int:
        return 70


async def idle() -> None:
    return


def feed_of(window: DeliveryWindow, journal: Any) -> ActionFeed:
    endpoint = Endpoint(name="crm", url="https://crm.example/", secrets=(SecretSource(env="S"),))
    outbox: Any = QuietOutbox()
    feed = ActionFeed(Settings(), endpoint, window, journal, outbox, idle)
    feed._resumptions = {place: Resumption(DeliveryPosition(5, 40)) for place in PLACES}
    feed._read = dict.fromkeys(PLACES, 10)
    return feed


async def test_a_rebalance_while_positions_are_written_makes_none_of_them_forget_what_waits() -> None:
    window = DeliveryWindow()
    for place in PLACES:
        window.add(record(place, 7, str(place.partition)))
    journal = RebalancingJournal(window)
    feed = feed_of(window, journal)
    await feed.keep()
    await feed.stop()
    assert journal.kept == {place: DeliveryPosition(10, 70, (WaitingRecord(7),)) for place in PLACES}


async def test_outcomes_for_records_that_are_not_read_yet_stay_within_reach() -> None:
    window = DeliveryWindow()
    journal = RebalancingJournal(window)
    feed = feed_of(window, journal)
    feed._resumptions[PLACES[0]].fates = {12: None}
    feed._resumptions[PLACES[1]].fates = {9: None}  # its record is gone
    feed._read[PLACES[2]] = 4  # still reading again what waits
    await feed.keep()
    await feed.stop()
    assert {place: position.outcomes_from for place, position in journal.kept.items()} == {PLACES[0]: 40, PLACES[1]: 70}
