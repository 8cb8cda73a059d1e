"""The files for deployment and CI, as far as they can be checked without a Docker engine or a network."""

from __future__ import annotations

import base64
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from stream.local.jars import KAFKA_VERSION
from stream.local.valkey_server import _binary
from stream.settings import load_settings
from stream.settings_sources import PREFIX
from tests.support.paths import ROOT

BIN = Path(sys.executable).parent


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return content


OF_THE_DEPLOYMENT = {
    "KAFKA_CLUSTER_ID": "Z7IzLfX4S72QLUs7yA_Geg",
    "VALKEY_PASSWORD": "of-the-test",
    "SEGSTREAM_ERASURE_SALT": "salt",
}


def filled_in(text: str) -> str:
    """Return text as Compose does where nothing but `.env` sets variables. KeyError: `.env` lacks a needed one."""
    text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)
    return re.sub(r"\$\{(\w+):?\?.*?\}", lambda found: OF_THE_DEPLOYMENT[found[1]], text)


def environment_of(service: dict[str, Any]) -> dict[str, str]:
    return {k: filled_in(str(v)) for k, v in service.get("environment", {}).items()}


def our_services() -> dict[str, dict[str, Any]]:
    return {name: s for name, s in compose()["services"].items() if s["image"].startswith("segstream:")}


@pytest.mark.parametrize(
    ("schema", "file"),
    [("compose-spec", "docker-compose.yml"), ("github-workflows", ".github/workflows/ci.yml")],
)
def test_follows_its_schema(schema: str, file: str) -> None:
    done = run(BIN / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_accepts_the_dockerfile() -> None:
    done = run(BIN / "hadolint", "--no-color", "Dockerfile")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_pre_commit_hooks_are_well_formed() -> None:
    done = run(BIN / "pre-commit", "validate-config")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", sorted(our_services()))
def test_a_service_starts_with_settings_that_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = environment_of(our_services()[name])
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    settings = load_settings()  # raises for an unknown name, and for a value that can't be used
    assert settings.kafka_bootstrap_servers == "kafka:9092"
    assert settings.redis_url.get_secret_value() == "redis://:of-the-test@valkey:6379/0"
    assert settings.erasure_salt.get_secret_value() == "salt"


def test_all_services_have_the_settings_of_one_deployment() -> None:
    plain = {}
    for name, service in our_services().items():
        settings = environment_of(service)
        own = (f"{PREFIX}HTTP", f"{PREFIX}SCHEDULE")
        plain[name] = {k: v for k, v in settings.items() if k.startswith(PREFIX) and not k.startswith(own)}
    assert len(plain) == 5
    assert all(settings == plain["worker"] for settings in plain.values())


@pytest.mark.parametrize("name", sorted(our_services()))
def test_a_service_runs_a_command_that_exists(name: str) -> None:
    words = our_services()[name]["command"]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts[words[0]].split(":")
    program = f"import sys; from {module} import {function}; sys.exit({function}())"
    done = run(sys.executable, "-c", program, *words[1:], "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_health_checks_use_the_port_of_their_service() -> None:
    for name, variable in (("worker", "HTTP"), ("dispatcher", "HTTP"), ("trainer", "SCHEDULE_HTTP")):
        service = our_services()[name]
        port = environment_of(service)[f"{PREFIX}{variable}_PORT"]
        assert f":{port}/health" in service["healthcheck"]["test"][-1]


def test_every_long_running_service_has_a_health_check_and_restarts() -> None:
    for name, service in compose()["services"].items():
        if name != "topics":
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"], name


def test_kafka_is_the_version_that_the_tests_run_on() -> None:
    assert compose()["services"]["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def new_env(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a copy of deploy/new-env in a folder."""
    (folder / "deploy").mkdir(exist_ok=True)
    shutil.copy(ROOT / "deploy" / "new-env", folder / "deploy")
    return run(folder / "deploy" / "new-env")


def variables_in(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


def test_each_deployment_gets_secrets_of_its_own(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert new_env(tmp_path / name).returncode == 0
        assert stat.S_IMODE((tmp_path / name / ".env").stat().st_mode) == 0o600
        found.append(variables_in(tmp_path / name / ".env"))
    for variables in found:
        assert variables.keys() == OF_THE_DEPLOYMENT.keys()
        assert len(base64.urlsafe_b64decode(variables["KAFKA_CLUSTER_ID"] + "==")) == 16
        assert all(re.fullmatch(r"[\w-]{22,}", value) for value in variables.values())
    assert all(found[0][name] != found[1][name] for name in OF_THE_DEPLOYMENT)
    again = new_env(tmp_path / "one")
    assert again.returncode != 0, "an erased customer is found by the salt that was there"
    assert variables_in(tmp_path / "one" / ".env") == found[0]
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_nothing_secret_is_a_constant_and_nothing_needed_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in OF_THE_DEPLOYMENT:
        used = re.findall(rf"\$\{{{name}(:?[?-]).*?\}}", text)
        assert used, name
        assert all("?" in sign for sign in used), name


def test_every_image_is_of_one_exact_version() -> None:
    images = [service["image"] for service in compose()["services"].values()]
    images += re.findall(r"(?m)^FROM (\S+)", (ROOT / "Dockerfile").read_text())
    assert len(images) >= 9
    assert not [image for image in images if not re.search(r":\d+\.\d+\.\d+(-[\w.-]+)?$", image)]


def bytes_of(size: str) -> int:
    return int(size[:-1]) * {"m": 2**20, "g": 2**30}[size[-1]]


def test_every_service_has_a_limit_of_memory_that_its_own_fits_in() -> None:
    limits = {name: bytes_of(service["mem_limit"]) for name, service in compose()["services"].items()}
    heap = re.search(r"-Xmx(\d+m)", compose()["services"]["kafka"]["environment"]["KAFKA_HEAP_OPTS"])
    assert heap
    assert 2 * bytes_of(heap[1]) <= limits["kafka"]
    most = re.search(r"maxmemory (\d+[mg])b", compose()["configs"]["valkey"]["content"])
    assert most
    assert 2 * bytes_of(most[1]) <= limits["valkey"], "a rewrite of the append-only file copies changed pages"


def test_valkey_takes_its_configuration_and_asks_for_the_password(tmp_path: Path) -> None:
    config = tmp_path / "valkey.conf"
    config.write_text(filled_in(compose()["configs"]["valkey"]["content"]).replace("dir /data", f"dir {tmp_path}"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [_binary(), config, "--port", str(port), "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL
    )
    try:
        with redis.Redis(port=port, password="of-the-test", protocol=2) as client:
            deadline = time.monotonic() + 30
            while not answers(client):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            found: Any = client.config_get("maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "save")
        assert found == {
            "maxmemory": "1073741824", "maxmemory-policy": "noeviction", "appendonly": "yes",
            "appendfsync": "everysec", "save": "",
        }  # fmt: skip
        with redis.Redis(port=port, protocol=2) as anybody, pytest.raises(redis.AuthenticationError):
            anybody.ping()
    finally:
        server.kill()
        server.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def pins(lock: str) -> dict[str, set[str]]:
    """Return name -> versions: several where markers choose between them."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"(?m)^([a-z0-9._-]+)==(\S+)", (ROOT / lock).read_text()):
        found.setdefault(name, set()).add(version)
    return found


def names(requirements: list[str]) -> set[str]:
    found = {re.split(r"[<>=!;\[ ]", line)[0].lower() for line in requirements}
    return found - {"segstream"}


def test_the_locks_contain_the_project_s_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    run_time, everything = pins("requirements-run.lock"), pins("requirements.lock")
    assert names(project["dependencies"]) <= set(run_time)
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    assert names(project["dependencies"] + extras) <= set(everything)
    assert names(project["optional-dependencies"]["dev"]).isdisjoint(run_time)
    assert run_time == {name: everything.get(name) for name in run_time}


def test_the_image_installs_with_the_installer_of_the_makefile() -> None:
    versions = [
        re.search(pattern, (ROOT / file).read_text())
        for file, pattern in ((".ci/setup", r"(?m)^uv=(\S+)$"), ("Dockerfile", r"uv==(\S+)"))
    ]
    assert len({found[1] for found in versions if found}) == 1
    assert all(versions)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_without_arguments_lists_every_target() -> None:
    phony = re.search(r"(?m)^\.PHONY: (.*)$", (ROOT / "Makefile").read_text())
    assert phony
    listed = re.findall(r"(?m)^  make ([\w-]+) +\S.*$", run("make").stdout)
    assert sorted(listed) == sorted(phony[1].split())


def setup_with(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of .ci/setup on a PATH where every Python is this shell script."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "setup", folder / ".ci")
    tools = folder / "bin"
    tools.mkdir()
    for name in ("python3.13", "python3.12", "python3.11", "python3", "python"):
        (tools / name).write_text(f"#!/bin/sh\n{python}\n")
        (tools / name).chmod(0o755)
    path = f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin"
    return subprocess.run(
        [folder / ".ci" / "setup"], env={"PATH": path}, capture_output=True, text=True, timeout=30, check=False
    )


def test_setup_names_the_needed_version_where_python_is_too_old(tmp_path: Path) -> None:
    done = setup_with(tmp_path, 'test "$1" = --version && echo Python 3.9.2 && exit 0; exit 1')
    assert done.returncode != 0
    assert "found Python 3.9.2, expected Python 3.11 or later" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_setup_names_the_package_where_venv_is_missing(tmp_path: Path) -> None:
    python = f'case "$2" in *ensurepip*) exit 1;; esac; exec {shlex.quote(sys.executable)} "$@"'
    done = setup_with(tmp_path, python)
    assert done.returncode != 0
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"apt-get install python{version}-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()
