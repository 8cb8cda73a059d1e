"""A Kafka and two Valkeys of the suite's own: killed, suspended, put back in time, failed over; each worker on wires of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from redis import Redis
from redis.exceptions import RedisError

from stream.local.kafka_server import KafkaServer
from stream.local.machine import free_port
from stream.local.valkey_server import ValkeyServer
from tests.recovery.rig.proxy import HOST, Proxy, Wiring

AOF: Final = "appendonlydir"
KEPT_SNAPSHOTS: Final = 4


@dataclass(frozen=True, slots=True)
class Wires:
    """One worker's ways to the servers."""

    kafka: Proxy
    redis: Proxy

    def both(self) -> tuple[Proxy, Proxy]:
        return self.kafka, self.redis

    def heal(self) -> None:
        for proxy in self.both():
            proxy.heal()


class RigServers:
    """Started and stopped as a context. `places`: how many workers there may be at once."""

    def __init__(self, folder: Path, places: int) -> None:
        self.wiring = Wiring()
        self._folder = folder
        self._places = places
        self._valkeys = [
            # Each replica wants the log of changes for a partial resynchronisation; a megabyte is plenty here.
            ValkeyServer(folder / f"valkey-{name}", port=None, report=print, overrides={"repl-timeout": "60"})
            for name in "ab"
        ]
        self._primary = 0
        self._snapshots: list[Path] = []
        self._taken = 0
        self._stopping = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stopping.enter_context(self.wiring)
        # Ports first: Kafka advertises the proxies' addresses, the proxies lead to its listeners.
        ports = [free_port() for _ in range(self._places)]
        proxies = [self.wiring.proxy(port, kafka=True) for port in ports]
        self.kafka = self._make_kafka(ports, proxies)
        for server in (self.kafka, *self._valkeys):
            self._stopping.callback(server.stop)
            server.start()
        self.wires = [Wires(proxy, self.wiring.proxy(self.valkey.port)) for proxy in proxies]
        self._to_primary = self.wiring.proxy(self.valkey.port)
        self._replication = self.wiring.proxy(self.valkey.port)
        self._attach_replica()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.close()

    def _make_kafka(self, ports: list[int], proxies: list[Proxy]) -> KafkaServer:
        """One listener for the suite and for Kafka itself, and one behind each worker's proxy."""
        port, controller = free_port(), free_port()
        listeners = {"PLAINTEXT": port, "CONTROLLER": controller} | {f"W{i}": p for i, p in enumerate(ports)}
        advertised = {"PLAINTEXT": port} | {f"W{i}": p.port for i, p in enumerate(proxies)}
        return KafkaServer(
            self._folder / "kafka",
            port=port,
            report=print,
            watched=True,
            overrides={
                "listeners": ",".join(f"{name}://{HOST}:{at}" for name, at in listeners.items()),
                "advertised.listeners": ",".join(f"{name}://{HOST}:{at}" for name, at in advertised.items()),
                "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
                "controller.quorum.voters": f"1@{HOST}:{controller}",
            },
        )

    # ---- Valkey

    @property
    def valkey(self) -> ValkeyServer:
        """The primary."""
        return self._valkeys[self._primary]

    @property
    def redis_url(self) -> str:
        """The suite's own way to whoever is the primary."""
        return f"redis://{HOST}:{self._to_primary.port}/0"

    @property
    def replica(self) -> ValkeyServer:
        return self._valkeys[1 - self._primary]

    @contextlib.contextmanager
    def redis(self, server: ValkeyServer | None = None) -> Iterator[Redis]:
        """A connection of the suite's own, past all proxies."""
        with Redis.from_url((server or self.valkey).url, socket_timeout=20) as client:
            yield client

    def _attach_replica(self) -> None:
        self._replication.point_at(self.valkey.port)
        self._replication.cut()
        self._replication.heal()
        with self.redis(self.replica) as redis:
            redis.replicaof(HOST, self._replication.port)

    def wait_for_replica(self, within_s: float = 60.0) -> None:
        """Until the replica has all that the primary has."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with contextlib.suppress(RedisError), self.redis(self.replica) as redis:
                told = redis.info("replication")
                if told.get("master_link_status") == "up" and not told.get("master_sync_in_progress"):
                    return
            time.sleep(0.05)
        raise TimeoutError(f"the replica isn't in step within {within_s} s; its log: {self.replica.log}")

    def fail_over(self, lag_s: float) -> None:
        """The replica falls behind by `lag_s` seconds and is promoted; the primary's last writes are lost.

        The workers' wires still lead to the old primary, which lives on as a primary: `point_at` moves them.
        """
        self.wait_for_replica()
        self._replication.hold()
        time.sleep(lag_s)
        with self.redis(self.replica) as redis:
            redis.replicaof("NO", "ONE")
        self._primary = 1 - self._primary
        self._to_primary.point_at(self.valkey.port)
        self._to_primary.cut()

    def demote_other(self) -> None:
        """The other Valkey becomes the primary's replica: whatever it had alone is gone."""
        for wires in self.wires:
            wires.redis.point_at(self.valkey.port)
            wires.redis.cut()
        self._attach_replica()

    def snapshot(self) -> None:
        """Keep the primary's append-only file as it is at this instant."""
        self._taken += 1
        copy = self._folder / f"snapshot-{self._taken}"
        self.valkey.suspend()
        try:
            shutil.copytree(self.valkey.directory / AOF, copy)
        finally:
            self.valkey.resume()
        self._snapshots.append(copy)
        while len(self._snapshots) > KEPT_SNAPSHOTS:
            shutil.rmtree(self._snapshots.pop(0))

    @property
    def has_snapshot(self) -> bool:
        return bool(self._snapshots)

    def put_back(self, which: int) -> None:
        """Restart the primary on a snapshot. `which`: counted from the newest, modulo how many there are."""
        chosen = self._snapshots[-1 - which % len(self._snapshots)]
        self.valkey.kill()
        shutil.rmtree(self.valkey.directory / AOF)
        shutil.copytree(chosen, self.valkey.directory / AOF)
        self.valkey.start()

    # ---- all

    def heal(self) -> None:
        """Everything runs, everything is connected."""
        for server in (self.kafka, *self._valkeys):
            if server.running:
                server.resume()
            server.start()
        for wires in self.wires:
            wires.redis.point_at(self.valkey.port)
            wires.heal()
        self._replication.heal()
        with self.redis() as redis:
            for name, value in (("maxmemory", 0), ("min-replicas-to-write", 0)):
                redis.config_set(name, value)


def send(pid: int, number: signal.Signals) -> None:
    """A signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
