"""The floor: a program that only drains the orders, `python -m bench.scenarios.drain`. Nothing is decoded."""

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


async def drain(tally: CountFile) -> None:
    """Read the orders topic (read_committed) from its beginning to its present end."""
    settings = load_settings()
    async with kafka_consumer(settings) as consumer:
        partitions = await partitions_of(consumer, [settings.orders_topic])
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        count = 0
        tally.write(count)
        while not await at_end(consumer, ends):
            count += sum(len(some) for some in (await consumer.getmany(timeout_ms=200, max_records=MOST)).values())
            tally.write(count)


def main() -> None:
    """Drain, then wait for SIGTERM: whoever measures reads this process's CPU time after its end."""
    parser = argparse.ArgumentParser(prog="python -m bench.scenarios.drain", description=__doc__)
    parser.add_argument("tally", type=Path, help="file for the count of records read")
    asyncio.run(drain(CountFile(parser.parse_args().tally)))
    signal.pause()


if __name__ == "__main__":
    main()
