"""Hand campaign actions to the sender of messages: each once, whatever crashes.

pip install aiokafka, then: python actions.py
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from contextlib import closing

from aiokafka import AIOKafkaConsumer

# The sender takes its work from this table, and marks it `sent`. The id is the action's: the same after any crash.
TABLE = """
CREATE TABLE IF NOT EXISTS messages (
    id TEXT PRIMARY KEY, customer_id TEXT NOT NULL, campaign TEXT NOT NULL, channel TEXT NOT NULL,
    action TEXT NOT NULL, sent INTEGER NOT NULL DEFAULT 0
)
"""
STORE = """
INSERT INTO messages (id, customer_id, campaign, channel, action)
VALUES (:id, :customer_id, :campaign, :channel, :action)
ON CONFLICT (id) DO NOTHING
"""


def store(db: sqlite3.Connection, value: bytes) -> None:
    """Store an action as a message to send. All else that the topic has never leads to a message."""
    event = json.loads(value)
    match event["type"]:
        case "campaign.action":
            db.execute(STORE, event)
        case _:
            # campaign.withheld, .scheduled, .converted and .budget say why there is no message, and what came of one.
            # Later versions may add types: skip those that you don't know.
            pass


async def main() -> None:
    """Follow the actions until the process is stopped, by whatever: the next start goes on where this one was."""
    consumer = AIOKafkaConsumer(
        os.environ.get("SEGSTREAM_ACTIONS_TOPIC", "campaign-actions"),
        bootstrap_servers=os.environ.get("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"),
        group_id=os.environ.get("GROUP", "crm-actions"),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    with closing(sqlite3.connect(os.environ.get("DATABASE", "crm.db"), timeout=60)) as db:
        db.execute(TABLE)
        async with consumer:
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
