"""Events of customers on the topics of orders and profiles, each on its customer's partition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiokafka import AIOKafkaProducer

from segmentation.events import encode
from segmentation.partitioners import murmur2

if TYPE_CHECKING:
    from segmentation.events import CustomerErased, CustomerEvent
    from segmentation.profiles import CustomerProfile
    from stream.settings import Settings


async def send_events(settings: Settings, *events: CustomerEvent | CustomerErased) -> None:
    """Send events in their order, and wait until Kafka has all of them."""
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        for event in events:
            key = event.customer_id.encode()
            partition = murmur2(key, settings.partitions)
            await producer.send(settings.orders_topic, encode(event), key=key, partition=partition)


async def send_profiles(settings: Settings, *profiles: CustomerProfile) -> None:
    """Send profiles in their order, and wait until Kafka has all of them."""
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        for profile in profiles:
            key = profile.customer_id.encode()
            partition = murmur2(key, settings.partitions)
            await producer.send(settings.profiles_topic, encode(profile), key=key, partition=partition)
