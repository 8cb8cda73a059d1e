from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stream.errors import SettingsError
from stream.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path


def test_the_file_counts_and_the_environment_over_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "segstream.toml"
    config.write_text('group = "shop"\nwindow_days = 30\n')
    monkeypatch.setenv("SEGSTREAM_CONFIG", str(config))
    monkeypatch.setenv("SEGSTREAM_WINDOW_DAYS", "90")
    settings = load_settings(time="event")
    assert (settings.group, settings.window_days, settings.time) == ("shop", 90, "event")


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
