"""`segstream deliver --check`: all findings, a line each, and the exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stream.cli import app
from tests.support.delivery.endpoint import SECRET

GOOD = """endpoints:
- name: crm
  url: https://crm.example/
  secrets: [{env: CRM_SECRET}, {env: CRM_FORMER}]
- name: push
  url: https://push.example/
  secrets: [{env: PUSH_SECRET}]
"""


def check(file: Path, text: str | None) -> Result:
    if text is not None:
        file.write_text(text, "utf-8")
    return CliRunner().invoke(app, ["deliver", "--endpoints", str(file), "--check"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "endpoints.yaml"


@pytest.fixture
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CRM_SECRET", "CRM_FORMER", "PUSH_SECRET"):
        monkeypatch.setenv(name, SECRET)


@pytest.mark.usefixtures("_secrets")
def test_a_file_that_can_be_used(file: Path) -> None:
    result = check(file, GOOD)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "2 endpoints with 3 secrets are usable: crm, push\n"


def test_each_finding_has_a_line_of_its_own(file: Path) -> None:
    result = check(file, GOOD.replace("https://crm", "http://crm").replace("[{env: PUSH_SECRET}]", "[]\n  typs: [x]"))
    assert (result.exit_code, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert [line.partition(", ")[0] for line in lines[:-1]] == ["error: line 3", "error: line 7", "error: line 8"]
    assert lines[2].endswith("did you mean types?")
    assert lines[-1] == f"segstream: {file} can't be used, docs/how-to/deliver.md describes its fields."


def test_each_secret_that_cannot_be_used_is_a_finding(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_SECRET", SECRET)
    monkeypatch.delenv("CRM_FORMER", raising=False)
    monkeypatch.setenv("PUSH_SECRET", "hunter2")
    result = check(file, GOOD)
    assert (result.exit_code, result.stdout) == (2, "")
    former, push, _ = result.stderr.splitlines()
    assert former.startswith("error: endpoint 'crm': the variable CRM_FORMER isn't set.")
    assert push.startswith("error: endpoint 'push': the variable PUSH_SECRET holds no signing secret")
    assert "hunter2" not in result.stderr


def test_a_file_that_cannot_be_read(file: Path) -> None:
    result = check(file, None)
    assert result.exit_code == 2
    assert "can't be read: No such file" in result.stderr
