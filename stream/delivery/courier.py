"""One endpoint's deliveries in this process: what is due is sent, and what comes of it is written down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from segmentation.event_text import iso
from segmentation.events import Reason
from stream.delivery.feed import ActionFeed
from stream.delivery.journal import DeliveryJournal
from stream.delivery.metrics import DeliveryMetrics
from stream.delivery.outbox import Outbox
from stream.delivery.outcomes import (
    ActionRecord,
    DeliveryEvent,
    DeliveryGivenUp,
    DeliveryRetrying,
    DeliverySucceeded,
    outcome_id,
)
from stream.delivery.positions import EndpointState
from stream.delivery.window import MOST_RECORDS, DeliveryWindow, Unresolved
from stream.settings import Settings
from stream.webhooks.answers import Meaning, WebhookAnswer
from stream.webhooks.breaker import Breaker, BreakerState
from stream.webhooks.client import WebhookClient
from stream.webhooks.endpoints import Endpoint
from stream.webhooks.pace import Pace
from stream.webhooks.schedule import next_attempt_ms

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0  # between looks at what has become too old, and at the metrics
_KEEP_S: Final = 30.0  # between two positions: a restart reads the outcomes of so long
_GIVEN_UP_AT_ONCE: Final = 500  # records that have become too old
_IDLE_S: Final = 45.0  # for the attempts under way, in a rebalance: longer than any time-out


@dataclass(frozen=True, slots=True)
class Office:
    """The parts that all couriers of a process share."""

    settings: Settings
    journal: DeliveryJournal
    outbox: Outbox
    metrics: DeliveryMetrics
    now_ms: Callable[[], int]


class Courier:
    """Delivers to one endpoint, from `run` until `end` is called or the endpoint says that it is gone."""

    def __init__(self, office: Office, endpoint: Endpoint, client: WebhookClient) -> None:
        """Connect to nothing yet."""
        self.endpoint = endpoint
        self._office = office
        self._client = client
        self._window = DeliveryWindow(MOST_RECORDS)
        self._feed = ActionFeed(
            office.settings, endpoint, self._window, office.journal, office.outbox, self._until_idle
        )
        options = endpoint.breaker
        self._breaker = Breaker(options.failures, options.pause, options.longest)
        self._pace = Pace(endpoint.rate, endpoint.concurrency)
        self._under_way = 0
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._last_failure = ""

    def end(self) -> None:
        """Start nothing any more; `run` returns when the attempts under way have their outcomes."""
        self._ended.set()
        self._changed.set()

    async def run(self) -> None:
        """Deliver. Raises KafkaError, KafkaUnreachable, in a group."""
        await self._feed.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read())
                tasks.create_task(self._send(tasks))
                tasks.create_task(self._keep())
            await self._feed.keep()
        finally:
            await self._feed.stop()

    def state(self) -> dict[str, Any]:
        """Return what /health shows of the endpoint. No URL: path and query may hold a token."""
        breaker = self._breaker.state(_steady_ms())
        return {
            "state": "working" if breaker is BreakerState.CLOSED else f"breaker_{breaker.value}",
            "host": self.endpoint.host,
            "unresolved": len(self._window),
            "under_way": self._under_way,
            "lag": self._feed.lag,
            "last_failure": self._last_failure,
        }

    async def _read(self) -> None:
        """Fill the window. A record that nobody can be sent becomes a dead letter before anything behind it is read."""
        while not self._ended.is_set():
            for record in await self._feed.read():
                why = "the record isn't an event of segstream, so nobody can be sent it"
                await self._office.outbox.dead_letter(
                    self.endpoint.name, record, Reason.NOT_JSON, why, self._office.now_ms()
                )
                self._count("unsendable")
            self._changed.set()

    async def _send(self, tasks: asyncio.TaskGroup) -> None:
        """Start what is due, as fast as the endpoint allows. Wake up when something changes."""
        looked = -_LOOK_S
        while not self._ended.is_set():
            now = self._office.now_ms()
            if time.monotonic() - looked >= _LOOK_S:
                looked = time.monotonic()
                self._show(now)
                self._give_up_old(tasks, now)
            wait_ms = self._wait_ms()
            if wait_ms == 0 and (record := self._window.next_due(now)):
                self._start(tasks, record, now)
                continue
            due_ms = self._window.due_in_ms(now) if wait_ms is not None else None
            pause_s = _LOOK_S if due_ms is None else min(max(due_ms, wait_ms or 0, 1) / 1000, _LOOK_S)
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause_s)

    def _wait_ms(self) -> int | None:
        """Return how long nothing may be started; None: until something changes."""
        if not self._feed.working or self._under_way >= self._pace.limit:
            return None
        steady = _steady_ms()
        breaker_ms = self._breaker.wait_ms(steady)
        return None if breaker_ms is None else max(breaker_ms, self._pace.wait_ms(steady))

    def _start(self, tasks: asyncio.TaskGroup, record: Unresolved, now: int) -> None:
        self._enter()
        if record.stored_ms < now - self.endpoint.max_age:
            tasks.create_task(self._give_up_too_old(record))
            return
        steady = _steady_ms()
        self._pace.started(steady)
        self._breaker.started(steady)
        tasks.create_task(self._attempt(record))

    def _give_up_old(self, tasks: asyncio.TaskGroup, now: int) -> None:
        """Give up what waits behind others, or for a breaker, and has become too old."""
        if self._feed.working:
            for record in self._window.older_than(now - self.endpoint.max_age, _GIVEN_UP_AT_ONCE):
                self._enter()
                tasks.create_task(self._give_up_too_old(record))

    async def _attempt(self, record: Unresolved) -> None:
        """Send a record once.

        1. Send it.
        2. At 410, start nothing any more, then write down that the endpoint is disabled.
        3. Write the outcome down (of one that is given up: its dead letter first), and wait until Kafka has it.
        4. Only then is the record resolved, or put back for its next attempt: a crash before leaves it as it was.
        """
        started_ms = self._office.now_ms()
        try:
            answer = await self._client.send(record.facts.id, record.value)
            now = self._office.now_ms()
            self._office.metrics.seconds.labels(self.endpoint.name).observe((now - started_ms) / 1000)
            self._judge(answer, _steady_ms())
            attempts = record.attempts + 1
            if answer.meaning is Meaning.DELIVERED:
                await self._write(DeliverySucceeded, record, attempts, answer, now)
                self._window.resolve(record)
            elif answer.meaning is Meaning.GONE:
                self.end()
                await self._disable(answer, now)
                await self._write(DeliveryRetrying, record, attempts, answer, now)
                self._put_back(record, attempts, now)
            else:
                await self._after_failure(record, attempts, answer, now)
        finally:
            self._leave()

    async def _after_failure(self, record: Unresolved, attempts: int, answer: WebhookAnswer, now: int) -> None:
        due_ms = next_attempt_ms(
            attempts,
            now,
            f"{self.endpoint.name}:{record.facts.id}",
            delays_ms=self.endpoint.retries,
            retry_after_ms=answer.retry_after_ms,
        )
        if due_ms is None:
            await self._give_up(
                record, attempts, answer, f"{attempts} attempts have failed; the last one: {answer.detail}"
            )
        elif due_ms > record.stored_ms + self.endpoint.max_age:
            await self._give_up(record, attempts, answer, f"too old for another attempt; the last one: {answer.detail}")
        else:
            await self._write(DeliveryRetrying, record, attempts, answer, now, due_ms)
            self._put_back(record, attempts, due_ms)

    def _put_back(self, record: Unresolved, attempts: int, due_ms: int) -> None:
        record.attempts = attempts
        self._window.retry(record, due_ms)

    async def _give_up_too_old(self, record: Unresolved) -> None:
        try:
            days = self.endpoint.max_age / 86_400_000
            why = f"older than max_age, {days:g} days, after {record.attempts} attempts"
            await self._give_up(record, record.attempts, WebhookAnswer(None, why), why)
        finally:
            self._leave()

    async def _give_up(self, record: Unresolved, attempts: int, answer: WebhookAnswer, why: str) -> None:
        now = self._office.now_ms()
        await self._office.outbox.dead_letter(self.endpoint.name, record, Reason.UNDELIVERED, why, now)
        await self._write(DeliveryGivenUp, record, attempts, WebhookAnswer(answer.status, why), now)
        self._window.resolve(record)

    async def _write(
        self,
        kind: type[DeliverySucceeded | DeliveryRetrying | DeliveryGivenUp],
        record: Unresolved,
        attempts: int,
        answer: WebhookAnswer,
        now: int,
        due_ms: int | None = None,
    ) -> None:
        """Write an outcome, and wait until Kafka has it."""
        sent = ActionRecord(record.place.topic, record.place.partition, record.offset)
        event: DeliveryEvent = kind(
            id=outcome_id(self.endpoint.name, sent, attempts, kind),
            action_id=record.facts.id,
            customer_id=record.facts.customer_id,
            campaign=record.facts.campaign,
            channel=record.facts.channel,
            endpoint=self.endpoint.name,
            attempt=attempts,
            status=answer.status,
            detail=answer.detail,
            at=iso(now),
            next_attempt_at=None if due_ms is None else iso(due_ms),
            record=sent,
        )
        await self._office.outbox.outcome(event)
        self._count(str(kind.__struct_config__.tag).removeprefix("campaign."))

    def _judge(self, answer: WebhookAnswer, steady_ms: int) -> None:
        """Let breaker and pace follow an answer."""
        shown = "none" if answer.status is None else f"{answer.status // 100}xx"
        self._office.metrics.answers.labels(self.endpoint.name, shown).inc()
        if answer.meaning is Meaning.DELIVERED:
            self._breaker.succeeded()
            self._pace.succeeded()
            return
        self._last_failure = answer.detail
        before = self._breaker.state(steady_ms)
        self._breaker.failed(steady_ms)
        if before is BreakerState.CLOSED and self._breaker.state(steady_ms) is BreakerState.OPEN:
            log.warning(
                "%s: %d attempts in a row have failed: nothing is sent for %d s. The last one: %s",
                self.endpoint.name, self.endpoint.breaker.failures, self.endpoint.breaker.pause // 1000, answer.detail,
            )  # fmt: skip
        if answer.under_load:
            asked_ms = answer.retry_after_ms if answer.asks_to_wait else None
            self._pace.overloaded(steady_ms, hold=answer.asks_to_wait, asked_ms=asked_ms)

    async def _disable(self, answer: WebhookAnswer, now: int) -> None:
        log.error(
            "%s: it answered %s, so it is disabled. `segstream deliveries enable %s` enables it again",
            self.endpoint.name, answer.detail, self.endpoint.name,
        )  # fmt: skip
        await self._office.journal.keep_state(self.endpoint.name, EndpointState(iso(now), answer.detail))

    async def _keep(self) -> None:
        """Keep the positions from time to time, and once more at the end of `run`."""
        while not self._ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), _KEEP_S)
            if self._feed.working:
                await self._feed.keep()

    async def _until_idle(self) -> None:
        """Return when no attempt is under way, or when one takes too long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), _IDLE_S)

    def _enter(self) -> None:
        self._under_way += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()
        self._changed.set()

    def _count(self, outcome: str) -> None:
        self._office.metrics.outcomes.labels(self.endpoint.name, outcome).inc()

    def _show(self, now: int) -> None:
        name, metrics = self.endpoint.name, self._office.metrics
        oldest = self._window.oldest_ms()
        metrics.unresolved.labels(name).set(len(self._window))
        metrics.lag.labels(name).set(self._feed.lag)
        metrics.oldest.labels(name).set(0 if oldest is None else max(now - oldest, 0) / 1000)
        metrics.breaker.labels(name).set(self._breaker.state(_steady_ms()) is not BreakerState.CLOSED)


def _steady_ms() -> int:
    """Return a time (ms) for waits: were the clock set back by an hour, they mustn't last an hour longer."""
    return int(time.monotonic() * 1000)
