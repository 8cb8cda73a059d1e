from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stream.errors import SettingsError
from stream.settings import DeploymentSettings, Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_SSL"])
def test_the_trainer_reaches_kafka_as_the_worker_does(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    monkeypatch.setenv("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS", "a:1, b:2")
    monkeypatch.setenv("SEGSTREAM_KAFKA_SECURITY_PROTOCOL", protocol)
    monkeypatch.setenv("SEGSTREAM_KAFKA_SASL_USERNAME", "u")
    monkeypatch.setenv("SEGSTREAM_KAFKA_SASL_PASSWORD", "p")
    trainers, workers = DeploymentSettings.load(), Settings.load()
    ours, theirs = trainers.kafka_client(), workers.kafka_client()
    assert (ours.pop("ssl_context", None) is None) == (theirs.pop("ssl_context", None) is None)
    assert ours == theirs
    assert trainers.rules == workers.rules


def test_settings_of_workers_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "segstream.toml"
    config.write_text('group = "shop"\nturn_max_orders = 10\nwindow_days = 30\n')
    monkeypatch.setenv("SEGSTREAM_CONFIG", str(config))
    monkeypatch.setenv("SEGSTREAM_HTTP_PORT", "no number")
    monkeypatch.setenv("SEGSTREAM_WINDOW_DAYS", "90")
    settings = DeploymentSettings.load(time="event")
    assert (settings.group, settings.window_days, settings.time) == ("shop", 90, "event")


def test_an_unusable_value_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS", "localhost")
    monkeypatch.setenv("SEGSTREAM_PARTITIONS", "0")
    with pytest.raises(SettingsError) as raised:
        DeploymentSettings.load()
    assert "SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS='localhost'" in str(raised.value)
    assert "SEGSTREAM_PARTITIONS='0'" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("group = \n", r"CONFIG='.*segstream\.toml' can't be read: Invalid value"),
        (None, r"segstream\.toml.*No such file"),
        ('grop = "shop"\nturn_max_orders = 10\n', r"unknown setting grop in .*segstream\.toml"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, message: str
) -> None:
    config = tmp_path / "segstream.toml"
    if content is not None:
        config.write_text(content)
    monkeypatch.setenv("SEGSTREAM_CONFIG", str(config))
    with pytest.raises(SettingsError, match=message):
        DeploymentSettings.load()


def test_the_trainer_reads_no_secret_of_the_workers() -> None:
    assert "erasure_salt" in Settings.model_fields.keys() - DeploymentSettings.model_fields.keys()


def test_secrets_do_not_show() -> None:
    settings = DeploymentSettings.load(redis_url="redis://:hidden@127.0.0.1:6379/0")
    assert "hidden" not in repr(settings)
