"""What the commands refuse before they ask any server, and how they end when nobody reads them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from stream.cli import app
from stream.engine.shard_report import input_topic
from stream.kafka.streams import streams_of
from stream.settings import Settings


@pytest.mark.parametrize("command", ["status", "retry", "rebuild"])
def test_a_step_that_there_is_not_is_wrong_usage(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--step", "scorin"])
    assert result.exit_code == 2
    assert "--step" in result.output
    assert "'scorin' is not one of" in result.output


def test_topics_are_those_of_a_step_that_there_is() -> None:
    settings = Settings()
    assert streams_of(settings, "scoring").output == streams_of(settings, "campaigns").input == settings.changes_topic
    for step in ("scoring", "campaigns"):
        assert input_topic(settings, step) == streams_of(settings, step).input
    with pytest.raises(ValueError, match="'scorin' isn't a step: expected scoring or campaigns"):
        streams_of(settings, "scorin")
    with pytest.raises(ValueError, match="scorin"):
        input_topic(settings, "scorin")


@pytest.mark.parametrize("days", ["nan", "inf", "-1", "-inf", "soon"])
def test_days_that_are_no_number_are_wrong_usage(days: str) -> None:
    result = CliRunner().invoke(app, ["score", "--recency-days", days, "--frequency", "1", "--monetary", "1"])
    assert result.exit_code == 2
    assert "isn't a number of days" in result.output


@pytest.mark.parametrize("teller", ["Rich", "Typer"])
def test_a_reader_that_has_gone_ends_a_command_without_a_word(teller: str) -> None:
    added = "import typer, stream.cli as cli; cli.app.command('echo')(lambda: typer.echo('a line')); cli.main()"
    program = [sys.executable, "-c", added, {"Rich": "settings", "Typer": "echo"}[teller]]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout
        assert running.stderr
        running.stdout.close()
        told = running.stderr.read()
    assert (running.returncode, told) == (141, b"")
