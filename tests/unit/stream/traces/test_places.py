"""The places that can hold a customer: all topics and all keys of the deployment, also those that are new."""

from __future__ import annotations

import pytest

from stream.kafka.topics import TopicSpec, specs
from stream.settings import Settings
from stream.storage.keys import ShardKeys
from stream.traces.places import UNDESCRIBED, RecordKey, shard_places, shards_of, topic_places


def test_every_topic_is_a_place_and_is_described() -> None:
    places = topic_places(Settings())
    assert [place.topic for place in places] == [spec.name for spec in specs(Settings())]
    assert not [place.topic for place in places if place.holds == UNDESCRIBED], "describe it in stream/traces/places.py"


def test_a_topic_that_nobody_has_described_is_searched_in_all_its_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.traces.places.specs", lambda _: [TopicSpec("new", 1, 1, {})])
    [place] = topic_places(Settings())
    assert (place.topic, place.holds, place.key, place.sharded) == ("new", UNDESCRIBED, RecordKey.CUSTOMER, False)


def test_every_key_of_a_shard_is_a_place() -> None:
    keys = ShardKeys("g", "orders", 0)
    named = [getattr(keys, name) for name, part in vars(ShardKeys).items() if isinstance(part, property)]
    assert {name for name in named if name.startswith(f"{keys.tag}:")} == set(keys.all())
    both = shard_places(Settings(partitions=3))
    assert len(both) == 6
    assert sum(place.scoring for place in both) == 3


def test_a_customer_is_in_the_partition_of_the_partitioner() -> None:
    assert shards_of(Settings(partitions=8), "foobar") == [6]
    assert shards_of(Settings(partitions=8, partitioner="crc32"), "customer") == [1]
    assert shards_of(Settings(partitions=3, partitioner="none"), "customer") == [0, 1, 2]
