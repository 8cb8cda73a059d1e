"""Commands refuse wrong options before they ask any server, and end quietly when stdout is closed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stream.cli import app
from stream.commands import workers
from stream.kafka.streams import streams_of
from stream.settings import Settings
from stream.status.report import input_topic


@pytest.mark.parametrize("command", ["status", "retry", "rebuild"])
def test_an_unknown_step_is_wrong_usage(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--step", "scorin"])
    assert result.exit_code == 2
    assert "--step" in result.output
    assert "'scorin' is not one of" in result.output


def test_an_unknown_step_has_no_topics() -> None:
    settings = Settings()
    assert streams_of(settings, "scoring").output == streams_of(settings, "campaigns").input == settings.changes_topic
    for step in ("scoring", "campaigns"):
        assert input_topic(settings, step) == streams_of(settings, step).input
    with pytest.raises(ValueError, match="'scorin' isn't a step: expected scoring or campaigns"):
        streams_of(settings, "scorin")
    with pytest.raises(ValueError, match="scorin"):
        input_topic(settings, "scorin")


@pytest.mark.parametrize("days", ["nan", "inf", "-1", "-inf", "soon"])
def test_days_that_are_not_a_number_are_wrong_usage(days: str) -> None:
    result = CliRunner().invoke(app, ["score", "--recency-days", days, "--frequency", "1", "--monetary", "1"])
    assert result.exit_code == 2
    assert "isn't a number of days" in result.output


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--until", "soon", "isn't a day"),
        ("--since", "2026-13-01", "isn't a day"),
        ("--currency", "dollars", "a currency"),
    ],
)
def test_days_and_codes_of_rates_that_are_none_are_wrong_usage(option: str, value: str, says: str) -> None:
    result = CliRunner().invoke(app, ["rates", "load", "rates.csv", option, value])
    assert result.exit_code == 2
    assert says in result.output


def test_a_rule_that_never_acts_is_named_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, started = tmp_path / "rules.yaml", list[object]()
    monkeypatch.setattr(workers, "_run", lambda *arguments: started.append(arguments))
    rules = "rules:\n- {name: all, to: '*', action: a, channel: c}\n- {name: lost, to: [Lost], action: a, channel: c}\n"
    file.write_text(rules)
    result = CliRunner().invoke(app, ["dispatch", "--rules", str(file)])
    assert (result.exit_code, len(started)) == (0, 1)
    assert (
        "segstream: line 3, rule 2 ('lost'): never acts: 'all' before it matches all its moves; move it up."
        in result.stderr
    )


@pytest.mark.parametrize("printer", ["Rich", "Typer"])
def test_a_command_ends_quietly_when_its_stdout_is_closed(printer: str) -> None:
    added = "import typer, stream.cli as cli; cli.app.command('echo')(lambda: typer.echo('a line')); cli.main()"
    program = [sys.executable, "-c", added, {"Rich": "settings", "Typer": "echo"}[printer]]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout
        assert running.stderr
        running.stdout.close()
        errors = running.stderr.read()
    assert (running.returncode, errors) == (141, b"")
