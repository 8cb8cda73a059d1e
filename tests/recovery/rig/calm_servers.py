"""Servers in memory without any fault, as the contract tests need them."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from stream.kafka.streams import Streams
from tests.simulation.case import CALM
from tests.simulation.choices import Choices
from tests.simulation.servers.broker import SimulatedBroker
from tests.simulation.servers.kafka_clients import SimulatedKafka
from tests.simulation.servers.redis_client import RedisPlace
from tests.simulation.servers.redis_server import SimulatedRedisServer
from tests.simulation.wire import SimulatedWire

STORES: Final = [pytest.param("real", marks=pytest.mark.servers), "memory", "simulated"]


def calm_servers(streams: Streams) -> tuple[SimulatedKafka, RedisPlace]:
    """Return the simulation's servers, on which nothing goes wrong by itself."""
    loop, choices = asyncio.get_running_loop(), Choices(0)
    broker = SimulatedBroker(loop, choices, CALM)
    for topic in (*streams.pinned(), streams.latest, streams.dead_letters):
        broker.create(str(topic), 1)
    wire = SimulatedWire(loop, choices, delays=0, breaks=0, ends=0)
    return SimulatedKafka(broker, wire), RedisPlace(SimulatedRedisServer())
