from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from pydantic import field_validator
from pydantic_settings import SettingsConfigDict
from typer.testing import CliRunner

from segmentation.agreed import Agreed, Way, differences
from stream import cli
from stream.errors import SettingsError
from stream.settings import Settings, load_settings
from stream.settings_sources import SourcedSettings
from trainer.schedule.settings import ScheduleSettings
from trainer.training.settings import TrainingSettings

if TYPE_CHECKING:
    from pathlib import Path


def test_the_file_counts_and_the_environment_over_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "segstream.toml"
    config.write_text('group = "shop"\nwindow_days = 30\n')
    monkeypatch.setenv("SEGSTREAM_CONFIG", str(config))
    monkeypatch.setenv("SEGSTREAM_WINDOW_DAYS", "90")
    settings = load_settings(time="event")
    assert (settings.group, settings.window_days, settings.time) == ("shop", 90, "event")


def test_other_currencies_are_compared_whatever_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGSTREAM_OTHER_CURRENCIES", "USD,GBP,USD")
    monkeypatch.setenv("SEGSTREAM_CURRENCY", "EUR")
    settings = load_settings()
    assert settings.agreed.other_currencies == "GBP,USD"
    assert settings.all_currencies == {"EUR", "GBP", "USD"}
    assert load_settings(other_currencies="").all_currencies == {"EUR"}


def test_a_head_of_before_several_currencies_agrees_with_one_currency() -> None:
    agreed = load_settings().agreed
    before = {key: value for key, value in msgspec.to_builtins(agreed).items() if key != "other_currencies"}
    assert differences(msgspec.convert(before, Agreed), agreed) == []
    [found] = differences(msgspec.convert(before, Agreed), load_settings(other_currencies="EUR").agreed)
    assert (found.name, found.way) == ("other_currencies", Way.ADOPT)


@pytest.mark.parametrize("codes", ["usd", "USD;EUR", "USD,", "EURO", "USD,EUR"])
def test_other_currencies_that_are_none(codes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGSTREAM_OTHER_CURRENCIES", codes)
    with pytest.raises(SettingsError, match="SEGSTREAM_OTHER_CURRENCIES"):
        load_settings()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "CONFIG='.*shop.toml' can't be read: No such file"),
        (b"group = \n", "CONFIG='.*shop.toml' can't be read: Invalid value"),
        (b'group = "\xff"\n', "CONFIG='.*shop.toml' can't be read: 'utf-8'"),
        (b'grop = "shop"\n', "unknown setting grop in .*shop.toml"),
        (b"partitions = 0\n", "SEGSTREAM_PARTITIONS=0"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, message: str
) -> None:
    config = tmp_path / "shop.toml"
    if content is not None:
        config.write_bytes(content)
    monkeypatch.setenv("SEGSTREAM_CONFIG", str(config))
    with pytest.raises(SettingsError, match=message):
        load_settings()


def test_a_variable_that_is_no_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGSTREAM_GROP", "shop")
    with pytest.raises(SettingsError, match="unknown setting SEGSTREAM_GROP"):
        load_settings()


def test_the_case_of_a_variables_name_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGSTREAM_group", "shop")
    monkeypatch.setenv("SEGSTREAM_cache_dir", "elsewhere")
    assert load_settings().group == "shop"


SECRET = "hunter2-of-the-test"


def secretive(name: str) -> bool:
    return not {"password", "secret", "salt", "token", "key", "url"}.isdisjoint(name.split("_"))


@pytest.mark.parametrize("settings", [Settings, TrainingSettings, ScheduleSettings])
def test_a_setting_with_a_secrets_name_has_a_secrets_type(settings: type[SourcedSettings]) -> None:
    plain = [
        name
        for name, field in settings.model_fields.items()
        if secretive(name) and "SecretStr" not in str(field.annotation) and "Path" not in str(field.annotation)
    ]
    assert not plain


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if secretive(name)])
def test_no_secret_is_in_an_error(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "shop.toml"
    config.write_text(f'{name} = ["{SECRET}"]\n[trainer]\n{name} = ["{SECRET}"]\n')
    monkeypatch.setenv("SEGSTREAM_CONFIG", str(config))
    for load in (load_settings, TrainingSettings.load):
        with pytest.raises(SettingsError, match=name.upper()) as raised:
            load()
        assert SECRET not in str(raised.value)
        assert raised.value.__cause__ is None


def test_credentials_in_any_value_are_not_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS", f"sasl://me:{SECRET}@/x@kafka:9092,broken")
    with pytest.raises(SettingsError, match=r"sasl://\*\*\*@kafka:9092") as raised:
        load_settings()
    assert SECRET not in str(raised.value)


def test_a_validator_of_a_secret_may_quote_it() -> None:
    class WithValidator(SourcedSettings):
        model_config = SettingsConfigDict(env_prefix="OF_THE_TEST_")
        ABOUT = "settings"
        LISTED_BY = "nothing"
        some_token: str

        @classmethod
        def file_values(cls) -> dict[str, object]:
            return {}

        @field_validator("some_token")
        @classmethod
        def _refuse(cls, value: str) -> str:
            raise ValueError(f"{value!r} is short")

    with pytest.raises(SettingsError, match=r"OF_THE_TEST_SOME_TOKEN=\*\*\*: this value can't be used") as raised:
        WithValidator.load(some_token=SECRET)
    assert SECRET not in str(raised.value)


def test_the_list_of_settings_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("redis_url", "kafka_sasl_password", "erasure_salt", "kafka_ssl_key_password"):
        monkeypatch.setenv(f"SEGSTREAM_{name.upper()}", f"redis://me:{SECRET}@127.0.0.1")
    monkeypatch.setenv("SEGSTREAM_KAFKA_SSL_CERTFILE", "cert.pem")
    monkeypatch.setenv("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS", f"ssl://{SECRET}@kafka:9092")
    shown = CliRunner().invoke(cli.app, ["settings"]).output
    assert "ssl://***@kafka:9092" in shown
    assert SECRET not in shown
