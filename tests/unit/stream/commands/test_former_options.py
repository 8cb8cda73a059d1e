"""Options that were renamed: the former name still works for one version, and --help doesn't show it."""

from __future__ import annotations

from typing import Annotated

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


def test_the_value_of_an_option_is_no_former_name() -> None:
    app = typer.Typer()
    seen: list[tuple[str, str, bool]] = []

    @app.command(cls=accepting({"--alone": "--without-kafka", "--why": "--reason"}))
    def run(
        *,
        reason: Annotated[str, typer.Option("--reason", "-r")] = "",
        pair: tuple[str, str] = ("", ""),
        without_kafka: bool = False,
    ) -> None:
        seen.append((reason, " ".join(pair), without_kafka))

    runner = CliRunner()
    for arguments in (
        ["--reason", "--alone"],
        ["-r", "--alone"],
        ["--why", "--alone"],
        ["--reason=--alone"],
    ):
        result = runner.invoke(app, arguments)
        assert result.exit_code == 0
        assert "--alone is now" not in result.stderr
    assert seen == [("--alone", " ", False)] * 4
    runner.invoke(app, ["--pair", "--alone", "--alone", "--alone"])
    assert seen[-1] == ("", "--alone --alone", True)
