"""The topic of rates: its records, and a reader that reads on when a record needs a rate that isn't known yet."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer

from segmentation.rates import KnownRate, NewRate, Rates, day_number, day_text, format_rate, parse_rate
from stream.kafka.clients import partitions_of, read_topic

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream.settings import DeploymentSettings, Settings

log = logging.getLogger(__name__)

BARRIER: Final = b"\0barrier"  # the key of a record that a loader writes to read up to it
READ_TIMEOUT_S: Final = 30.0
STOP_S: Final = 5.0
_POLL_MS: Final = 200
_WAIT_MS: Final = 20  # the broker's wait in a fetch without records: a turn waits behind it


class _Content(msgspec.Struct, frozen=True):
    """The value of a rate's record."""

    rate: str  # units of the deployment's currency for one unit of the other, decimal text


def rate_key(base: str, currency: str, day: int) -> bytes:
    """Return the key of a rate's record. The deployment's currency is in it: a change of that needs other rates.

    >>> rate_key("EUR", "USD", 0)
    b'USD/EUR/1970-01-01'
    """
    return f"{currency}/{base}/{day_text(day)}".encode()


def rate_value(rate: int) -> bytes:
    """Return the value of a rate's record.

    >>> rate_value(865_300_000_000)
    b'{"rate":"0.8653"}'
    """
    return msgspec.json.encode(_Content(format_rate(rate)))


def rates_of(base: str, records: Iterable[Any]) -> list[NewRate]:
    """Return the rates in one currency from records of the topic. A record that isn't a rate is left out, and logged.

    A deployment has all its rates in `base`, its own currency.
    """
    found = []
    for record in records:
        if record.key == BARRIER:
            continue
        try:
            currency, other, day = (record.key or b"").decode().split("/")
            if other == base and record.value is not None:
                rate = parse_rate(msgspec.json.decode(record.value, type=_Content).rate)
                found.append(NewRate(currency, day_number(day), KnownRate(rate, record.timestamp)))
        except ValueError as error:  # msgspec's errors and RateError are some
            log.warning("the record %r at offset %d isn't a rate: %s", record.key, record.offset, error)
    return found


class RateReader:
    """The rates of one deployment, read on demand. Shards of one worker share it.

    A record that needs a rate which isn't known lets the topic be read up to now; nothing is read in between, and
    nothing at all while all orders are in one currency.
    """

    def __init__(self, settings: Settings) -> None:
        """Connect at the first `read_on`. Close it at the end."""
        self._settings = settings
        self._rates = Rates(settings.currency)
        self._position: int | None = None  # behind the last record read
        self._consumer: AIOKafkaConsumer | None = None
        self._lock = asyncio.Lock()

    def known(self) -> Rates:
        """Return the rates that were read so far."""
        return self._rates

    async def read_on(self) -> bool:
        """Read the topic to its present end; return whether any rate had come.

        Raises TopicUnusable, KafkaError, TimeoutError: then it connects afresh next time.
        """
        before = self._rates
        async with self._lock:
            try:
                async with asyncio.timeout(READ_TIMEOUT_S):
                    await self._read_to_end()
            except BaseException:
                await self.close()
                raise
        return self._rates is not before

    async def close(self) -> None:
        """Close the connection to Kafka."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            # After an error it may hang, or raise; the error is what counts.
            with suppress(Exception):
                await asyncio.wait_for(consumer.stop(), STOP_S)

    async def _read_to_end(self) -> None:
        began, consumer = time.monotonic(), await self._connected()
        (tp,) = consumer.assignment()
        end = (await consumer.end_offsets([tp]))[tp]
        new: list[NewRate] = []
        consumer.resume(tp)
        while await consumer.position(tp) < end:
            records = (await consumer.getmany(tp, timeout_ms=_POLL_MS)).get(tp, [])
            new += rates_of(self._settings.currency, records)
        consumer.pause(tp)  # else it would fetch all the time
        self._position = await consumer.position(tp)
        if new:
            self._rates = self._rates.plus(new)
            log.info("read %d rates in %.1f s", len(new), time.monotonic() - began)

    async def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            consumer = self._consumer = AIOKafkaConsumer(
                **self._settings.kafka_client(),
                enable_auto_commit=False,
                auto_offset_reset="earliest",  # also where the topic was made anew, and is shorter now
                isolation_level="read_committed",
                fetch_max_wait_ms=_WAIT_MS,
            )
            await consumer.start()
            (tp,) = await partitions_of(consumer, [self._settings.rates_topic])
            consumer.assign([tp])
            if self._position is None:
                await consumer.seek_to_beginning(tp)
            else:
                consumer.seek(tp, self._position)
        return self._consumer


async def read_rates(settings: DeploymentSettings) -> Rates:
    """Read all rates in the deployment's currency, whether or not the settings name others.

    Raises KafkaUnreachable, TopicUnusable.
    """
    return Rates(settings.currency).plus(rates_of(settings.currency, await read_topic(settings, settings.rates_topic)))
