"""A real Kafka and a real Valkey on this machine, from Python packages alone.

The demo, the tests and `segstream local` run on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from stream.local.kafka_server import KafkaServer
from stream.local.machine import LocalStackError
from stream.local.server import Report
from stream.local.valkey_server import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

__all__ = ["Endpoints", "LocalStack", "LocalStackError"]


@dataclass(frozen=True)
class Endpoints:
    """The addresses of the two servers: `kafka` as host:port, `redis` as a URL."""

    kafka: str
    redis: str

    def environment(self) -> dict[str, str]:
        """Return the variables that point every command at these servers.

        >>> Endpoints("127.0.0.1:9092", "redis://127.0.0.1:6379/0").environment()["SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS"]
        '127.0.0.1:9092'
        """
        return {"SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS": self.kafka, "SEGSTREAM_REDIS_URL": self.redis}


class LocalStack:
    """Kafka and Valkey with their data under `data_dir`, on 127.0.0.1, on free ports where none are given.

    `report` gets a line for each step that takes time. `watched`: both servers end with this process, even if it is
    killed (kill -9); otherwise they run until they are stopped. `kafka` and `valkey` may each be stopped, killed,
    suspended and started again on the same port and data. `long_run`: Kafka's Java compiles for speed, as in
    production, not for a quick start. `kafka_version`: None: the one that SEGSTREAM_LOCAL_KAFKA_VERSION names.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        report: Report = lambda _: None,
        kafka_port: int | None = None,
        redis_port: int | None = None,
        kafka_overrides: Mapping[str, str] | None = None,
        valkey_overrides: Mapping[str, str] | None = None,
        kafka_heap: str = "512m",
        long_run: bool = False,
        watched: bool = True,
        kafka_version: str | None = None,
    ) -> None:
        folder = data_dir.expanduser().resolve()
        self.kafka = KafkaServer(
            folder / "kafka",
            port=kafka_port,
            report=report,
            watched=watched,
            heap=kafka_heap,
            long_run=long_run,
            overrides=kafka_overrides,
            version=kafka_version,
        )
        self.valkey = ValkeyServer(
            folder / "valkey", port=redis_port, report=report, watched=watched, overrides=valkey_overrides
        )

    @property
    def endpoints(self) -> Endpoints:
        """The servers' addresses; final once they are started."""
        return Endpoints(self.kafka.address, self.valkey.url)

    def start(self) -> Endpoints:
        """Start both servers, and return when both answer. Raises LocalStackError, and then leaves none running."""
        try:
            self.kafka.start()
            self.valkey.start()
        except BaseException:
            self.stop()
            raise
        return self.endpoints

    def stop(self) -> None:
        """Stop both servers."""
        try:
            self.valkey.stop()
        finally:
            self.kafka.stop()

    def __enter__(self) -> Self:
        """Start both servers."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop both servers."""
        self.stop()
