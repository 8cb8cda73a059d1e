"""The script .ci/browser on machines with and without a browser, root, apt and a network."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SCRIPT = ROOT / ".ci" / "browser"
INSTALLS = 'printf "#!/bin/sh\\n" > "$BIN/chromium"; chmod +x "$BIN/chromium"'


class Machine:
    """A machine whose PATH has only the script's own tools and those that a test adds."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder
        for tool in ("sh", "dirname", "chmod"):
            found = shutil.which(tool)
            assert found
            (folder / tool).symlink_to(found)
        self.put("id", "echo 0")

    def put(self, name: str, script: str = "") -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def run(self) -> tuple[int, str]:
        """Return the exit code and stderr."""
        environment = {"PATH": str(self.bin), "BIN": str(self.bin), "HOME": os.environ.get("HOME", "/")}
        done = subprocess.run([str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if not (SCRIPT.parent.parent / ".venv" / "bin" / "python").exists():
        pytest.skip("no .venv in the checkout: make setup makes it")
    return Machine(tmp_path)


def test_an_existing_browser_is_used(machine: Machine) -> None:
    machine.put("google-chrome")
    machine.put("apt-get", "exit 9")
    assert machine.run() == (0, "")


def test_root_installs_the_browser_of_debian(machine: Machine) -> None:
    machine.put("apt-get", f'case "$*" in *install*chromium) {INSTALLS};; esac')
    assert machine.run() == (0, "")


@pytest.mark.parametrize(
    ("apt", "user", "why"),
    [
        (None, 0, "there is no apt-get here"),
        (INSTALLS, 1000, "apt-get needs root"),
        ("echo 'no network'; exit 100", 0, "apt-get can't install chromium"),
        ("exit 0", 0, "is not on the PATH"),
    ],
)
def test_without_a_browser_it_warns_and_ends_with_1(machine: Machine, apt: str | None, user: int, why: str) -> None:
    machine.put("id", f"echo {user}")
    if apt is not None:
        machine.put("apt-get", apt)
    code, errors = machine.run()
    assert code == 1
    assert "WARNING: no Chromium or Chrome" in errors.splitlines()[-1]
    assert why in errors.splitlines()[-1]
    assert not (machine.bin / "chromium").exists()
