"""Both command lines start without the modules that only some commands need: --help and errors come at once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "aiohttp",
    "aiokafka",
    "faust",
    "mode",
    "numpy",
    "prometheus_client",
    "pyarrow",
    "pydantic_settings",
    "redis",
    "rich",
    "scipy",
    "sklearn",
    "yaml",
}


def _loaded(program: str, *arguments: str) -> set[str]:
    """Return the top-level modules that a program has imported when it ends."""
    report = (
        "import atexit, json, sys; atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr));"
    )
    command = [sys.executable, "-c", f"{report} {program}", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(ended.stderr.splitlines()[-1])}


@pytest.mark.parametrize("package", ["stream", "trainer"])
def test_importing_a_command_line_loads_nothing_heavy(package: str) -> None:
    loaded = _loaded(f"import {package}.cli")
    assert package in loaded
    assert loaded & (HEAVY | {"pydantic"}) == set()


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("stream", ["--help"]), ("stream", ["replay", "--help"]), ("trainer", ["--help"]), ("trainer", ["run", "--help"])],
)
def test_help_loads_nothing_heavy(package: str, arguments: list[str]) -> None:
    loaded = _loaded(f"from {package}.cli import main; main()", *arguments)
    assert "typer" in loaded  # which loads pydantic for the values of some options
    assert loaded & HEAVY == set()
