"""docs/tutorial.md is run, block by block, against a real Kafka and Valkey, and what it shows is what comes out."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.support.paths import ROOT

PAGE: Final = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
BLOCK: Final = re.compile(r'(?ms)^```(sh|text|console|yaml)(?: title="([\w.]+)")?\n(.*?)^```$')
BETWEEN: Final = "@@@ the next block"
SEGMENTS: Final = (
    "About to Sleep|At Risk|Big Spenders|Cannot Lose|Champions|Hibernating|Lost|Loyal|Need Attention|New|"
    "Potential Loyalists|Promising|Steady"
)
# Parts of lines that differ from run to run -> their placeholders. A line with placeholders is its shape.
DIFFERS: Final = [
    (r"\x1b\[[0-9;]*m", ""),
    (r"\b[0-9a-f]{16}\b", "#version"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?", "#time"),
    (r"[\w.-]+:\d+(?=\s*$)", "#owner"),
    (r"data in .*", "data in #folder"),
    (r"\bc-\d+", "#customer"),
    (rf"\b({SEGMENTS})\b", "#segment"),
    (r"-?\d[\d,.]*\d|\d", "0"),
    # The next move by time is a forecast that not everybody has.
    (r"\s+next: .*", ""),
    (r"┃", "│"),
    (r"\s+", " "),
]


class Block(NamedTuple):
    commands: str
    shown: list[str]  # lines of output, in their order


def blocks() -> tuple[list[Block], dict[str, str]]:
    """The commands with what they show, and the files that the reader writes."""
    found: list[Block] = []
    files: dict[str, str] = {}
    for kind, title, body in BLOCK.findall(PAGE):
        if kind == "sh":
            found.append(Block(body, []))
        elif kind == "text":
            found[-1].shown.extend(body.splitlines())
        elif kind == "yaml":
            files[title] = body
    return found, files


def shape(line: str) -> str:
    for pattern, to in DIFFERS:
        line = re.sub(pattern, to, line)
    return line.strip()


def unseen(shown: list[str], printed: str) -> list[str]:
    """Return the lines that aren't in the output, in order. A line that ends in … may go on; others may lie between."""
    there = iter([shape(line) for line in printed.splitlines()])
    missing = []
    for line in shown:
        wanted = shape(line.removesuffix("…"))
        if not any(found == wanted or (line.endswith("…") and found.startswith(wanted)) for found in there):
            missing.append(line)
    return missing


def test_shapes_distinguish_lines() -> None:
    printed = (
        "c-004 as of 2026-11-29T21:01:08.530Z (partition 0)\n  segment Lost since 2026-11-29T21:00:00.669Z, move 1"
    )
    assert unseen(["c-17 as of 2027-01-01T00:00:00.000Z (partition 7)"], printed) == []
    assert unseen(["segment Loyal since 2026-11-29T21:00:00.669Z, move 12"], printed) == []
    assert unseen(["c-17 as of 2027-01-01T00:00:00.000Z…"], printed) == []
    assert unseen(["c-17 as of yesterday (partition 7)"], printed) != []
    assert unseen(
        ["segment Lost since 2026-11-29T21:00:00.669Z, move 1", "c-1 as of 2026-11-29T21:01:08.530Z"], printed
    )


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.timeout(600)
def test_the_tutorial(tmp_path: Path) -> None:
    commands, files = blocks()
    assert len(commands) > 10
    assert list(files) == ["rules.yaml"]
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script = f"\necho '{BETWEEN}'\n".join(block.commands for block in commands)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEGSTREAM_")}
    if cache := os.environ.get("SEGSTREAM_CACHE_DIR"):
        environment["SEGSTREAM_CACHE_DIR"] = cache
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "160"}
    # -m: job control, which %1 and %2 need. A session of its own, so that nothing is left when a command fails.
    process = subprocess.Popen(
        ["bash", "-m", "-c", f"exec 2>&1\n{script}"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=540)
    finally:
        _end(process, tmp_path, environment)
    parts = printed.split(f"{BETWEEN}\n")
    assert len(parts) == len(commands), printed
    for block, part in zip(commands, parts, strict=True):
        assert unseen(block.shown, part) == [], f"{block.commands}\nprinted:\n{part}\n{_logs(tmp_path)}"
    assert process.returncode == 0


def _end(process: subprocess.Popen[str], folder: Path, environment: dict[str, str]) -> None:
    """Stop whatever the tutorial has started and not stopped."""
    for child in _session(process.pid):
        os.kill(child, signal.SIGTERM)
    down = ["segstream", "local", "down", "--data-dir", "tutorial-data"]
    subprocess.run(down, cwd=folder, env=environment, capture_output=True, check=False)


def _session(leader: int) -> list[int]:
    """The processes of a session, by /proc or ps; job control gives each a group of its own."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,sess="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for pid, session in rows if session == str(leader)]


def _logs(folder: Path) -> str:
    return "".join(f"{log.name}:\n{log.read_text('utf-8')[-2_000:]}" for log in sorted(folder.glob("*.log")))
