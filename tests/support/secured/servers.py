"""A Kafka and a Valkey that let nobody in without credentials, and settings for each way in."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from pydantic import SecretStr
from redis import Redis

from stream.local.machine import HOST
from stream.local.valkey_server import ValkeyServer
from stream.settings import Settings
from tests.support.paths import EVERY_MOVE
from tests.support.secured import rules
from tests.support.secured.certificates import KEY_PASSWORD, Certificates
from tests.support.secured.kafka import PASSWORDS, SecuredKafka, token
from tests.support.secured.tls_proxy import TlsProxy

ADMIN_PASSWORD = "admin-password"
# `default` may only be asked whether it is there: the suite's probe has no password.
ADMINISTRATOR_ALONE = f"user default on nopass resetkeys -@all +ping\nuser admin on >{ADMIN_PASSWORD} ~* &* +@all\n"


def scram(user: str, kafka: str, redis_url: str, certificates: Certificates) -> dict[str, Any]:
    """Return the connection's settings of a user of TLS, SCRAM and Redis' ACL. `kafka`: a listener with SASL_SSL."""
    return {
        "kafka_bootstrap_servers": kafka,
        "kafka_security_protocol": "SASL_SSL",
        "kafka_sasl_mechanism": "SCRAM-SHA-512",
        "kafka_sasl_username": user,
        "kafka_sasl_password": PASSWORDS[user],
        "kafka_ssl_cafile": certificates.ca,
        "redis_url": redis_url,
        "redis_ssl_cafile": certificates.ca,
    }


class SecuredServers:
    """The servers and the authority of their certificates. The page's permissions are granted from the start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificates = Certificates(folder / "certificates")
        self.kafka = SecuredKafka(folder / "kafka", self.certificates)
        aclfile = folder / "users.acl"
        aclfile.write_text(ADMINISTRATOR_ALONE, "utf-8")
        overrides = {"aclfile": str(aclfile)}
        self.valkey = ValkeyServer(folder / "valkey", port=None, report=print, overrides=overrides)
        self.tls = TlsProxy(self.certificates.server_context(), self._valkey_port)
        self.mutual_tls = TlsProxy(self.certificates.server_context(ask_client=True), self._valkey_port)
        self.redis = Redis.from_url(self.url("admin", ADMIN_PASSWORD, tls=False))
        self._running = ExitStack()

    def _valkey_port(self) -> int:
        return self.valkey.port

    def __enter__(self) -> Self:
        with ExitStack() as running:
            running.callback(self.kafka.stop)
            self.kafka.start()
            running.callback(self.valkey.stop)
            self.valkey.start()
            self.redis = running.enter_context(Redis.from_url(self.url("admin", ADMIN_PASSWORD, tls=False)))
            running.enter_context(self.tls)
            running.enter_context(self.mutual_tls)
            asyncio.run(rules.grant(self.administrator(), rules.documented()))
            rules.set_redis_users(self.redis, rules.redis_users())
            self._running = running.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def url(self, user: str, password: str | None = None, *, tls: bool = True, mutual: bool = False) -> str:
        """Return the URL of Valkey for a user."""
        port = (self.mutual_tls if mutual else self.tls).port if tls else self.valkey.port
        return f"redis{'s' if tls else ''}://{user}:{password or PASSWORDS[user]}@{HOST}:{port}/0"

    def administrator(self, **others: Any) -> Settings:
        """Return settings that may do anything."""
        url = SecretStr(self.url("admin", ADMIN_PASSWORD, tls=False))
        return Settings(kafka_bootstrap_servers=self.kafka.address, redis_url=url, **others)

    def settings(self, user: str, way: str = "scram", **others: Any) -> Settings:
        """Return settings of a user, by the way in that WAYS names."""
        own: dict[str, Any] = {
            "partitions": 2,
            "session_timeout_ms": 6_000,
            "other_currencies": "EUR",
            "rules_file": EVERY_MOVE,
        }
        return Settings(**(own | self.ways(user)[way] | others))

    def ways(self, user: str) -> dict[str, dict[str, Any]]:
        """Return the connection's settings of each way in."""
        made = self.certificates
        password = {"kafka_sasl_username": user, "kafka_sasl_password": PASSWORDS[user]}
        kafka_ca, redis_ca = {"kafka_ssl_cafile": made.ca}, {"redis_ssl_cafile": made.ca}
        redis = {"redis_url": self.url(user), **redis_ca}
        certificate, key = made.client_of(user)
        token_file = self.folder / f"{user}.token"
        token_file.write_text(token(user) + "\n", "utf-8")

        def sasl(listener: str, protocol: str, mechanism: str, credentials: dict[str, Any]) -> dict[str, Any]:
            return {
                "kafka_bootstrap_servers": self.kafka.address_of(listener),
                "kafka_security_protocol": protocol,
                "kafka_sasl_mechanism": mechanism,
                **credentials,
            }

        return {
            "scram": scram(user, self.kafka.address_of("SASLTLS"), self.url(user), made),
            "scram256": sasl("SASLCLEAR", "SASL_PLAINTEXT", "SCRAM-SHA-256", password) | redis,
            "plain": sasl("SASLTLS", "SASL_SSL", "PLAIN", password) | kafka_ca | redis,
            "oauth": sasl("OAUTH", "SASL_SSL", "OAUTHBEARER", {"kafka_sasl_oauth_token_file": token_file})
            | kafka_ca | redis,
            "oauth_command": sasl(
                "OAUTH", "SASL_SSL", "OAUTHBEARER", {"kafka_sasl_oauth_token_command": f"cat {token_file}"}
            ) | kafka_ca | redis,
            "certificate": {
                "kafka_bootstrap_servers": self.kafka.address_of("MUTUAL"),
                "kafka_security_protocol": "SSL",
                "kafka_ssl_certfile": certificate,
                "kafka_ssl_keyfile": key,
                "kafka_ssl_key_password": KEY_PASSWORD,
                "redis_url": self.url(user, mutual=True),
                "redis_ssl_certfile": certificate,
                "redis_ssl_keyfile": key,
                "redis_ssl_key_password": KEY_PASSWORD,
            } | kafka_ca | redis_ca,
        }  # fmt: skip
