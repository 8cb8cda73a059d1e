"""The trainer's own settings: variables with a prefix of their own, or a table of the file with all other settings."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Self

from stream.errors import SettingsError
from stream.settings_sources import CONFIG, SourcedSettings, read_config_file


class TableSettings(SourcedSettings):
    """Base of settings that have a table of the file. `model_config` gives the prefix of the variables."""

    TABLE: ClassVar[str]

    @classmethod
    def file_values(cls) -> dict[str, Any]:
        """Return the table, {} where there is none. Raises SettingsError where it can't be read, or is no table."""
        table = read_config_file().get(cls.TABLE, {})
        if not isinstance(table, dict):
            raise SettingsError(
                f"{cls.TABLE} in {os.environ[CONFIG]} is a {type(table).__name__}, expected a table.",
                hint=f"Write [{cls.TABLE}].",
            )
        return table

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings once, with those of the arguments that aren't None. Raises SettingsError."""
        return super().load(**{name: value for name, value in overrides.items() if value is not None})
