"""Options that were renamed: the former name still works for one version, and --help doesn't show it."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

import stream.cli
import trainer.cli
from stream.renamed_options import accepting

FORMER = [
    (stream.cli.app, ["demo"], "--keep", "--keep-running"),
    (stream.cli.app, ["rebuild"], "--from-what-is-left", "--allow-truncated-logs"),
    (trainer.cli.app, ["run"], "--alone", "--without-kafka"),
    (trainer.cli.app, ["schedule"], "--when-none", "--when-no-model"),
]


@pytest.mark.parametrize(("app", "command", "former", "present"), FORMER)
def test_a_former_name_is_accepted_and_hidden(app: typer.Typer, command: list[str], former: str, present: str) -> None:
    runner = CliRunner()
    shown = runner.invoke(app, [*command, "--help"], env={"COLUMNS": "200"}).output
    assert present in shown
    assert former not in shown.replace(present, "")
    # With --help behind it nothing runs.
    result = runner.invoke(app, [*command, former, "--help"])
    assert result.exit_code == 0
    assert f"{former} is now {present}" in result.stderr


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
