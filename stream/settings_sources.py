"""The sources of settings: arguments, then environment variables, then the TOML file that SEGSTREAM_CONFIG names."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from stream.errors import SettingsError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PREFIX: Final = "SEGSTREAM_"
CONFIG: Final = f"{PREFIX}CONFIG"

# A setting with one of these words in its name may hold a secret, whatever its type; so may a name that is no setting.
_SECRET_WORDS: Final = frozenset(
    {"auth", "credential", "credentials", "key", "passphrase", "passwd", "password", "salt", "secret", "token", "url"}
)
_REFUSED: Final = "this value can't be used"
_CREDENTIALS: Final = re.compile(r"://.*@", re.DOTALL)
# pydantic's errors of types, whose messages don't quote the value.
_UNQUOTING: Final = frozenset({"extra_forbidden", "missing", "string_type", "path_type"})


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
    def _unusable(cls, error: ErrorDetails) -> str:
        """Return which setting can't be used and why, with its value unless that may be a secret."""
        name = str(error["loc"][0]) if error["loc"] else ""
        variable = cls.model_config["env_prefix"] + "_".join(str(part) for part in error["loc"]).upper()
        value, message = error.get("input"), error["msg"]
        if is_secret(name, cls.model_fields.get(name)):
            # A validator's message may quote the value, or a part of it.
            return f"{variable}=***: {message if error['type'] in _UNQUOTING else _REFUSED}"
        return without_credentials(f"{variable}={value!r}: {message}")

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
            values = "; ".join(cls._unusable(e) for e in error.errors())
            raise SettingsError(
                f"unusable {cls.ABOUT}: {values}.", hint=f"{cls.LISTED_BY} lists defaults and units."
            ) from None


def is_secret(name: str, field: FieldInfo | None) -> bool:
    """Return whether a setting may hold a secret, by its type or by its name. `field` None: there is no such setting.

    >>> is_secret("redis_url", None), is_secret("unkeyed_topic", FieldInfo(annotation=str))
    (True, False)
    """
    return field is None or "SecretStr" in str(field.annotation) or not _SECRET_WORDS.isdisjoint(name.split("_"))


def shown_value(name: str, field: FieldInfo, value: object) -> str:
    """Return a setting's value as it may be shown. A file's path is no secret; its contents are.

    >>> shown_value("some_token", FieldInfo(annotation=str), "hunter2")
    '**********'
    """
    if isinstance(value, str) and is_secret(name, field):
        return str(SecretStr(value))
    return without_credentials(str(value))


def without_credentials(text: str) -> str:
    """Return text without the user and password of a URL in it.

    >>> without_credentials("'redis://me:p@ss@host:1/0' is not host:port")
    "'redis://***@host:1/0' is not host:port"
    """
    return _CREDENTIALS.sub("://***@", text)


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
