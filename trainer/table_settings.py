"""Settings of the trainer's own: variables with a prefix, or a table of the file with all other settings."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from trainer.errors import SettingsError
from trainer.settings import PREFIX as DEPLOYMENT_PREFIX


class TableSettings(BaseSettings):
    """Arguments over environment over a table of the TOML file that `SEGSTREAM_CONFIG` names. `model_config` gives the prefix."""

    TABLE: ClassVar[str]
    ABOUT: ClassVar[str]  # what they are the settings of
    PAGE: ClassVar[str]  # where they are listed

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """As the class says."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=_toml_table(cls.TABLE))

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings once; of the arguments those that aren't None. Raises SettingsError, naming each unusable value."""
        prefix = cls.model_config["env_prefix"]
        given = {name: value for name, value in overrides.items() if value is not None}
        known = {prefix + name.upper() for name in cls.model_fields}
        if unknown := sorted(name for name in os.environ if name.startswith(prefix) and name not in known):
            raise SettingsError(f"unknown setting {', '.join(unknown)}.", hint=f"{cls.PAGE} lists those there are.")
        try:
            return cls(**given)
        except ValidationError as error:
            told = "; ".join(
                f"{prefix}{'_'.join(str(part) for part in e['loc']).upper()}={e.get('input')!r}: {e['msg']}"
                for e in error.errors()
            )
            raise SettingsError(
                f"unusable settings of the {cls.ABOUT}: {told}.", hint=f"{cls.PAGE} lists defaults and units."
            ) from None


def _toml_table(name: str) -> dict[str, Any]:
    """Read a table of the file, {} where there is none. Raises SettingsError where the file or it can't be read."""
    path = os.environ.get(f"{DEPLOYMENT_PREFIX}CONFIG")
    if not path:
        return {}
    try:
        table = tomllib.loads(Path(path).read_text("utf-8")).get(name, {})
    except (OSError, ValueError) as error:  # ValueError: neither UTF-8 nor TOML
        told = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(
            f"{DEPLOYMENT_PREFIX}CONFIG={path!r} can't be read: {told}.", hint="Give a TOML file."
        ) from None
    if not isinstance(table, dict):
        raise SettingsError(f"{name} in {path} is {table!r}, expected a table.", hint=f"Write [{name}].")
    return table
