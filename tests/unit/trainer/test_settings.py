from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

import stream.settings
import trainer.settings
from trainer.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path


def test_shared_settings_are_the_workers_own() -> None:
    ours, theirs = trainer.settings.Settings.model_fields, stream.settings.Settings.model_fields
    assert set(ours) <= set(theirs)
    for name, field in ours.items():
        other = theirs[name]
        # Constraints compare by their text: pydantic's own ones have no equality.
        assert (field.annotation, repr(field)) == (other.annotation, repr(other)), name


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_SSL"])
def test_kafka_is_spoken_to_as_the_worker_does(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    monkeypatch.setenv("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS", "a:1, b:2")
    monkeypatch.setenv("SEGSTREAM_KAFKA_SECURITY_PROTOCOL", protocol)
    monkeypatch.setenv("SEGSTREAM_KAFKA_SASL_USERNAME", "u")
    monkeypatch.setenv("SEGSTREAM_KAFKA_SASL_PASSWORD", "p")
    ours, theirs = trainer.settings.load_settings(), stream.settings.load_settings()
    mine, other = ours.kafka_client(), theirs.kafka_client()
    assert (mine.pop("ssl_context", None) is None) == (other.pop("ssl_context", None) is None)
    assert mine == other
    assert ours.rules == theirs.rules


def test_settings_of_others_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "segstream.toml"
    config.write_text('group = "shop"\nturn_max_orders = 10\nwindow_days = 30\n')
    monkeypatch.setenv("SEGSTREAM_CONFIG", str(config))
    monkeypatch.setenv("SEGSTREAM_HTTP_PORT", "8080")
    monkeypatch.setenv("SEGSTREAM_WINDOW_DAYS", "90")
    settings = trainer.settings.load_settings(time="event")
    assert (settings.group, settings.window_days, settings.time) == ("shop", 90, "event")


def test_an_unusable_value_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS", "localhost")
    monkeypatch.setenv("SEGSTREAM_PARTITIONS", "0")
    with pytest.raises(SettingsError) as told:
        trainer.settings.load_settings()
    assert "SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS='localhost'" in str(told.value)
    assert "SEGSTREAM_PARTITIONS='0'" in str(told.value)


def test_a_file_that_is_no_toml_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "broken.toml"
    config.write_text("group = \n")
    monkeypatch.setenv("SEGSTREAM_CONFIG", str(config))
    with pytest.raises(SettingsError, match=r"broken\.toml"):
        trainer.settings.load_settings()


def test_a_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEGSTREAM_CONFIG", str(tmp_path / "absent.toml"))
    with pytest.raises(SettingsError, match=r"absent\.toml.*No such file"):
        trainer.settings.load_settings()


def test_a_misspelt_key_of_the_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "segstream.toml"
    config.write_text('grop = "shop"\nturn_max_orders = 10\n')
    monkeypatch.setenv("SEGSTREAM_CONFIG", str(config))
    with pytest.raises(SettingsError, match=r"unknown setting grop in .*segstream\.toml"):
        trainer.settings.load_settings()


def test_the_workers_own_settings_are_all_known() -> None:
    ours, theirs = set(trainer.settings.Settings.model_fields), set(stream.settings.Settings.model_fields)
    assert theirs - ours == trainer.settings.WORKERS_OWN


def test_secrets_do_not_show() -> None:
    settings = trainer.settings.Settings(redis_url=SecretStr("redis://:hidden@127.0.0.1:6379/0"))
    assert "hidden" not in repr(settings)
