"""The commands as a user runs them, in this process or as a separate one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from pydantic import SecretStr
from typer.testing import CliRunner

from stream import cli
from stream.settings import Settings
from stream.settings_sources import PREFIX
from tests.support.paths import ROOT


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables of these settings, as far as they differ from the defaults."""
    chosen = {name: getattr(settings, name) for name in settings.model_fields_set}
    return {
        f"{PREFIX}{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in chosen.items()
        if value is not None
    }


def run(settings: Settings, *arguments: str, code: int = 0) -> Any:
    """Run a command to its end. A command that handles signals must run in the main thread."""
    result = CliRunner().invoke(cli.app, arguments, env=environment(settings), catch_exceptions=code != 0)
    assert result.exit_code == code, result.output
    return result


def start(settings: Settings, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a command as a process, its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "stream.cli", *arguments],
        cwd=ROOT,
        env=os.environ | environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
