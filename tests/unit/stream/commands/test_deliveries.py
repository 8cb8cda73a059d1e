"""`segstream deliveries`: what it shows of an endpoint, and names that nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stream.cli import app
from stream.commands.deliveries import status_line
from stream.delivery.control import EndpointStatus
from stream.delivery.positions import DeliveryPosition, EndpointState, encode_kept, position_key, state_key
from stream.delivery.recent import RecentOutcomes
from stream.delivery.window import LogPartition

FILE = "endpoints:\n- {name: crm, url: 'https://crm.example/', secrets: [{env: CRM_SECRET}]}\n"
ENABLED = encode_kept(EndpointState())
Written = dict[bytes, bytes]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """Return what the commands write, in place of Kafka, where `push` has a position and `sms` a state."""
    found: Written = {}
    place = LogPartition("campaign-actions", 0)
    kept = {position_key("push", place): encode_kept(DeliveryPosition(7, 0)), state_key("sms"): ENABLED}

    async def read(_settings: object) -> dict[bytes, bytes]:
        return kept

    async def write(_settings: object, kept: Written) -> None:
        found.update(kept)

    monkeypatch.setattr("stream.delivery.control.read_journal", read)
    monkeypatch.setattr("stream.delivery.control._write", write)
    return found


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "endpoints.yaml"
    path.write_text(FILE, "utf-8")
    monkeypatch.setenv("SEGSTREAM_ENDPOINTS_FILE", str(path))
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["deliveries", *arguments])


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("command", [("disable",), ("enable",), ("enable", "--skip"), ("redrive", "--endpoint")])
def test_a_name_that_nobody_knows_is_refused(command: tuple[str, ...], written: Written) -> None:
    result = run(*command, "crn")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert str(result.exception) == "no endpoint has the name 'crn': did you mean crm? Known are crm, push, sms."
    assert written == {}


def test_without_a_file_the_known_names_are_those_delivered_to(
    monkeypatch: pytest.MonkeyPatch, written: Written
) -> None:
    monkeypatch.delenv("SEGSTREAM_ENDPOINTS_FILE", raising=False)
    assert str(run("disable", "crm").exception) == (
        "no endpoint has the name 'crm'. Known are push, sms. "
        "SEGSTREAM_ENDPOINTS_FILE isn't set; it names the file of `segstream deliver`."
    )
    assert written == {}


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("name", ["crm", "push", "sms"])
def test_a_name_of_the_file_or_of_the_positions_is_disabled(name: str, written: Written) -> None:
    result = run("disable", name)
    assert (result.exit_code, result.stdout) == (
        0,
        f"{name} is disabled; `segstream deliveries enable {name}` enables it\n",
    )
    assert list(written) == [state_key(name)]


def test_an_endpoint_with_a_position_is_disabled_whatever_the_file_is_like(file: Path, written: Written) -> None:
    file.write_text("endpoints: [", "utf-8")
    assert run("disable", "push").exit_code == 0
    assert list(written) == [state_key("push")]
    assert "not YAML" in str(run("disable", "crm").exception)


@pytest.mark.parametrize(
    ("recent", "shown"),
    [
        (RecentOutcomes("17:00"), ""),
        (RecentOutcomes("17:00", 0, None, "16:59", "500 Oops"), "; the last failure at 16:59: 500 Oops"),
        (
            RecentOutcomes("17:00", 1, "17:04", "17:04", "timed out"),
            "; nothing delivered since 17:00: 1 failure at 17:04: timed out",
        ),
        (
            RecentOutcomes(None, 1_200, "17:04", "17:09", "timed out"),
            (
                "; nothing delivered since at least 17:04: 1,200 failures, the last one at 17:09: timed out; "
                "a breaker opens after 10"
            ),
        ),
    ],
)
def test_a_status_says_what_has_failed_since_the_last_delivery(recent: RecentOutcomes, shown: str) -> None:
    status = EndpointStatus("crm", None, "", 0, 3, 1, "1970-01-01T00:00:09.000Z", 1, recent)
    assert status_line(status, 60_000, 10) == (
        f"crm: 1 process, 0 records behind, 3 wait, 1 of them tried again, due now{shown}"
    )
