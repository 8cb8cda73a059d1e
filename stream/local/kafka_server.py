"""A real Apache Kafka on this machine: one node in KRaft mode, broker and controller in one process."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import struct
import subprocess
import uuid
from typing import TYPE_CHECKING

from stream.local.jars import VERSION_VARIABLE, cache_folder, chosen_version, fetch_jars, find_java, locked_jars
from stream.local.machine import HOST, LocalStackError, free_port, is_free
from stream.local.server import Report, Server

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# For one node on one small machine; the rest is as in production.
_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # More threads than cores cost context switches: 13 ms of p99 from order to move on two cores.
    "num.network.threads": "1",
    "num.io.threads": "3",
    # Topics are created by `segstream topics create`, with their settings, never because a name was misspelt.
    "auto.create.topics.enable": "false",
    # One node can't keep three copies.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # The default, 50 partitions each, would cost seconds of the start and hundreds of files.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    # By default, a group's first member waits 3 s for a second one.
    "group.initial.rebalance.delay.ms": "0",
    # The default is 6 s; tests of fail-over use shorter sessions.
    "group.min.session.timeout.ms": "1000",
    # Above the input's 1 MiB: a dead letter holds a record and more headers. The topics' own settings have it too.
    "message.max.bytes": str(1_048_576 + 131_072),
    # After kill -9, the node can't register again before its old session ends: 9 s by default.
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
    # Transactions of a producer that died are aborted within a second of their time-out, not within ten.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}
_LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %m (%c{1}) %throwable{short.message}%n
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
"""
# Metadata request, version 4: key, version, correlation id, no client id; no topics; don't create any.
_METADATA_REQUEST = struct.pack(">hhihi?", 3, 4, 1, -1, 0, False)
_PROBE_TIMEOUT_S = 2.0


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


class KafkaServer(Server):
    """Apache Kafka under `directory`. `heap` is Java's -Xmx; `overrides` replace the broker's properties.

    `long_run`: Java compiles for speed, as in production; otherwise for a quick start. `version`: None: the one that
    SEGSTREAM_LOCAL_KAFKA_VERSION names.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None,
        report: Report,
        watched: bool = True,
        heap: str = "512m",
        long_run: bool = False,
        overrides: Mapping[str, str] | None = None,
        version: str | None = None,
    ) -> None:
        super().__init__(directory, port=port, report=report, watched=watched)
        self.version = version or chosen_version()
        self.name = f"Apache Kafka {self.version}"
        self._controller_port = free_port()
        self._heap = heap
        self._long_run = long_run
        self._overrides = dict(overrides or {})
        self._java: list[str] = []
        self._format_options: list[str] = []

    def _choose_ports(self) -> None:
        super()._choose_ports()
        self._controller_port = free_port()

    def _prepare(self) -> list[str]:
        if not self._java:
            self._java = self._java_command()
        if not is_free(self._controller_port):
            # Only the node itself uses this port, so it may change with every start.
            self._controller_port = free_port()
        data = self.directory / "log"
        self._check_version()
        if not (data / "meta.properties").exists():
            self._format(data)
        properties = self._write_properties("server.properties", data)
        self._report(f"starting {self.name} on {self.address}")
        return [*self._java, "kafka.Kafka", str(properties)]

    def _check_version(self) -> None:
        """Note the version beside the data. Raises LocalStackError where a newer Kafka wrote them: it can't go back."""
        noted = self.directory / "kafka-version"
        before = noted.read_text(encoding="utf-8").strip() if noted.exists() else self.version
        if _numbers(before) > _numbers(self.version):
            raise LocalStackError(
                f"Kafka {before} wrote the data in {self.directory}; Kafka {self.version} can't read them.",
                hint=f"Set {VERSION_VARIABLE}={before}, or choose another folder with --data-dir.",
            )
        noted.write_text(self.version + "\n", encoding="utf-8")

    def _java_command(self) -> list[str]:
        java = find_java()
        jars = fetch_jars(cache_folder() / f"kafka-{self.version}", locked_jars(self.version), self._report)
        logging = self.directory / "log4j2.properties"
        logging.write_text(_LOGGING, encoding="utf-8")
        options = [
            f"-Xmx{self._heap}",
            # The collector for small heaps and few cores; G1 would use more threads and memory.
            "-XX:+UseSerialGC",
            # A broker that runs for minutes on few cores would spend a third of its time compiling.
            *([] if self._long_run else ["-XX:TieredStopAtLevel=1"]),
            f"-Dlog4j2.configurationFile={logging.as_uri()}",
        ]
        return [str(java), *options, "-cp", os.pathsep.join(str(jar) for jar in jars)]

    def _write_properties(self, name: str, data: Path) -> Path:
        settings = {
            **_PROPERTIES,
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{HOST}:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.quorum.voters": f"1@{HOST}:{self._controller_port}",
            # A backslash begins an escape in this format.
            "log.dirs": str(data).replace("\\", "\\\\"),
            **self._overrides,
        }
        path = self.directory / name
        path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8")
        return path

    def _format(self, data: Path) -> None:
        """Create the node's storage. It is renamed when complete, so an interrupted first start does no harm."""
        unfinished = self.directory / "log.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        properties = self._write_properties("format.properties", unfinished)
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        result = subprocess.run(  # noqa: S603 (our own command, no shell)
            [
                *self._java,
                "kafka.tools.StorageTool",
                "format",
                f"--cluster-id={cluster_id}",
                "-c",
                str(properties),
                *self._format_options,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            output = " ".join((result.stdout + result.stderr).split())
            raise LocalStackError(
                f"{self.name} can't create its storage in {unfinished}: {output[-500:]}",
                hint="Check the folder's permissions.",
            )
        unfinished.rename(data)

    def _answers(self) -> bool:
        """Ask for the cluster's metadata. The port opens earlier, before the broker serves requests."""
        with socket.create_connection((HOST, self.port), timeout=_PROBE_TIMEOUT_S) as connection:
            connection.sendall(struct.pack(">i", len(_METADATA_REQUEST)) + _METADATA_REQUEST)
            with connection.makefile("rb") as answer:
                header = answer.read(16)
        if len(header) < 16:
            return False
        # Size, correlation id, throttle time, number of brokers: 0 before this one has registered.
        _, correlation, _, brokers = struct.unpack(">iiii", header)
        return bool(correlation == 1 and brokers >= 1)
