"""Every place of a deployment that can hold a customer: the keys of its shards in Redis and its topics in Kafka.

Erasures and exports of a customer walk the same places. The list is made from `ShardKeys.all` and `topics.specs`: a
key or a topic that is new there is walked too, at first without a description.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.partitioners import PARTITIONERS
from stream.kafka.topics import specs
from stream.storage.keys import ShardKeys, status_key

if TYPE_CHECKING:
    from stream.settings import Settings

_ORDERS: Final = "the customer's events, as they were sent"
_MOVES: Final = "the customer's moves, with their figures"
_HEADS: Final = "the id of a customer, where a rescore has stopped at it"
UNDESCRIBED: Final = "records that name the customer"

# Data of the customer outside of these places. `segstream erase` and `customer --everything` name them.
OUTSIDE: Final = (
    "backups and replicas of Redis and Kafka",
    "Redis' slow log (SLOWLOG RESET empties it)",
    "topics of your own adapters, and whatever other services read from the topics or wrote down",
    "records of transactions that were aborted: Kafka keeps them, and hands them to no reader",
)


class RecordKey(StrEnum):
    """The key of a topic's records."""

    CUSTOMER = "customer"  # the customer's id
    HASH = "hash"  # the tombstone's name
    OTHER = "other"


class TopicPlace(NamedTuple):
    """A topic. `holds`: what it can hold of a customer; None: no customer's id."""

    topic: str
    holds: str | None
    key: RecordKey
    # Written by segstream alone: a customer's records are in the partition of its shard. Anybody may write the other
    # topics, and a record in a wrong partition stays in its log longer than its dead letter.
    sharded: bool


class ShardPlace(NamedTuple):
    """A shard in Redis. `scoring`: of the scoring step, whose states hold the events; else of the campaigns."""

    keys: ShardKeys
    scoring: bool


def topic_places(settings: Settings) -> list[TopicPlace]:
    """Return each topic of the deployment.

    >>> from stream.settings import Settings
    >>> [place.topic for place in topic_places(Settings()) if place.key is RecordKey.HASH]
    ['segstream-tombstones']
    """
    known = {place.topic: place for place in _described(settings)}
    return [
        known.get(spec.name, TopicPlace(spec.name, UNDESCRIBED, RecordKey.CUSTOMER, sharded=False))
        for spec in specs(settings)
    ]


def _described(settings: Settings) -> list[TopicPlace]:
    by_customer, by_hash, other = RecordKey.CUSTOMER, RecordKey.HASH, RecordKey.OTHER
    return [
        TopicPlace(settings.orders_topic, _ORDERS, by_customer, sharded=False),
        TopicPlace(settings.unkeyed_topic, _ORDERS, other, sharded=False),
        TopicPlace(
            settings.orders_dead_letters_topic,
            "the customer's events that could not be used",
            by_customer,
            sharded=False,
        ),
        TopicPlace(settings.changes_topic, _MOVES, by_customer, sharded=True),
        TopicPlace(
            settings.state_topic,
            "the latest move, which a tombstone replaces at the erasure",
            by_customer,
            sharded=True,
        ),
        TopicPlace(
            settings.changes_dead_letters_topic,
            "the customer's moves that could not be used",
            by_customer,
            sharded=False,
        ),
        TopicPlace(settings.actions_topic, "the decisions of campaigns about the customer", by_customer, sharded=True),
        TopicPlace(settings.deliveries_topic, "whether each action reached its endpoints", by_customer, sharded=True),
        TopicPlace(
            settings.actions_dead_letters_topic, "the actions that an endpoint never took", by_customer, sharded=True
        ),
        TopicPlace(
            settings.redeliveries_topic, "the actions that were sent to an endpoint again", by_customer, sharded=True
        ),
        TopicPlace(
            settings.profiles_topic, "the customer's time zone, consents and language", by_customer, sharded=False
        ),
        TopicPlace(
            settings.tombstones_topic, "the keyed hash of an erased customer's id, which stays", by_hash, sharded=True
        ),
        TopicPlace(settings.heads_topic("scoring"), _HEADS, other, sharded=False),
        TopicPlace(settings.heads_topic("campaigns"), _HEADS, other, sharded=False),
        TopicPlace(settings.models_topic, None, other, sharded=False),
        TopicPlace(settings.reports_topic, None, other, sharded=False),
        TopicPlace(settings.rates_topic, None, other, sharded=False),
        TopicPlace(settings.redrives_topic, None, other, sharded=False),
        TopicPlace(settings.reshards_topic, None, other, sharded=False),
        TopicPlace(settings.positions_topic, None, other, sharded=False),
    ]


def shard_places(settings: Settings) -> list[ShardPlace]:
    """Return each shard of both steps."""
    steps = ((settings.orders_topic, True), (settings.changes_topic, False))
    return [
        ShardPlace(ShardKeys(settings.group, topic, partition), scoring)
        for topic, scoring in steps
        for partition in range(settings.partitions)
    ]


def status_places(settings: Settings) -> list[str]:
    """Return the keys of the shards' statuses, whose texts can quote an id."""
    return [status_key(settings.group, topic) for topic in (settings.orders_topic, settings.changes_topic)]


def shards_of(settings: Settings, customer_id: str) -> list[int]:
    """Return the partitions that the customer's events can be in: one, or all where no partitioner is known.

    >>> from stream.settings import Settings
    >>> shards_of(Settings(partitions=4), "21"), shards_of(Settings(partitions=2, partitioner="none"), "21")
    ([0], [0, 1])
    """
    partitioner = PARTITIONERS[settings.partitioner]
    if partitioner is None:
        return list(range(settings.partitions))
    return [partitioner(customer_id.encode(), settings.partitions)]
