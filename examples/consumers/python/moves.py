"""Keep a table of every customer's segment: start from segment-state, then follow segment-changes.

pip install aiokafka, then: python moves.py
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from contextlib import closing
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

CHANGES = os.environ.get("SEGSTREAM_CHANGES_TOPIC", "segment-changes")
STATE = os.environ.get("SEGSTREAM_STATE_TOPIC", "segment-state")
GROUP = os.environ.get("GROUP", "crm-moves")
# As long as Kafka lets a transaction take: a move that old is visible in both topics or in neither.
OVERLAP_MS = 15 * 60_000
OPTIONS: dict[str, Any] = {
    "bootstrap_servers": os.environ.get("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"),
    "isolation_level": "read_committed",
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",  # partitions that are added later are read whole
}
TABLES = """
CREATE TABLE IF NOT EXISTS customers (
    customer_id TEXT PRIMARY KEY, segment TEXT, merged_into TEXT, sequence INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS beginning (kafka_partition INTEGER PRIMARY KEY, kafka_offset INTEGER NOT NULL);
"""
# A move that is stored already, or that comes after a later one of its customer, changes nothing.
STORE = """
INSERT INTO customers (customer_id, segment, merged_into, sequence) VALUES (?, ?, ?, ?)
ON CONFLICT (customer_id) DO UPDATE
SET segment = excluded.segment, merged_into = excluded.merged_into, sequence = excluded.sequence
WHERE excluded.sequence > customers.sequence
"""


def store(db: sqlite3.Connection, value: bytes) -> None:
    """Store a move. An erased or merged id keeps its number, so that no older move brings it back."""
    move = json.loads(value)
    db.execute(STORE, (move["customer_id"], move["to"], move.get("merged_into"), move["sequence"]))


async def copy_state(db: sqlite3.Connection) -> None:
    """Copy segment-state, and note from where segment-changes must be followed."""
    async with AIOKafkaConsumer(CHANGES, STATE, **OPTIONS) as consumer:
        changes = [tp for tp in consumer.assignment() if tp.topic == CHANGES]
        # The ends are asked first: after them a move may come, and a partition without a later one begins there.
        ends = await consumer.end_offsets(changes)
        since = await consumer.offsets_for_times(dict.fromkeys(changes, int(time.time() * 1000) - OVERLAP_MS))
        offsets = {tp.partition: found.offset if (found := since[tp]) else ends[tp] for tp in changes}
        db.executemany("INSERT INTO beginning VALUES (?, ?)", offsets.items())

        state = [tp for tp in consumer.assignment() if tp.topic == STATE]
        consumer.pause(*changes)
        ends = await consumer.end_offsets(state)
        # By position, not by record: the last offset is that of a transaction's marker.
        while any([await consumer.position(tp) < ends[tp] for tp in state]):
            for records in (await consumer.getmany(*state, timeout_ms=1000)).values():
                for record in records:
                    if record.value is None:  # the customer was erased, or merged into another
                        db.execute("DELETE FROM customers WHERE customer_id = ?", (record.key.decode(),))
                    else:
                        store(db, record.value)


async def begin(db: sqlite3.Connection) -> None:
    """On the first start, copy the state, and commit the noted offsets. A crash repeats what is missing."""
    with db:  # one transaction: all of the copy or nothing
        db.execute("BEGIN IMMEDIATE")  # a second process waits here, and finds the copy done
        if not db.execute("SELECT 1 FROM beginning").fetchone():
            await copy_state(db)
    noted = {TopicPartition(CHANGES, p): offset for p, offset in db.execute("SELECT * FROM beginning")}
    async with AIOKafkaConsumer(group_id=GROUP, **OPTIONS) as consumer:
        consumer.assign([*noted])
        if missing := {tp: offset for tp, offset in noted.items() if await consumer.committed(tp) is None}:
            await consumer.commit(missing)


async def main() -> None:
    """Follow the moves until the process is stopped, by whatever: the next start goes on where this one was."""
    with closing(sqlite3.connect(os.environ.get("DATABASE", "crm.db"), timeout=60)) as db:
        db.executescript(TABLES)
        await begin(db)
        async with AIOKafkaConsumer(CHANGES, group_id=GROUP, **OPTIONS) as consumer:
            while True:
                batch = await consumer.getmany(timeout_ms=1000)
                with db:
                    for records in batch.values():
                        for record in records:
                            store(db, record.value)
                # Only now: before, a crash would lose the batch. After a crash between the two it comes again.
                if batch:
                    await consumer.commit({tp: records[-1].offset + 1 for tp, records in batch.items()})


if __name__ == "__main__":
    asyncio.run(main())
