"""The floor of dispatching: read moves, read and write Redis, produce (`python -m bench.scenarios.relay`).

Redis is read and written once for each customer of a batch. Nothing is decoded or decided, and nothing is exactly once.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path
from typing import Any, Final, cast

import uvloop
from aiokafka import AIOKafkaProducer, TopicPartition
from redis.asyncio import Redis

from bench.harness.children import CountFile
from stream.kafka.clients import at_end, kafka_consumer, partitions_of
from stream.settings import Settings, load_settings

MOST: Final = 4_000  # records a call, as in a turn
_STATE: Final = bytes(40)
_DECISION: Final = bytes(600)


async def relay(progress: CountFile, every: float) -> None:
    """Process the topic of moves from its beginning to its present end. `every`: records behind each output."""
    settings = load_settings()
    redis = Redis.from_url(settings.redis_url.get_secret_value())
    producer = AIOKafkaProducer(**settings.kafka_client(), acks="all", linger_ms=0)
    await producer.start()
    async with kafka_consumer(settings) as consumer:
        partitions = await partitions_of(consumer, [settings.changes_topic])
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        count = 0
        progress.write(count)
        while not await at_end(consumer, ends):
            answer = await consumer.getmany(timeout_ms=200, max_records=MOST)
            for at, records in answer.items():
                await _turn(settings, redis, producer, at, records, every)
                count += len(records)
                progress.write(count)
    await producer.stop()
    await redis.aclose()


async def _turn(
    settings: Settings, redis: Redis, producer: AIOKafkaProducer, at: TopicPartition, records: list[Any], every: float
) -> None:
    """Load the states of a partition's records, send their share of outputs, wait for these, and store the states."""
    keys = list(dict.fromkeys(record.key for record in records))
    name = f"relay:{settings.group}:{at.partition}"
    pipe = redis.pipeline(transaction=True)
    pipe.get(f"{name}:head")
    pipe.hmget(name, keys)
    await pipe.execute()
    sent, batch = list[Any](), producer.create_batch()
    for number in range(int(len(records) / every)):
        key = records[number].key
        if batch.append(key=key, value=_DECISION, timestamp=None) is None:
            sent.append(await producer.send_batch(batch, settings.actions_topic, partition=at.partition))
            batch = producer.create_batch()
            batch.append(key=key, value=_DECISION, timestamp=None)
    sent.append(await producer.send_batch(batch, settings.actions_topic, partition=at.partition))
    await asyncio.gather(*sent)
    pipe = redis.pipeline(transaction=True)
    pipe.set(f"{name}:head", records[-1].offset)
    pipe.hset(name, mapping=cast("Any", dict.fromkeys(keys, _STATE)))
    await pipe.execute()


def main() -> None:
    """Relay, then wait for SIGTERM: the benchmark reads this process's CPU time after the last record."""
    parser = argparse.ArgumentParser(prog="python -m bench.scenarios.relay", description=__doc__)
    parser.add_argument("progress", type=Path, help="file for the count of records read")
    parser.add_argument("every", type=float, help="records behind each output")
    arguments = parser.parse_args()
    uvloop.run(relay(CountFile(arguments.progress), arguments.every))
    signal.pause()


if __name__ == "__main__":
    main()
