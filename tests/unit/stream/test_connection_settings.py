"""The settings of connections: each that another one needs, and that no secret shows."""

from __future__ import annotations

from typing import Any

import pytest

from stream.errors import SettingsError
from stream.settings import DeploymentSettings, Settings

SASL = {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_username": "u", "kafka_sasl_password": "hidden"}


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (SASL | {"kafka_sasl_username": None}, ["SEGSTREAM_KAFKA_SASL_USERNAME"]),
        (SASL | {"kafka_sasl_password": None}, ["SEGSTREAM_KAFKA_SASL_PASSWORD"]),
        (SASL | {"kafka_sasl_mechanism": "OAUTHBEARER"}, ["SEGSTREAM_KAFKA_SASL_OAUTH_TOKEN_FILE"]),
        ({"kafka_ssl_keyfile": "k.pem"}, ["SEGSTREAM_KAFKA_SSL_KEYFILE", "SEGSTREAM_KAFKA_SSL_CERTFILE"]),
        ({"kafka_ssl_key_password": "hidden"}, ["SEGSTREAM_KAFKA_SSL_KEY_PASSWORD"]),
        ({"redis_ssl_cafile": "ca.pem"}, ["SEGSTREAM_REDIS_SSL_", "rediss://"]),
        ({"redis_url": "rediss://h:1/0", "redis_ssl_keyfile": "k.pem"}, ["SEGSTREAM_REDIS_SSL_KEYFILE"]),
        ({"redis_sentinels": "h:1"}, ["SEGSTREAM_REDIS_SENTINEL_MASTER"]),
        ({"redis_sentinel_master": "m"}, ["SEGSTREAM_REDIS_SENTINELS"]),
        ({"redis_sentinels": "h", "redis_sentinel_master": "m"}, ["SEGSTREAM_REDIS_SENTINELS", "host:port"]),
    ],
)
@pytest.mark.parametrize("kind", [Settings, DeploymentSettings])
def test_a_setting_that_needs_another_one_is_refused(
    kind: type[DeploymentSettings], chosen: dict[str, Any], names: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        kind.load(**chosen)
    assert all(name in str(caught.value) for name in names)
    assert "hidden" not in str(caught.value)


def test_secrets_don_t_show() -> None:
    secrets = {
        "kafka_sasl_password": "hidden",
        "kafka_sasl_oauth_token_command": "get --secret hidden",
        "kafka_ssl_certfile": "c",
        "kafka_ssl_key_password": "hidden",
        "redis_url": "rediss://u:hidden@h:1/0",
        "redis_ssl_certfile": "c",
        "redis_ssl_key_password": "hidden",
        "redis_sentinel_password": "hidden",
    }
    settings = Settings.load(**secrets)
    assert "hidden" not in repr(settings) + str(settings) + repr(settings.kafka_tls) + repr(settings.redis_tls)
