"""Rates written to their topic, each once and for good: one writer at a time, in transactions.

A record of an order may use a rate from SETTLED_MS after the rate's own timestamp on (segmentation/rates.py). That
needs every reader to see the rate by then, so a transaction that is slow is given up, and one whose end comes late is
reported.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import msgspec
from aiokafka.errors import KafkaError, ProducerFenced

from segmentation.rates import SETTLED_MS, KnownRate, NewRate, Rates, day_text, format_rate
from stream.errors import SegstreamError
from stream.kafka.clients import at_end, kafka_consumer, kafka_producer, partitions_of
from stream.kafka.refusals import denial
from stream.rates.topic import BARRIER, rate_key, rate_value, rates_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

    from stream.rates.files import DayRates
    from stream.settings import Settings

BATCH: Final = 2_000  # rates in a transaction
ATTEMPTS: Final = 5  # at a transaction that is slow
LATEST_S: Final = SETTLED_MS / 2_000  # from the first record of a transaction to its end
MARGIN_S: Final = 1.0  # beyond SETTLED_MS, before the rates are said to hold
_POLL_MS: Final = 200
_POLL_S: Final = 0.02
_SHOWN: Final = 3  # differing rates that a message names


class RatesDiffer(SegstreamError):
    """The file has other rates than the topic. Nothing was written."""


class RatesNotLoaded(SegstreamError):
    """A transaction failed: the rates before it are there, and final."""


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a load, in numbers of rates. `holds_in_s`: how long until records may use them; None: none is new.

    `kept`: days for which the file has another rate than the topic, which stays. `late`: Kafka showed some rates so
    late that records which came just before may not have found them.
    """

    loaded: int
    known: int
    kept: int
    holds_in_s: float | None
    late: bool = False


class RateLoader:
    """Writes rates. A second loader of the same deployment ends the first one."""

    def __init__(self, settings: Settings) -> None:
        """Call `load`."""
        self._settings = settings
        self._late = False

    async def load(self, wanted: DayRates, *, keep: bool = False) -> LoadReport:
        """Write the rates that aren't there yet. `keep`: where the topic has another, leave it.

        Raises RatesDiffer, RatesNotLoaded, KafkaUnreachable, TopicUnusable.
        """
        settings, topic = self._settings, self._settings.rates_topic
        async with (
            kafka_consumer(settings) as consumer,
            kafka_producer(
                settings,
                transactional_id=f"{settings.group}-rates",
                transaction_timeout_ms=settings.transaction_timeout_ms,
                linger_ms=0,
            ) as producer,
        ):
            (tp,) = await partitions_of(consumer, [topic])
            consumer.assign([tp])
            # In this order: fence another loader, then a record of our own, then all records up to that.
            end = await self._write(producer, consumer, tp, [(BARRIER, b"")])
            known = await self._read(consumer, tp, end)
            new, same, others = compared(wanted, known)
            if others and not keep:
                raise _differing(others)
            at = time.monotonic()
            for begin in range(0, len(new), BATCH):
                records = [
                    (rate_key(settings.currency, r.currency, r.day), rate_value(r.known.rate))
                    for r in new[begin : begin + BATCH]
                ]
                await self._write(producer, consumer, tp, records)
                at = time.monotonic()
        left = max(at + SETTLED_MS / 1000 + MARGIN_S - time.monotonic(), 0.0) if new else None
        return LoadReport(loaded=len(new), known=same, kept=len(others), holds_in_s=left, late=self._late)

    async def _write(
        self,
        producer: AIOKafkaProducer,
        consumer: AIOKafkaConsumer,
        tp: TopicPartition,
        records: Sequence[tuple[bytes, bytes]],
    ) -> int:
        """Write records in one transaction, and wait until readers see it. Return the offset behind the last one."""
        settings = self._settings
        try:
            for _ in range(ATTEMPTS):
                async with asyncio.timeout(settings.commit_timeout_s):
                    began = time.monotonic()
                    await producer.begin_transaction()
                    sent = [await producer.send(tp.topic, value, key=key, partition=0) for key, value in records]
                    end = 1 + max([int(metadata.offset) for metadata in await asyncio.gather(*sent)])
                    if time.monotonic() - began > LATEST_S:
                        await producer.abort_transaction()
                        continue
                    await producer.commit_transaction()
                    await _visible(consumer, tp, end)
                    self._late |= time.monotonic() - began > SETTLED_MS / 1000
                    return end
        # A fenced producer may also fail in an assertion of aiokafka.
        except (KafkaError, TimeoutError, AssertionError) as error:
            if denied := denial(settings, error):
                raise denied from error
            fenced = isinstance(error, ProducerFenced)
            message = "another `segstream rates load` has begun" if fenced else str(error) or type(error).__name__
            raise RatesNotLoaded(
                f"a transaction failed: {message}.",
                hint="Run the same command again: what is there already is skipped.",
            ) from error
        raise RatesNotLoaded(
            f"Kafka took more than {LATEST_S:.1f} s for {len(records):,} rates, {ATTEMPTS} times.",
            hint="Run the same command again when it is quicker: what is there already is skipped.",
        )

    async def _read(self, consumer: AIOKafkaConsumer, tp: TopicPartition, end: int) -> Rates:
        base = self._settings.currency
        rates = Rates(base)
        await consumer.seek_to_beginning(tp)
        async with asyncio.timeout(self._settings.commit_timeout_s):
            while not await at_end(consumer, {tp: end}):
                found = rates_of(base, (await consumer.getmany(tp, timeout_ms=_POLL_MS)).get(tp, []))
                rates = rates.plus(found) if found else rates
        return rates


async def _visible(consumer: AIOKafkaConsumer, tp: TopicPartition, end: int) -> None:
    """Wait until readers see the records before an offset."""
    while (await consumer.end_offsets([tp]))[tp] < end:  # noqa: ASYNC110 - the broker tells nobody
        await asyncio.sleep(_POLL_S)


def compared(wanted: DayRates, known: Rates) -> tuple[list[NewRate], int, list[tuple[NewRate, KnownRate]]]:
    """Return (the rates that aren't known yet, how many are known alike, those known otherwise with what is known)."""
    new, same, others = list[NewRate](), 0, list[tuple[NewRate, KnownRate]]()
    for currency in sorted(wanted):
        for day, rate in sorted(wanted[currency].items()):
            held, own = known.of(currency, day), NewRate(currency, day, KnownRate(rate, 0))
            if held is None:
                new.append(own)
            elif held.rate == rate:
                same += 1
            else:
                others.append((own, held))
    return new, same, others


def _differing(others: Sequence[tuple[NewRate, KnownRate]]) -> RatesDiffer:
    shown = "; ".join(
        f"{new.currency} on {day_text(new.day)} is {format_rate(held.rate)}, and the file has "
        f"{format_rate(new.known.rate)}"
        for new, held in others[:_SHOWN]
    )
    more = f"; and {len(others) - _SHOWN:,} more" if len(others) > _SHOWN else ""
    return RatesDiffer(
        f"{len(others):,} rates are there with another value: {shown}{more}. A rate is final, for orders may have been "
        "converted with it. Nothing was loaded.",
        hint="With --keep those stay, and the others are loaded. Give the options of the earlier loads: --next-day "
        "moves all rates by a day.",
    )
