"""The customers as of one instant, read from the live states by the code that the worker runs.

The one file of the trainer that knows of `stream`, and of it only the read side of the store.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec
import numpy as np
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from segmentation.entries import DAY_MS
from segmentation.events import iso
from segmentation.money import UNITS
from segmentation.rfm import NONE, StateFormatError, advance_bytes, heads
from segmentation.single import HORIZON_MS
from stream.layout import ShardKeys, read_clock, read_states
from trainer.errors import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from segmentation.rfm import Rules
    from trainer.settings import Settings

log = logging.getLogger(__name__)

# States turned to columns at a time: bounds the memory that their entries take.
_BLOCK: Final = 10_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Customers in the order of their bytes, and a column [customers] of each feature as of one instant.

    So equal states make equal snapshots, however many partitions they lie in.
    """

    customers: tuple[bytes, ...]
    recency_days: NDArray[np.float64]
    frequency: NDArray[np.float64]
    monetary: NDArray[np.float64]  # currency units
    as_of_ms: int
    left_out: int  # customers without an order that stands

    def column(self, feature: str) -> NDArray[np.float64]:
        """Give the column of a name in segmentation.model.FEATURES."""
        return {"recency_days": self.recency_days, "frequency": self.frequency, "monetary": self.monetary}[feature]


def take(settings: Settings, as_of_ms: int | None, *, now_ms: int) -> Snapshot:
    """Read all shards as of an instant; None: now in wall time, the highest shard clock in event time.

    Customers whose every order was cancelled or erased have no recency: they are left out and counted. Those whose
    orders have all left the window stay, with frequency 0. Workers may go on meanwhile: who buys during the read
    shows that order already, with recency 0. Raises SnapshotError.
    """
    url = settings.redis_url.get_secret_value()
    timeout_s = settings.redis_timeout_s
    shards = [ShardKeys(settings.group, settings.orders_topic, p) for p in range(settings.partitions)]
    try:
        with Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 1), protocol=2
        ) as redis:
            at = _instant([read_clock(redis, keys) for keys in shards], as_of_ms, now_ms, settings)
            return columns((row for keys in shards for row in read_states(redis, keys)), at, settings.rules)
    except (RedisError, OSError) as error:
        # Of the URL only what is no secret.
        parts = urlsplit(url)
        raise SnapshotError(
            f"Redis at {parts.hostname}:{parts.port or 6379}: {error}.",
            hint="Check SEGSTREAM_REDIS_URL, and that it runs.",
        ) from error
    except ValueError as error:
        if isinstance(error, (msgspec.DecodeError, StateFormatError)):
            raise SnapshotError(
                f"group {settings.group}, topic {settings.orders_topic}: {error}.",
                hint="Was it written by another version? `segstream rebuild` makes the states anew.",
            ) from error
        raise SnapshotError(f"SEGSTREAM_REDIS_URL isn't a Redis URL: {error}.") from None


def _instant(clocks: list[int | None], as_of_ms: int | None, now_ms: int, settings: Settings) -> int:
    known = [clock for clock in clocks if clock is not None]
    if not known:
        raise SnapshotError(
            f"Redis has no shard of group {settings.group}, topic {settings.orders_topic}: there is nobody to train on.",
            hint="Run `segstream worker` on some orders first, with the same SEGSTREAM_ settings.",
        )
    # A state has forgotten what left the window before its clock, so the past can't be told from it.
    earliest = max(known)
    if as_of_ms is None:
        return earliest if settings.time == "event" else max(now_ms, earliest)
    if as_of_ms < earliest:
        raise SnapshotError(
            f"as of {iso(as_of_ms)} can't be told: the states stand at {iso(earliest)}.",
            hint="Give that or a later time, or replay the orders `--until` the earlier one.",
        )
    return as_of_ms


def columns(rows: Iterable[tuple[bytes, bytes]], at: int, rules: Rules) -> Snapshot:
    """Bring each state to the instant and keep of it the three figures."""
    customers: list[bytes] = []
    recency, frequency, monetary = ([np.empty(0)] for _ in range(3))
    left_out = 0
    for block in _blocks(rows):
        head = heads([advance_bytes(value, at, rules) for _, value in block])
        stands = head["last"] != NONE
        left_out += int(np.count_nonzero(~stands))
        customers += [customer for (customer, _), keep in zip(block, stands, strict=True) if keep]
        head = head[stands]
        # Recency and money to the bit as the worker scores them (segmentation/forecast.py).
        elapsed = np.minimum(np.maximum(at - np.maximum(head["last"], -HORIZON_MS), 0), HORIZON_MS)
        recency.append(elapsed / float(DAY_MS))
        frequency.append(head["frequency"].astype(np.float64))
        monetary.append(head["monetary"] / float(UNITS))
    log.info("%d customers as of %s; %d left out, without an order that stands", len(customers), iso(at), left_out)
    order = sorted(range(len(customers)), key=customers.__getitem__)
    return Snapshot(
        customers=tuple([customers[i] for i in order]),
        recency_days=np.concatenate(recency)[order],
        frequency=np.concatenate(frequency)[order],
        monetary=np.concatenate(monetary)[order],
        as_of_ms=at,
        left_out=left_out,
    )


def _blocks(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    rest = iter(rows)
    while block := list(islice(rest, _BLOCK)):
        yield block
