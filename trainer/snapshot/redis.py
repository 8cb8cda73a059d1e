"""The customers as of one instant, read from the live states by the worker's own code."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from redis.exceptions import BusyLoadingError, MasterDownError, RedisError

from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.features import LifeColumns, feature_columns, life_columns
from segmentation.rfm import Rules, StateFormatError, advance_bytes, headers
from stream.errors import error_text
from stream.storage.client import RedisUnreachable, open_redis, redis_address, unreachable
from stream.storage.keys import ShardKeys
from stream.storage.reads import ShardUnreadable, read_head, require_head
from stream.storage.states import read_states
from trainer.errors import SnapshotError
from trainer.snapshot.purchase_days import DaysSample
from trainer.snapshot.replica import read_link

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from redis import Redis

    from stream.settings import DeploymentSettings
    from trainer.snapshot.purchase_days import PurchaseDays
    from trainer.snapshot.replica import Link

log = logging.getLogger(__name__)

# States read at a time: bounds the memory of their entries.
_BLOCK: Final = 10_000
# In wall time, a deployment without any event for so long is worth a warning; one without orders at night isn't.
_QUIET_MS: Final = DAY_MS
_REPLICA: Final = "(Where SEGSTREAM_TRAINER_REDIS_URL is set, that is the URL meant.)"


class Spending(NamedTuple):
    """Orders and money of customers, [customers] each: of the window, or of their whole lives."""

    orders: NDArray[np.float64]  # orders in the window; days with an order in a whole life
    money: NDArray[np.float64]  # currency units


@dataclass(frozen=True, slots=True)
class CustomerSnapshot:
    """Customers in the order of their bytes, and a column [customers] of each feature as of one instant.

    `frequency` and `monetary` are those of the window, the last `window_days`.
    `life` has the columns of their whole lives, in the same order. Orders that were forgotten before they were counted
    (a move marks such a life as partial) are missing there.

    Equal states give equal snapshots, whatever the number of partitions.
    """

    customers: tuple[bytes, ...]
    recency_days: NDArray[np.float64]
    frequency: NDArray[np.float64]
    monetary: NDArray[np.float64]  # currency units
    as_of_ms: int
    left_out: int  # customers without an order that stands
    life: LifeColumns | None = None  # None: the figures aren't from states
    days: PurchaseDays | None = None  # of a sample; None: likewise
    derived: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)  # features that a training computed
    window_days: float = Rules().window / DAY_MS

    def column(self, feature: str) -> NDArray[np.float64]:
        """Return the column of a name in segmentation.model.FEATURES, or of a derived feature."""
        own = {"recency_days": self.recency_days, "frequency": self.frequency, "monetary": self.monetary}
        return own[feature] if feature in own else self.derived[feature]

    def spending(self, *, whole_lives: bool) -> Spending:
        """Return what the customers ordered and spent, as the model that is told of sees it."""
        if not whole_lives:
            return Spending(self.frequency, self.monetary)
        assert self.life is not None  # no model by own clock is made without
        return Spending(self.life.purchase_days.astype(np.float64), self.life.monetary)

    def with_columns(self, derived: Mapping[str, NDArray[np.float64]]) -> CustomerSnapshot:
        """Return the same customers with derived features, [customers] each."""
        return replace(self, derived=derived)

    def last_orders_ms(self) -> NDArray[np.int64]:
        """Return the last order of each customer, in ms before the snapshot (0 or less), [customers]."""
        # Recency is whole milliseconds in days: rounding restores them.
        return -np.rint(self.recency_days * DAY_MS).astype(np.int64)


def take(settings: DeploymentSettings, as_of_ms: int | None, *, now_ms: int) -> CustomerSnapshot:
    """Read all shards as of an instant; None: now in wall time, the highest shard clock in event time.

    For a replica that has lost its primary, now is the moment of the loss, because later orders are missing; a warning
    is logged. Customers whose orders were all cancelled or erased have no recency: they are left out and counted.
    Customers whose orders have all left the window stay, with frequency 0. Workers may go on meanwhile: an order placed
    during the read can be included, with recency 0. Raises SnapshotError.
    """
    try:
        with open_redis(settings, timeout_s=settings.redis_timeout_s, retries=1) as redis:
            return _take(redis, settings, as_of_ms, now_ms)
    except RedisUnreachable as error:
        raise SnapshotError(str(error), hint=_REPLICA) from None
    except (RedisError, OSError) as error:
        if hint := _hint(error):
            raise SnapshotError(f"Redis at {redis_address(settings)}: {error_text(error)}.", hint=hint) from error
        raise SnapshotError(str(unreachable(settings, error)), hint=_REPLICA) from error
    except ShardUnreadable as error:
        raise SnapshotError(str(error)) from error
    except StateFormatError as error:
        raise SnapshotError(
            f"group {settings.group}, topic {settings.orders_topic}: {str(error).removesuffix('.')}.",
            hint="If another version wrote it, `segstream rebuild` builds the states again.",
        ) from error


def _take(redis: Redis, settings: DeploymentSettings, as_of_ms: int | None, now_ms: int) -> CustomerSnapshot:
    shards = [ShardKeys(settings.group, settings.orders_topic, p) for p in range(settings.partitions)]
    # Before the states: checked afterwards, a replica that has reconnected meanwhile would look in sync.
    link = read_link(redis)
    heads = [read_head(redis, keys) for keys in shards]
    known = [head.clock_ms for head in heads if head is not None and head.clock_ms is not None]
    if not known:
        raise _no_customers(settings, link)
    for keys in shards:
        require_head(redis, keys, settings)
    beyond = ShardKeys(settings.group, settings.orders_topic, settings.partitions)
    if redis.exists(beyond.head):
        raise SnapshotError(
            f"SEGSTREAM_PARTITIONS is {settings.partitions}, but Redis at {redis_address(settings)} has more shards of "
            f"topic {settings.orders_topic}: their customers would be missing.",
            hint="Set the number that the workers have.",
        )
    at = _instant(max(known), as_of_ms, now_ms, link, settings)
    snapshot = columns((row for keys in shards for row in read_states(redis, keys)), at, settings.rules)
    log_customers(snapshot)
    return snapshot


def _no_customers(settings: DeploymentSettings, link: Link | None) -> SnapshotError:
    message = (
        f"Redis at {redis_address(settings)} has no shard of group {settings.group}, topic {settings.orders_topic}"
    )
    if link is not None and not link.up:
        return SnapshotError(
            f"{message}: it is a replica, and {link.description}.",
            hint="Wait until it is in sync, or read from the primary.",
        )
    return SnapshotError(
        f"{message}: there are no customers to train on.",
        hint="Run `segstream worker` on some orders first, with the same SEGSTREAM_ settings.",
    )


def _instant(earliest: int, as_of_ms: int | None, now_ms: int, link: Link | None, settings: DeploymentSettings) -> int:
    """Choose the instant. `earliest`: the highest shard clock; states have forgotten what left the window before it."""
    if as_of_ms is not None and as_of_ms < earliest:
        raise SnapshotError(
            f"the customers can't be read as of {iso(as_of_ms)}: their states are already at {iso(earliest)}.",
            hint="Give that or a later time, or replay the orders `--until` the earlier one.",
        )
    synced_ms = now_ms
    if link is not None and not link.up:
        synced_ms = earliest if link.lost_s is None else now_ms - link.lost_s * 1000
    chosen = as_of_ms
    if chosen is None:
        chosen = earliest if settings.time == "event" else max(synced_ms, earliest)
    if link is not None and not link.up:
        log.warning(
            "Redis at %s is a replica, and %s: the customers are read as of %s, without later orders",
            *(redis_address(settings), link.description, iso(chosen)),
        )
    elif settings.time == "wall" and chosen - earliest > _QUIET_MS:
        log.warning(
            "the last event in Redis at %s is of %s, %.1f days before %s: check that the workers run, and use it",
            *(redis_address(settings), iso(earliest), (chosen - earliest) / DAY_MS, iso(chosen)),
        )
    return chosen


def _hint(error: Exception) -> str:
    """Return what to do about an error that only a snapshot can meet; "" for any other."""
    if isinstance(error, BusyLoadingError):
        return "It is loading its data: wait until it has finished, or read from another Redis."
    if isinstance(error, MasterDownError):
        return "It is a replica without its primary: restore the link, or read from another Redis."
    if "WRONGTYPE" in str(error):
        return "Its keys aren't those of segstream: check SEGSTREAM_REDIS_URL and SEGSTREAM_GROUP."
    return ""


def log_customers(snapshot: CustomerSnapshot) -> None:
    """Log the size of the snapshot that a run trains on; it makes others of the past, which need no line."""
    log.info(
        "customers as of %s: %d; left out without an order that stands: %d",
        *(iso(snapshot.as_of_ms), len(snapshot.customers), snapshot.left_out),
    )


def columns(rows: Iterable[tuple[bytes, bytes]], at: int, rules: Rules) -> CustomerSnapshot:
    """Return the snapshot of (customer, state) rows: the figures of each state, advanced to the instant."""
    customers: list[bytes] = []
    recency, frequency, monetary = ([np.empty(0)] for _ in range(3))
    lives: list[LifeColumns] = []
    days = DaysSample(at, rules)
    left_out = 0
    for block in _blocks(rows):
        now = [(customer, _advanced(customer, value, at, rules)) for customer, value in block]
        head = headers([value for _, value in now])
        found = feature_columns(head, at)
        left_out += int(np.count_nonzero(~found.stands))
        standing = [row for row, keep in zip(now, found.stands.tolist(), strict=True) if keep]
        customers += [customer for customer, _ in standing]
        days.add(standing)
        recency.append(found.recency_days)
        frequency.append(found.frequency)
        monetary.append(found.monetary)
        lives.append(life_columns(head[found.stands]))
    order = sorted(range(len(customers)), key=customers.__getitem__)
    customers = [customers[i] for i in order]
    return CustomerSnapshot(
        customers=tuple(customers),
        recency_days=np.concatenate(recency)[order],
        frequency=np.concatenate(frequency)[order],
        monetary=np.concatenate(monetary)[order],
        as_of_ms=at,
        left_out=left_out,
        life=_joined(lives, order),
        days=days.of(customers),
        window_days=rules.window / DAY_MS,
    )


def _joined(lives: Iterable[LifeColumns], order: Sequence[int]) -> LifeColumns:
    """Join the columns of blocks of customers, and put the customers into this order."""
    none = life_columns(headers([]))
    return LifeColumns(*[np.concatenate(column)[order] for column in zip(none, *lives, strict=True)])


def _advanced(customer: bytes, value: bytes, at: int, rules: Rules) -> bytes:
    try:
        return advance_bytes(value, at, rules)
    except StateFormatError as error:
        raise StateFormatError(f"customer {customer!r}: {error}") from None


def _blocks(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    rest = iter(rows)
    while block := list(islice(rest, _BLOCK)):
        yield block
