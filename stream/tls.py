"""TLS contexts from the files that settings name."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stream.errors import SettingsError, causes

if TYPE_CHECKING:
    from pydantic import SecretStr


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of one kind of connection. `variables`: the beginning of their settings' names, for error messages."""

    variables: str
    cafile: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None
    key_password: SecretStr | None = None

    def check(self) -> None:
        """Raise SettingsError where a setting is useless without another one. No file is read."""
        if self.keyfile and not self.certfile:
            raise self._error("KEYFILE", "is set without a certificate", hint=f"Set {self.variables}CERTFILE too.")
        if self.key_password and not self.certfile:
            raise self._error("KEY_PASSWORD", "is set without a key", hint=f"Set {self.variables}CERTFILE too.")

    def context(self) -> ssl.SSLContext:
        """Return a context that checks the server's certificate and name. Raises SettingsError.

        The files are read each time, so that a new connection uses a renewed certificate.
        """
        self.check()
        context = ssl.create_default_context()
        if self.cafile is not None:
            context = self._trusting(self.cafile)
        if self.certfile is not None:
            self._show(context, self.certfile)
        return context

    @property
    def password(self) -> str:
        """The key's password; "" where there is none, for with None OpenSSL would ask the terminal."""
        return self.key_password.get_secret_value() if self.key_password else ""

    def _trusting(self, cafile: Path) -> ssl.SSLContext:
        self._read("CAFILE", cafile)
        try:
            return ssl.create_default_context(cafile=cafile)
        except ssl.SSLError:
            raise self._unusable(
                "CAFILE", cafile, "holds no certificate (PEM)", "Give the CA's certificates."
            ) from None

    def _show(self, context: ssl.SSLContext, certfile: Path) -> None:
        """Let a context show a certificate to the server."""
        keyfile = self.keyfile or certfile
        self._read("CERTFILE", certfile)
        key_setting = "KEYFILE" if self.keyfile else "CERTFILE"
        encrypted = b"ENCRYPTED" in self._read(key_setting, keyfile)
        try:
            context.load_cert_chain(certfile, keyfile, self.password)
        except (ssl.SSLError, ValueError) as error:  # ValueError: a password of more than 1,024 bytes
            reason = getattr(error, "reason", None)
            if reason == "KEY_VALUES_MISMATCH":
                raise self._unusable(
                    key_setting, keyfile, f"isn't the key of {certfile} ({self.variables}CERTFILE)", "Give its own key."
                ) from None
            if encrypted:
                raise self._error(
                    "KEY_PASSWORD",
                    f"doesn't open the key {keyfile}"
                    if self.password
                    else f"isn't set, but the key {keyfile} needs it",
                    hint="Give the key's password.",
                ) from None
            raise self._unusable(
                key_setting, keyfile, f"and {certfile} are no certificate and key (PEM)",
                f"Give them in {self.variables}CERTFILE and {self.variables}KEYFILE.",
            ) from None  # fmt: skip

    def _read(self, setting: str, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise self._unusable(
                setting, path, f"can't be read: {error.strerror}", "Give a file that this user may read."
            ) from None

    def _unusable(self, setting: str, path: Path, what: str, hint: str) -> SettingsError:
        return SettingsError(f"{self.variables}{setting}={str(path)!r} {what}.", hint=hint)

    def _error(self, setting: str, what: str, *, hint: str) -> SettingsError:
        return SettingsError(f"{self.variables}{setting} {what}.", hint=hint)


def why_tls_failed(error: BaseException, files: TlsFiles, *, address: str, plain: str) -> tuple[str, str] | None:
    """Return what a failed handshake means, and what to do; None where TLS isn't the reason.

    `address`: the setting that holds the server's address. `plain`: what to set for a connection without TLS.
    """
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            if "match" in cause.verify_message:  # "Hostname mismatch", "IP address mismatch"
                return (
                    f"its certificate isn't for this host: {cause.verify_message.rstrip('.')}",
                    f"Give {address} a name that stands in the certificate.",
                )
            return (
                f"its certificate can't be verified: {cause.verify_message}",
                f"Set {files.variables}CAFILE to the certificates of the CA that signed it.",
            )
        if isinstance(cause, ssl.SSLError):
            return _why(cause, files, plain)
    return None


def _why(error: ssl.SSLError, files: TlsFiles, plain: str) -> tuple[str, str]:
    reason = getattr(error, "reason", None) or ""
    if any(word in reason for word in ("CERTIFICATE", "HANDSHAKE_FAILURE", "UNKNOWN_CA")):
        if files.certfile is None:
            return "it asks for a client's certificate", f"Set {files.variables}CERTFILE and {files.variables}KEYFILE."
        return "it refuses the client's certificate", f"Give one that it trusts in {files.variables}CERTFILE."
    words = reason.lower().replace("_", " ") or "the connection was closed in the handshake"
    return f"the TLS handshake failed ({words})", f"If this port has no TLS, {plain}."
