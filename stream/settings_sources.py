"""The sources of settings: arguments, then environment variables, then the TOML file that SEGSTREAM_CONFIG names."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from stream.errors import SettingsError

PREFIX: Final = "SEGSTREAM_"
CONFIG: Final = f"{PREFIX}CONFIG"


class SourcedSettings(BaseSettings):
    """Base of all settings. A subclass names its variables' prefix in `model_config`, and its part of the file."""

    ABOUT: ClassVar[str]  # the name of these settings in error texts
    LISTED_BY: ClassVar[str]  # the command or page that lists them, for hints

    @classmethod
    def file_values(cls) -> dict[str, Any]:
        """Return what the file sets. Raises SettingsError."""
        raise NotImplementedError

    @classmethod
    def unknown_variables(cls) -> list[str]:
        """Return the environment's variables that have the prefix but set nothing, sorted. Case doesn't matter."""
        prefix = cls.model_config["env_prefix"]
        known = {prefix + name.upper() for name in cls.model_fields}
        return sorted(name for name in os.environ if name.startswith(prefix) and name.upper() not in known)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, the first one wins."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=cls.file_values())

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings once.

        Raises SettingsError, which names each unknown variable, each unusable value with its variable, or the file.
        """
        if unknown := cls.unknown_variables():
            raise SettingsError(f"unknown setting {', '.join(unknown)}.", hint=f"{cls.LISTED_BY} lists all settings.")
        try:
            return cls(**overrides)
        except ValidationError as error:
            prefix = cls.model_config["env_prefix"]
            values = "; ".join(
                f"{prefix}{'_'.join(str(part) for part in e['loc']).upper()}={e.get('input')!r}: {e['msg']}"
                for e in error.errors()
            )
            raise SettingsError(
                f"unusable {cls.ABOUT}: {values}.", hint=f"{cls.LISTED_BY} lists defaults and units."
            ) from None


def read_config_file() -> dict[str, Any]:
    """Read the settings' file, {} where SEGSTREAM_CONFIG isn't set.

    Raises SettingsError, also where it doesn't exist.
    """
    path = os.environ.get(CONFIG)
    if not path:
        return {}
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:  # ValueError: neither UTF-8 nor TOML
        message = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"{CONFIG}={path!r} can't be read: {message}.", hint="Give a TOML file.") from None
