from __future__ import annotations

import base64
from pathlib import Path

import pytest

from stream.webhooks.endpoints import Endpoint, SecretSource
from stream.webhooks.signing_keys import SigningKeyError, signing_keys

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


def endpoint(*secrets: SecretSource) -> Endpoint:
    return Endpoint(name="crm", url="https://crm.example/", secrets=secrets)


def private(path: Path, text: str, mode: int = 0o600) -> SecretSource:
    path.write_text(text)
    path.chmod(mode)
    return SecretSource(file=str(path))


def test_keys_come_from_variables_and_private_files_in_their_order(tmp_path: Path) -> None:
    new = private(tmp_path / "new", "whsec_" + base64.b64encode(b"n" * 32).decode() + "\n")
    assert signing_keys(endpoint(new, SecretSource(env="OLD")), {"OLD": SECRET}) == (b"n" * 32, b"k" * 32)


@pytest.mark.parametrize(("mode", "usable"), [(0o600, True), (0o440, True), (0o604, False), (0o644, False)])
def test_a_file_that_everybody_can_read_is_refused(tmp_path: Path, mode: int, *, usable: bool) -> None:
    source = private(tmp_path / "secret", SECRET, mode)
    if usable:
        assert signing_keys(endpoint(source), {}) == (b"k" * 32,)
        return
    with pytest.raises(SigningKeyError, match="can be read by everybody"):
        signing_keys(endpoint(source), {})


def test_errors_name_the_source_and_nothing_of_the_secret(tmp_path: Path) -> None:
    wrong = [
        (SecretSource(env="NONE"), "the variable NONE isn't set"),
        (SecretSource(env="WEAK"), "the variable WEAK holds no signing secret"),
        (SecretSource(file=str(tmp_path / "none")), "can't be read: No such file"),
        (private(tmp_path / "weak", "hunter2"), "weak holds no signing secret"),
        (private(tmp_path / "large", "whsec_" + "hunter2" * 10_000), "large holds no signing secret"),
    ]
    for source, message in wrong:
        with pytest.raises(SigningKeyError) as refused:
            signing_keys(endpoint(source), {"WEAK": "whsec_hunter2="})
        assert message in str(refused.value)
        assert "hunter2" not in str(refused.value)
