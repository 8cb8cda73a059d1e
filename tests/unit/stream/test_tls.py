"""The files for TLS, and what a failed handshake means."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr

from stream.errors import SettingsError
from stream.tls import TlsFiles, why_tls_failed
from tests.support.secured.certificates import KEY_PASSWORD, Certificates


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def files(ca: Path | None, cert: Path | None = None, key: Path | None = None, password: str = "") -> TlsFiles:
    return TlsFiles("SEGSTREAM_X_SSL_", ca, cert, key, SecretStr(password) if password else None)


def test_good_files_make_a_context_that_checks_the_server(made: Certificates) -> None:
    context = files(made.ca, made.client, made.client_key, KEY_PASSWORD).context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == 1, "with a CA of one's own, the system's aren't trusted"
    assert files(None, made.server).context(), "the key may be in the certificate's file"


def test_each_wrong_file_is_named(made: Certificates) -> None:
    for chosen, words in (
        (files(made.missing), "CAFILE='.*' can't be read: No such file"),
        (files(made.folder), "CAFILE='.*' can't be read: Is a directory"),
        (files(made.no_pem), "CAFILE='.*' holds no certificate"),
        (files(None, made.missing), "CERTFILE='.*' can't be read"),
        (files(None, made.no_pem), "CERTFILE='.*' and .* are no certificate and key"),
        (files(None, made.client, made.missing), "KEYFILE='.*' can't be read"),
        (files(None, made.client, made.stranger_key, KEY_PASSWORD), "KEYFILE='.*' isn't the key of"),
        (files(None, made.client, made.client_key), "KEY_PASSWORD isn't set, but the key"),
        (files(None, made.client, made.client_key, "hidden"), "KEY_PASSWORD doesn't open the key"),
        (files(None, made.client, made.client_key, "hidden" * 400), "KEY_PASSWORD doesn't open the key"),
    ):
        with pytest.raises(SettingsError, match=f"SEGSTREAM_X_SSL_{words}") as caught:
            chosen.context()
        assert "hidden" not in str(caught.value)


def test_an_error_without_tls_means_nothing_here() -> None:
    assert why_tls_failed(OSError("refused"), files(None), address="A", plain="p") is None


def test_the_reason_is_found_behind_other_errors() -> None:
    error = RuntimeError("a client's own")
    error.__cause__ = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    found = why_tls_failed(error, files(None), address="A", plain="set this")
    assert found is not None
    assert found[1] == "If this port has no TLS, set this."
