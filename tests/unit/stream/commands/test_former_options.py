"""Options that were renamed: the former name still works for one version, and --help doesn't show it."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

import stream.cli
from stream.renamed_options import accepting

FORMER = [
    (["demo"], "--keep", "--keep-running"),
    (["rebuild"], "--from-what-is-left", "--allow-truncated-logs"),
]


@pytest.mark.parametrize(("command", "former", "present"), FORMER)
def test_a_former_name_is_accepted_and_hidden(command: list[str], former: str, present: str) -> None:
    runner = CliRunner()
    shown = runner.invoke(stream.cli.app, [*command, "--help"], env={"COLUMNS": "200"}).output
    assert present in shown
    assert former not in shown.replace(present, "")
    # Its help is an option's after it, so that nothing runs.
    told = runner.invoke(stream.cli.app, [*command, former, "--help"])
    assert told.exit_code == 0
    assert f"{former} is now {present}" in told.stderr


def test_a_former_name_means_the_present_option() -> None:
    app = typer.Typer()
    seen: list[tuple[str, bool]] = []

    @app.command(cls=accepting({"--colour": "--color", "--loud": "--verbose"}))
    def paint(*, color: str = "", verbose: bool = False) -> None:
        seen.append((color, verbose))

    runner = CliRunner()
    for arguments in (["--colour", "red", "--loud"], ["--colour=red", "--loud"], ["--color", "red", "--verbose"]):
        assert runner.invoke(app, arguments).exit_code == 0
    assert seen == [("red", True)] * 3
    assert runner.invoke(app, ["--colours", "red"]).exit_code == 2
