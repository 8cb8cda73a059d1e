"""The recovery tests' Kafka and two Valkeys: killed, suspended, rolled back, failed over; proxies for each worker."""

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
from typing import Any, Final, Self

from redis import Redis
from redis.exceptions import RedisError

from stream.local.kafka_server import KafkaServer
from stream.local.machine import free_port
from stream.local.valkey_server import ValkeyServer
from stream.settings import Settings
from tests.recovery.rig.proxy import HOST, Proxy, Wiring
from tests.recovery.rig.security import OPERATOR, WORKER, Security
from tests.support.secured.kafka import SecuredKafka

SECURED: Final = os.environ.get("SECURED", "0") == "1"
AOF: Final = "appendonlydir"
KEPT_SNAPSHOTS: Final = 4


@dataclass(frozen=True, slots=True)
class Wires:
    """A worker's proxies to the servers."""

    kafka: Proxy
    redis: Proxy

    def both(self) -> tuple[Proxy, Proxy]:
        return self.kafka, self.redis

    def heal(self) -> None:
        for proxy in self.both():
            proxy.heal()


class RigServers:
    """The servers, as a context manager. `workers`: how many may run at one time.

    `secured`: as in security.py; None: where SECURED=1 asks for it.
    """

    def __init__(
        self, folder: Path, workers: int, *, kafka_version: str | None = None, secured: bool | None = None
    ) -> None:
        self.security = Security(folder) if (SECURED if secured is None else secured) else None
        self.wiring = Wiring()
        self._folder = folder
        self._workers = workers
        self._kafka_version = kafka_version
        self._valkeys = [
            # Either may become the other's replica.
            ValkeyServer(
                folder / f"valkey-{name}",
                port=None,
                report=print,
                overrides={"repl-timeout": "60"} | (self.security.valkey_settings(name) if self.security else {}),
            )
            for name in "ab"
        ]
        self._primary = 0
        self._snapshots: list[Path] = []
        self._taken = 0
        self._stopping = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stopping.enter_context(self.wiring)
        # Ports first: Kafka advertises the proxies' addresses, and the proxies forward to its listeners.
        ports = [free_port() for _ in range(self._workers)]
        tls = self.security.context if self.security else None
        proxies = [self.wiring.proxy(port, kafka=True, tls=tls) for port in ports]
        self.kafka = self._make_kafka(ports, proxies)
        for server in (self.kafka, *self._valkeys):
            self._stopping.callback(server.stop)
            server.start()
        if self.security:
            for proxy in proxies:
                proxy.late_target = self.kafka.port
        self.wires = [Wires(proxy, self.wiring.proxy(self.valkey.port, tls=tls)) for proxy in proxies]
        self._to_primary = self.wiring.proxy(self.valkey.port)
        self._operators_redis = self.wiring.proxy(self.valkey.port, tls=tls)
        self._replication = self.wiring.proxy(self.valkey.port)
        self._attach_replica()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.close()

    def _make_kafka(self, ports: list[int], proxies: list[Proxy]) -> KafkaServer:
        """Make a Kafka with one listener for the tests and itself, and one behind each worker's proxy."""
        if self.security:
            return self.security.kafka(self._folder / "kafka", ports, proxies, self._kafka_version)
        port, controller = free_port(), free_port()
        listeners = {"PLAINTEXT": port, "CONTROLLER": controller} | {f"W{i}": p for i, p in enumerate(ports)}
        advertised = {"PLAINTEXT": port} | {f"W{i}": p.port for i, p in enumerate(proxies)}
        return KafkaServer(
            self._folder / "kafka",
            port=port,
            report=print,
            watched=True,
            version=self._kafka_version,
            overrides={
                "listeners": ",".join(f"{name}://{HOST}:{at}" for name, at in listeners.items()),
                "advertised.listeners": ",".join(f"{name}://{HOST}:{at}" for name, at in advertised.items()),
                "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
                "controller.quorum.voters": f"1@{HOST}:{controller}",
            },
        )

    @property
    def valkey(self) -> ValkeyServer:
        """The primary."""
        return self._valkeys[self._primary]

    @property
    def redis_url(self) -> str:
        """The URL of the present primary, for the tests."""
        return self._url(self._to_primary.port)

    def _url(self, port: int) -> str:
        return self.security.administrators_url(port) if self.security else f"redis://{HOST}:{port}/0"

    def way_in(self, wires: Wires | None) -> dict[str, Any]:
        """Return the settings by which a worker connects, through its wires; None: those of an operator's command."""
        redis = wires.redis if wires else self._operators_redis
        if isinstance(self.kafka, SecuredKafka) and self.security:
            kafka = f"{HOST}:{wires.kafka.port}" if wires else self.kafka.address_of("SASLTLS")
            return self.security.way_in(WORKER if wires else OPERATOR, kafka, redis.port)
        return {
            "kafka_bootstrap_servers": f"{HOST}:{wires.kafka.port}" if wires else self.kafka.address,
            "redis_url": f"redis://{HOST}:{redis.port}/0",
        }

    async def admit(self, settings: Settings) -> None:
        """Let the workers and commands of these settings' group in."""
        if self.security:
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(self.redis(server)) for server in self._valkeys]
                await self.security.admit(settings, clients)

    def set_redis_user(self, user: str, rule: str) -> None:
        """Change a user's permissions in both Valkeys, until they are started again."""
        for server in self._valkeys:
            with self.redis(server) as redis:
                command: Any = redis.execute_command
                command("ACL", "SETUSER", user, rule)

    @property
    def replica(self) -> ValkeyServer:
        return self._valkeys[1 - self._primary]

    @contextlib.contextmanager
    def redis(self, server: ValkeyServer | None = None) -> Iterator[Redis]:
        """Connect directly, without a worker's proxy."""
        with Redis.from_url(self._url((server or self.valkey).port), socket_timeout=20) as client:
            yield client

    def _attach_replica(self) -> None:
        self._replication.point_at(self.valkey.port)
        self._replication.cut()
        self._replication.heal()
        with self.redis(self.replica) as redis:
            redis.replicaof(HOST, self._replication.port)

    def wait_for_replica(self, within_s: float = 60.0) -> None:
        """Wait until the replica has all data of the primary. Raises TimeoutError."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with contextlib.suppress(RedisError), self.redis(self.replica) as redis:
                replication = redis.info("replication")
                if replication.get("master_link_status") == "up" and not replication.get("master_sync_in_progress"):
                    return
            time.sleep(0.05)
        raise TimeoutError(f"the replica isn't in step within {within_s} s; its log: {self.replica.log}")

    def fail_over(self, lag_s: float) -> None:
        """Let the replica fall behind by `lag_s` seconds and promote it: the primary's last writes are lost.

        The workers stay connected to the old primary, which goes on as a primary: `point_at` moves them.
        """
        self.wait_for_replica()
        self._replication.hold()
        time.sleep(lag_s)
        with self.redis(self.replica) as redis:
            redis.replicaof("NO", "ONE")
        self._primary = 1 - self._primary
        for proxy in (self._to_primary, self._operators_redis):
            proxy.point_at(self.valkey.port)
            proxy.cut()

    def demote_other(self) -> None:
        """Make the other Valkey the primary's replica: it loses the data that only it had."""
        for wires in self.wires:
            wires.redis.point_at(self.valkey.port)
            wires.redis.cut()
        self._attach_replica()

    def snapshot(self) -> None:
        """Copy the primary's append-only file as of now."""
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
        """Restart the primary on a snapshot. `which`: counted from the newest, modulo their number."""
        chosen = self._snapshots[-1 - which % len(self._snapshots)]
        self.valkey.kill()
        shutil.rmtree(self.valkey.directory / AOF)
        shutil.copytree(chosen, self.valkey.directory / AOF)
        self.valkey.start()

    def heal(self) -> None:
        """Let all servers run, and connect everything."""
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
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
