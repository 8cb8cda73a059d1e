"""`segstream campaigns check|schema`: findings with their lines, exit codes, and what goes to stdout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from segmentation.campaign_rules import parse_rules
from segmentation.rules_former import FORMER as WARNED
from segmentation.rules_schema import rules_json_schema
from stream.cli import app
from tests.support.data.clock_models import clock_model
from tests.support.paths import ROOT
from tests.support.rules import ANY, rules_text

GOOD = rules_text(ANY, "to: [Lost]")
FORMER = "rules:\n# why\n- {name: a, to: '*', action: Call,\n  # inside\n  channel: phone}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rules.yaml"


def check(file: Path, text: str | None, *options: str) -> Result:
    if text is not None:
        file.write_text(text, "utf-8")
    return CliRunner().invoke(app, ["campaigns", "check", str(file), *options])


def test_a_good_table(file: Path) -> None:
    result = check(file, rules_text(ANY))
    assert (result.exit_code, result.stderr) == (0, "")
    digest = parse_rules(rules_text(ANY)).digest
    assert result.stdout == f"{file}: 1 rule, no warnings; actions will carry {digest} as `rules`\n"


def test_warnings_name_their_line_and_change_nothing(file: Path) -> None:
    result = check(file, GOOD)
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: line 4, rule 2 ('b'): never acts: 'a' before it matches all its moves; move it up\n"
    )
    assert "2 rules, 1 warning;" in result.stdout
    thin = check(file, rules_text(f"{ANY} | budget: {{per_day: 1}}, valid: {{until: 2020-01-01}}"))
    assert [line.split(":")[1] for line in thin.stderr.splitlines()] == [
        " line 3, rule 1 ('a'), budget.per_day",
        " line 3, rule 1 ('a'), valid.until",
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            rules_text("to: Lost", f"{ANY} | holdout: 7"),
            [
                "error: line 3, rule 1 ('a'), when.to: 'Lost', expected",
                "error: line 4, rule 2 ('b'), holdout: '7', expec",
            ],
        ),
        ("rules: [", ["error: line 1: not YAML"]),
    ],
)
def test_errors_exit_with_2(file: Path, text: str, lines: list[str]) -> None:
    result = check(file, text)
    assert (result.exit_code, result.stdout) == (2, "")
    *found, last = result.stderr.splitlines()
    assert [line[: len(start)] for line, start in zip(found, lines, strict=True)] == lines
    assert last == f"segstream: {file} can't be used, docs/how-to/write-rules.md has examples."


def test_a_file_that_isn_t_there_exits_with_2(file: Path) -> None:
    result = check(file, None)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "No such file or directory" in result.stderr


def test_segments_that_the_model_doesn_t_have_are_named(file: Path) -> None:
    model = file.parent / "model.json"
    model.write_bytes(clock_model().to_json())
    result = check(file, rules_text("to: [Lost, Lots]"), "--model", str(model))
    assert "warning: rule 'a': the model has no segment Lots; it has " in result.stderr
    assert result.exit_code == 0


def test_a_table_of_version_1_is_printed_in_version_2(file: Path) -> None:
    result = check(file, FORMER, "--convert")
    assert result.exit_code == 0
    assert parse_rules(result.stdout).digest == parse_rules(FORMER).digest
    assert result.stdout.startswith("version: 2\nrules:\n  # why\n  - name: a\n")
    assert result.stderr.splitlines() == [
        f"warning: line 1: {WARNED}",
        "segstream: 1 line of comments within rules is left out.",
    ]
    again = check(file, result.stdout, "--convert")
    assert (again.stdout, again.stderr) == (result.stdout, f"segstream: {file} is of version 2 already.\n")


def test_the_schema_is_printed() -> None:
    result = CliRunner().invoke(app, ["campaigns", "schema"])
    assert json.loads(result.stdout) == rules_json_schema()
    assert result.stdout == (ROOT / "docs" / "reference" / "campaign-rules.schema.json").read_text("utf-8")
