"""The files for deployment and CI, as far as they can be checked without a Docker engine or a network."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream.local.jars import KAFKA_VERSION
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


def environment_of(service: dict[str, Any]) -> dict[str, str]:
    """Return a service's environment where the caller sets no variables: ${NAME:-default} is its default."""
    return {k: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(v)) for k, v in service.get("environment", {}).items()}


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
    assert settings.redis_url.get_secret_value() == "redis://valkey:6379/0"


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
