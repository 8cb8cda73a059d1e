"""What it means to own a shard: where it lies, who says that it is ours, and the one head that Redis must hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar

import msgspec
from redis.exceptions import RedisError

from segmentation.step import StateUnreadable, Step
from stream.engine.ledger import Ledger
from stream.engine.log_reader import LogReader
from stream.engine.store import ShardStore, Writes
from stream.errors import ShardLost, ShardQuarantined, StepFailed
from stream.kafka.streams import Streams
from stream.settings import Settings
from stream.storage.heads import StoreHead, encode_head

P = ParamSpec("P")
T = TypeVar("T")


class Membership(Protocol):
    """What a shard must know of the consumer group."""

    def identity(self) -> tuple[int, str]:
        """(generation, member id) of this worker now."""

    async def confirm(self, partition: int) -> bool:
        """Whether the group still counts this worker as the shard's owner, asked of the coordinator now."""


@dataclass(slots=True)
class ShardContext:
    """One shard: what it reads and writes, and where it lies."""

    settings: Settings
    streams: Streams
    partition: int
    step: Step
    store: ShardStore
    membership: Membership

    def __str__(self) -> str:
        """As it is called in logs."""
        return f"{self.streams.input}-{self.partition}"


class Owned:
    """A shard that this worker owns: its writer, its reader, and the head that Redis must hold."""

    def __init__(
        self, shard: ShardContext, ledger: Ledger, reader: LogReader, head: StoreHead, raw: bytes | None
    ) -> None:
        """`raw`: the head's bytes in Redis; None: nothing is there yet."""
        self.shard = shard
        self.ledger = ledger
        self.reader = reader
        self.head = head
        self.raw = raw

    async def commit(self, writes: Writes, **changes: Any) -> None:
        """Move the Redis head on, with the writes. An unknown outcome is looked at: one's own new head means success."""
        head = msgspec.structs.replace(self.head, turn=self.head.turn + 1, **changes)
        raw = encode_head(head)
        try:
            await self.shard.store.commit(self.raw, raw, writes)
        except RedisError as error:
            if not await self.shard.store.committed(raw):
                raise ShardLost("redis_commit", f"the commit to Redis failed: {error}.") from error
        self.head, self.raw = head, raw

    async def close(self) -> None:
        """Let go of the connections."""
        await self.ledger.close()
        await self.reader.close()


def stepping(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call into the step. Whatever it raises is the step's fault, not Kafka's or Redis': StepFailed.

    Raises ShardQuarantined where a state isn't of this version: no record is to blame for that.
    """
    try:
        return call(*args, **kwargs)
    except StateUnreadable as error:
        raise ShardQuarantined(
            "state_format",
            f"a state in Redis can't be read: {error}.",
            hint="Was it written by a newer version? `segstream rebuild` makes it anew.",
        ) from error
    except Exception as error:
        raise StepFailed(f"the step raised {error!r}.") from error
