"""The floor: a program that reads all orders and decodes none (`python -m bench.scenarios.drain`)."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path
from typing import Final

from bench.harness.children import CountFile
from stream.kafka.clients import at_end, kafka_consumer, partitions_of
from stream.settings import load_settings

MOST: Final = 20_000  # records a call


async def drain(progress: CountFile) -> None:
    """Read the orders topic (read_committed) from its beginning to its present end."""
    settings = load_settings()
    async with kafka_consumer(settings) as consumer:
        partitions = await partitions_of(consumer, [settings.orders_topic])
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        count = 0
        progress.write(count)
        while not await at_end(consumer, ends):
            count += sum(len(some) for some in (await consumer.getmany(timeout_ms=200, max_records=MOST)).values())
            progress.write(count)


def main() -> None:
    """Drain, then wait for SIGTERM: the benchmark reads this process's CPU time after the last record."""
    parser = argparse.ArgumentParser(prog="python -m bench.scenarios.drain", description=__doc__)
    parser.add_argument("progress", type=Path, help="file for the count of records read")
    asyncio.run(drain(CountFile(parser.parse_args().progress)))
    signal.pause()


if __name__ == "__main__":
    main()
