"""The signing keys of an endpoint, out of the environment or of private files. No error has any part of one."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from stream.errors import SettingsError
from stream.webhooks.endpoints import Endpoint, SecretSource
from stream.webhooks.signing import SecretUnusable, signing_key

_MOST_BYTES: Final = 4_096  # of a file: a secret has about a hundred


class SigningKeyError(SettingsError):
    """A signing secret can't be read or used."""


def signing_keys(endpoint: Endpoint, environment: Mapping[str, str] = os.environ) -> tuple[bytes, ...]:
    """Return an endpoint's keys, in the order of the file. Raises SigningKeyError."""
    return tuple(_key(endpoint.name, source, environment) for source in endpoint.secrets)


def unusable_secrets(endpoint: Endpoint, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return what is wrong with an endpoint's secrets: a sentence for each that can't be used, without any of it."""
    found = []
    for source in endpoint.secrets:
        try:
            _key(endpoint.name, source, environment)
        except SigningKeyError as error:
            found.append(str(error))
    return found


def _key(name: str, source: SecretSource, environment: Mapping[str, str]) -> bytes:
    where = f"endpoint {name!r}: {source}"
    if source.file is not None:
        text = _private_text(where, Path(source.file))
    elif (found := environment.get(source.env or "")) is None:
        raise SigningKeyError(f"{where} isn't set.", hint="Set it to the endpoint's secret, whsec_….")
    else:
        text = found
    try:
        return signing_key(text)
    except SecretUnusable as error:
        raise SigningKeyError(
            f"{where} holds no signing secret: {error}.", hint='`echo "whsec_$(openssl rand -base64 32)"` makes one.'
        ) from None


def _private_text(where: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SigningKeyError(
            f"{where} can't be read: {error.strerror}.", hint="Give a file with the secret."
        ) from None
    if stat.S_ISREG(mode) and mode & stat.S_IRWXO:
        raise SigningKeyError(
            f"{where} can be read by everybody on this machine (mode {stat.S_IMODE(mode):04o}).",
            hint=f"chmod o= {path}; in Kubernetes set the volume's defaultMode to 0440.",
        )
    try:
        return content[:_MOST_BYTES].decode()
    except UnicodeDecodeError:
        raise SigningKeyError(f"{where} isn't text.", hint="Give a file with the secret, whsec_….") from None
