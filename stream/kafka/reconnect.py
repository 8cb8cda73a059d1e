"""A Kafka that can't be reached is asked again after a while, not at once.

aiokafka waits its `retry_backoff_ms` between two tries, whatever has failed. In a turn that must be milliseconds; with the
broker gone it makes hundreds of tries a second, each a line in the log.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

PAUSE_S: Final = 1.0  # behind each try of a connection that failed


def calm(client: Any) -> None:
    """Let an AIOKafkaProducer or AIOKafkaConsumer wait behind every connection that it can't make."""
    inner = client.client if hasattr(client, "client") else client._client  # noqa: SLF001  # the consumer has no public name for it
    connect = inner._get_conn  # noqa: SLF001  # where all connections are made

    async def connect_calmly(*arguments: Any, **named: Any) -> Any:
        made = await connect(*arguments, **named)
        if made is None:
            await asyncio.sleep(PAUSE_S)
        return made

    inner._get_conn = connect_calmly  # noqa: SLF001  # as said
