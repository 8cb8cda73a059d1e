"""A consumer beside a producer: how the benchmarks watch what becomes visible while they send."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer

from stream.kafka.clients import kafka_consumer, partitions_of
from stream.settings import Settings


@asynccontextmanager
async def following_topics(
    settings: Settings, topics: list[str], follow: Callable[[Any], Coroutine[Any, Any, None]], **producing: Any
) -> AsyncIterator[AIOKafkaProducer]:
    """Let `follow` read these topics from their ends on (read_committed) within the block. Yields a producer."""
    producer = AIOKafkaProducer(**settings.kafka_client(), **({"linger_ms": 0, "acks": "all"} | producing))
    await producer.start()
    try:
        async with kafka_consumer(settings) as consumer:
            partitions = await partitions_of(consumer, topics)
            consumer.assign(partitions)
            await consumer.seek_to_end(*partitions)
            follower = asyncio.create_task(follow(consumer))
            # A garbage collection in this process would count as latency of the worker.
            gc.collect()
            gc.disable()
            try:
                yield producer
            finally:
                gc.enable()
                follower.cancel()
                (ended,) = await asyncio.gather(follower, return_exceptions=True)
            if isinstance(ended, Exception):
                raise ended
    finally:
        await producer.stop()
