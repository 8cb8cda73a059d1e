"""Certificates of a test's own authority, as PEM files."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

KEY_PASSWORD = "opens-the-key"


class Certificates:
    """An authority; a server's certificate for 127.0.0.1; a client's; and what is wrong in one way each."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._authority = trustme.CA()
        stranger = trustme.CA()
        self.ca = self._write("ca.pem", self._authority.cert_pem.bytes())
        self.other_ca = self._write("other-ca.pem", stranger.cert_pem.bytes())
        server = self._authority.issue_cert("127.0.0.1", "localhost")
        self.server = self._write("server.pem", _key(server) + _chain(server))
        elsewhere = self._authority.issue_cert("elsewhere.example")
        self.elsewhere = self._write("elsewhere.pem", _key(elsewhere) + _chain(elsewhere))
        self.client, self.client_key = self._client("client", self._authority)
        self.stranger, self.stranger_key = self._client("stranger", stranger)
        self.missing = folder / "missing.pem"
        self.no_pem = self._write("no.pem", b"this is no certificate\n")

    def client_of(self, user: str) -> tuple[Path, Path]:
        """Make a client's certificate with this common name. Return it and its key, which KEY_PASSWORD opens."""
        return self._client(user, self._authority)

    def _client(self, user: str, authority: trustme.CA) -> tuple[Path, Path]:
        made = authority.issue_cert(f"{user}.example", common_name=user)
        key = _key(made, KEY_PASSWORD)
        return self._write(f"{user}.pem", _chain(made)), self._write(f"{user}.key", key)

    def server_context(self, *, ask_client: bool = False, certificate: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.load_cert_chain(certificate or self.server)
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path


def _chain(made: Any) -> bytes:
    return b"".join(part.bytes() for part in made.cert_chain_pems)


def _key(made: Any, password: str = "") -> bytes:
    """Return the key in PKCS #8, the one form that Kafka reads."""
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
