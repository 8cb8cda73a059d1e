"""Each thing that can be wrong about a connection: one line that names the setting, in seconds, without a secret.

The lines are those of `segstream tail` (Kafka), `topics create` (Kafka's administration), `status` (Redis), and of the
trainer's commands; a worker checks its servers by the same calls before it starts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.secured.certificates import KEY_PASSWORD
from tests.support.secured.kafka import PASSWORDS, token
from tests.support.secured.programs import refused, run
from tests.support.secured.rules import set_redis_users

if TYPE_CHECKING:
    from stream.settings import Settings
    from tests.support.secured.servers import SecuredServers

# aiokafka leaves connections behind that it gave up, and the loops of these commands end before those are closed.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

SOON_S = 25.0  # on a loaded machine; on a quiet one all of them take less than a second
SECRETS = ("wrong-password", KEY_PASSWORD, *PASSWORDS.values(), "eyJ")  # the last: how a token begins
KAFKA = ("segstream tail changes", "segstream topics create", "segtrainer list", "segstream worker")
REDIS = ("segstream forecast", "segtrainer run --min-customers 30", "segstream worker", "segtrainer schedule")


def check(settings: Settings, line: str, *words: str) -> None:
    began = time.monotonic()
    said = refused(settings, line)
    took_s = time.monotonic() - began
    assert took_s < SOON_S, f"{line} took {took_s:.0f} s"
    assert "\n" not in said
    assert not [secret for secret in SECRETS if secret in said], said
    for word in words:
        assert word in said, said


# The way in, what is changed, and what the line says. CERTIFICATES: a file of the authority of these servers.
WRONG_KAFKA: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "password": (
        "scram",
        {"kafka_sasl_password": "wrong-password"},
        ("user 'worker'", "SEGSTREAM_KAFKA_SASL_USERNAME", "SEGSTREAM_KAFKA_SASL_PASSWORD", "SCRAM-SHA-512"),
    ),
    "password of PLAIN": ("plain", {"kafka_sasl_password": "wrong-password"}, ("SEGSTREAM_KAFKA_SASL_PASSWORD",)),
    "no password": ("plain", {"kafka_sasl_password": None}, ("needs a password", "SEGSTREAM_KAFKA_SASL_PASSWORD")),
    "no user": ("plain", {"kafka_sasl_username": None}, ("needs a username", "SEGSTREAM_KAFKA_SASL_USERNAME")),
    "mechanism": (
        "scram256",
        {"kafka_sasl_mechanism": "SCRAM-SHA-512"},
        ("doesn't accept SEGSTREAM_KAFKA_SASL_MECHANISM=SCRAM-SHA-512",),
    ),
    "CA": ("scram", {"kafka_ssl_cafile": "other-ca.pem"}, ("can't be verified", "SEGSTREAM_KAFKA_SSL_CAFILE")),
    "no CA": ("scram", {"kafka_ssl_cafile": None}, ("can't be verified", "SEGSTREAM_KAFKA_SSL_CAFILE")),
    "missing CA file": (
        "scram",
        {"kafka_ssl_cafile": "missing.pem"},
        ("SEGSTREAM_KAFKA_SSL_CAFILE", "missing.pem", "No such file"),
    ),
    "unreadable CA file": (
        "scram",
        {"kafka_ssl_cafile": "no.pem"},
        ("SEGSTREAM_KAFKA_SSL_CAFILE", "holds no certificate"),
    ),
    "no client certificate": (
        "certificate",
        {"kafka_ssl_certfile": None, "kafka_ssl_keyfile": None, "kafka_ssl_key_password": None},
        ("asks for a client's certificate", "SEGSTREAM_KAFKA_SSL_CERTFILE"),
    ),
    "a stranger's certificate": (
        "certificate",
        {"kafka_ssl_certfile": "stranger.pem", "kafka_ssl_keyfile": "stranger.key"},
        ("refuses the client's certificate", "SEGSTREAM_KAFKA_SSL_CERTFILE"),
    ),
    "missing certificate": (
        "certificate",
        {"kafka_ssl_certfile": "missing.pem"},
        ("SEGSTREAM_KAFKA_SSL_CERTFILE", "No such file"),
    ),
    "missing key": ("certificate", {"kafka_ssl_keyfile": "missing.pem"}, ("SEGSTREAM_KAFKA_SSL_KEYFILE",)),
    "another key": (
        "certificate",
        {"kafka_ssl_keyfile": "stranger.key"},
        ("SEGSTREAM_KAFKA_SSL_KEYFILE", "isn't the key of"),
    ),
    "key password": (
        "certificate",
        {"kafka_ssl_key_password": "wrong-password"},
        ("SEGSTREAM_KAFKA_SSL_KEY_PASSWORD doesn't open",),
    ),
    "no key password": (
        "certificate",
        {"kafka_ssl_key_password": None},
        ("SEGSTREAM_KAFKA_SSL_KEY_PASSWORD isn't set",),
    ),
    "plain client on a TLS port": (
        "scram",
        {"kafka_security_protocol": "SASL_PLAINTEXT"},
        ("closes the connection", "SEGSTREAM_KAFKA_SECURITY_PROTOCOL"),
    ),
    "client without SASL": (
        "scram",
        {"kafka_security_protocol": "SSL"},
        ("closes the connection", "SEGSTREAM_KAFKA_SECURITY_PROTOCOL"),
    ),
    "TLS client on a plain port": (
        "scram256",
        {"kafka_security_protocol": "SASL_SSL"},
        ("closes the connection", "SEGSTREAM_KAFKA_SECURITY_PROTOCOL"),
    ),
    "SASL client without SASL": (
        "certificate",
        {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_username": "u", "kafka_sasl_password": "wrong-password"},
        ("uses no SASL", "SEGSTREAM_KAFKA_SECURITY_PROTOCOL is SASL_SSL", "Set SSL."),
    ),
    "missing token file": (
        "oauth",
        {"kafka_sasl_oauth_token_file": "missing.pem"},
        ("SEGSTREAM_KAFKA_SASL_OAUTH_TOKEN_FILE", "No such file"),
    ),
    "token command": (
        "oauth_command",
        {"kafka_sasl_oauth_token_command": "false"},
        ("SEGSTREAM_KAFKA_SASL_OAUTH_TOKEN_COMMAND ended with exit code 1",),
    ),
    "no token": ("oauth", {"kafka_sasl_oauth_token_file": None}, ("SEGSTREAM_KAFKA_SASL_OAUTH_TOKEN_FILE",)),
    "expired token": ("oauth", {"kafka_sasl_oauth_token_file": "expired"}, ("may have expired", "OAUTH_TOKEN_FILE")),
    "name of the host": (
        "certificate",
        {"kafka_bootstrap_servers": "localhost.localdomain:9"},
        ("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS",),
    ),
}
WRONG_REDIS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "CA": ("scram", {"redis_ssl_cafile": "other-ca.pem"}, ("can't be verified", "SEGSTREAM_REDIS_SSL_CAFILE")),
    "missing CA file": ("scram", {"redis_ssl_cafile": "missing.pem"}, ("SEGSTREAM_REDIS_SSL_CAFILE", "No such file")),
    "no client certificate": (
        "certificate",
        {"redis_ssl_certfile": None, "redis_ssl_keyfile": None, "redis_ssl_key_password": None},
        ("a client's certificate", "SEGSTREAM_REDIS_SSL_CERTFILE"),
    ),
    "key password": (
        "certificate",
        {"redis_ssl_key_password": "wrong-password"},
        ("SEGSTREAM_REDIS_SSL_KEY_PASSWORD doesn't open",),
    ),
    "no master's name": ("scram", {"redis_sentinels": "127.0.0.1:1"}, ("SEGSTREAM_REDIS_SENTINEL_MASTER",)),
    "no sentinel": (
        "scram",
        {"redis_sentinels": "127.0.0.1:1", "redis_sentinel_master": "m"},
        ("no Sentinel answers", "SEGSTREAM_REDIS_SENTINELS"),
    ),
}


def settings_with(servers: SecuredServers, user: str, way: str, changes: dict[str, Any]) -> Settings:
    folder = servers.certificates.folder
    (folder / "expired").write_text(token(user, lifetime_s=-300), "utf-8")
    files = {name: folder / value for name, value in changes.items() if name.endswith("file") and value}
    return servers.settings(user, way, **(changes | files))


@pytest.mark.parametrize("wrong", WRONG_KAFKA)
def test_kafka_refuses(secured: SecuredServers, wrong: str) -> None:
    way, changes, words = WRONG_KAFKA[wrong]
    settings = settings_with(secured, "worker", way, changes)
    # Every program for the first of a kind; the clients behind them are the same.
    for line in KAFKA if wrong in {"password", "CA", "expired token"} else KAFKA[:1]:
        check(settings, line, *words)


@pytest.mark.parametrize("wrong", WRONG_REDIS)
def test_redis_refuses(secured: SecuredServers, wrong: str) -> None:
    way, changes, words = WRONG_REDIS[wrong]
    for line in REDIS[:2] if wrong == "CA" else REDIS[:1]:
        check(settings_with(secured, "operator", way, changes), line, *words)


@pytest.mark.parametrize("line", REDIS)
def test_a_wrong_password_of_redis(secured: SecuredServers, line: str) -> None:
    user = {"segstream worker": "worker", "segstream forecast": "reader"}.get(line, "trainer")
    url = secured.url(user, "wrong-password")
    check(secured.settings(user, redis_url=url), line, "refuses the user or the password", "SEGSTREAM_REDIS_URL")


def test_a_plain_client_on_a_tls_port_of_redis(secured: SecuredServers) -> None:
    url = secured.url("reader").replace("rediss://", "redis://")
    settings = secured.settings("reader", redis_url=url, redis_ssl_cafile=None)
    check(settings, "segstream forecast", "rediss://", "SEGSTREAM_REDIS_URL")


def test_a_tls_client_on_a_plain_port_of_redis(secured: SecuredServers) -> None:
    url = secured.url("reader", tls=False).replace("redis://", "rediss://")
    check(secured.settings("reader", redis_url=url), "segstream forecast", "TLS", "redis:// in SEGSTREAM_REDIS_URL")


def test_tls_files_for_a_url_without_tls(secured: SecuredServers) -> None:
    url = secured.url("reader", tls=False)
    check(secured.settings("reader", redis_url=url), "segstream forecast", "SEGSTREAM_REDIS_SSL_", "rediss://")


@pytest.mark.parametrize("line", ["segstream tail changes", "segtrainer list", "segstream topics create"])
def test_a_user_without_permissions_in_kafka(secured: SecuredServers, line: str) -> None:
    check(secured.settings("nobody", redis_url=secured.url("reader")), line, "user 'nobody'", "docs/security.md")


def test_a_user_without_permissions_in_redis(secured: SecuredServers) -> None:
    set_redis_users(secured.redis, {"nobody": ["on", f">{PASSWORDS['nobody']}", "~*", "+ping"]})
    settings = secured.settings("reader", redis_url=secured.url("nobody"))
    check(settings, "segstream forecast", "SEGSTREAM_REDIS_URL", "has no permissions", "docs/security.md")


def test_the_settings_are_shown_without_secrets(secured: SecuredServers) -> None:
    for way in ("scram", "certificate", "oauth_command"):
        shown = run(secured.settings("worker", way), "segstream settings")
        assert not [secret for secret in SECRETS if secret in shown]
        assert "worker.token" not in shown
