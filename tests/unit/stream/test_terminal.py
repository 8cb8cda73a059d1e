"""No id, name or message steers a terminal or passes for another line: as text, as JSON, in tables and in logs."""

from __future__ import annotations

import json
import logging
import logging.config
import sys

import pytest

from stream import cli
from stream.consoles import console, table
from stream.errors import SegstreamError
from stream.logs import logging_config
from stream.terminal import echo, echo_lines, harmless

STEERING = "a\x1b[2J\x9b1m\x07\r\nb\u202e\u2066\u200b\u2028\ufeff\U000e0041\x7f\x00[red]c"


def test_letters_of_every_script_stay() -> None:
    text = "Zoë Ωμέγα 顧客 عميل 😀 c-1@x.org [a] \\u001b 1\u202f000\u00a0€"
    assert harmless(text) == text


def test_a_line_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    echo(STEERING)
    echo(STEERING, err=True)
    out, err = capsys.readouterr()
    assert out == err
    assert out[:-1].isprintable()
    assert out.startswith("a\\u001b[2J\\u009b1m\\u0007\\u000d\\u000ab\\u202e")
    echo_lines("# one\n\x1btwo\n")
    assert capsys.readouterr().out == "# one\n\\u001btwo\n"


def test_json_is_the_same_value(capsys: pytest.CaptureFixture[str]) -> None:
    echo(json.dumps({"id": STEERING}, ensure_ascii=False))
    shown = capsys.readouterr().out
    assert shown[:-1].isprintable()
    assert json.loads(shown) == {"id": STEERING}


def test_a_table_s_cell_is_neither_markup_nor_steering(capsys: pytest.CaptureFixture[str]) -> None:
    console().print(table(("id", "next"), [(STEERING, "[/]"), ("x", "y")]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert "[red]c" in lines[1]
    assert "[/]" in lines[1]
    console().print(f"[bold]{STEERING}")
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.usefixtures("quiet")
def test_a_command_s_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise SegstreamError(f"no customer {STEERING}.")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err[:-1].isprintable()


@pytest.mark.usefixtures("quiet")
def test_a_log_s_message_is_one_line_and_its_traceback_has_several(capsys: pytest.CaptureFixture[str]) -> None:
    config = logging_config("INFO")
    config["handlers"]["stderr"]["stream"] = sys.stderr
    logging.config.dictConfig(config)
    try:
        int(STEERING)
    except ValueError:
        logging.getLogger("test").exception("customer %s", STEERING)
    lines = capsys.readouterr().err.splitlines()
    assert all(line.isprintable() for line in lines)
    assert "ERROR test: customer a\\u001b" in lines[0]
    assert lines[1] == "Traceback (most recent call last):"
