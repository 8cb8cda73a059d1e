"""Servers that let nobody in without credentials, and grant each role what docs/security.md lists, no more.

A worker reaches Kafka by SASL_SSL and SCRAM, and Redis by TLS as a user of its ACL. Its proxies end TLS, and so still
see Kafka's requests and can lose single ones; behind them Kafka's listener has SCRAM and ACLs. The tests themselves are
the administrator, who connects without TLS and may do anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from redis import Redis

from stream.settings import Settings
from tests.recovery.rig.proxy import HOST, Proxy
from tests.support.secured.certificates import Certificates
from tests.support.secured.kafka import PASSWORDS, Listener, SecuredKafka
from tests.support.secured.rules import KafkaRule, documented, grant, redis_users, set_redis_users
from tests.support.secured.servers import ADMIN_PASSWORD, ADMINISTRATOR_ALONE, scram

WORKER: Final = "worker"
OPERATOR: Final = "operator"  # runs `segstream rebuild`


class Security:
    """The certificates, users and permissions of a rig's servers."""

    def __init__(self, folder: Path) -> None:
        self.certificates = Certificates(folder / "certificates")
        self.context = self.certificates.server_context()
        self._folder = folder
        self._redis_users: dict[str, list[str]] = {}  # with the keys of every group that was let in

    def kafka(self, folder: Path, ports: Iterable[int], proxies: Iterable[Proxy], version: str | None) -> SecuredKafka:
        """Make a Kafka with a listener behind each worker's proxy. `ports`: of these listeners."""
        behind = {
            f"W{i}": Listener("SASL_PLAINTEXT", ("SCRAM-SHA-512",), port=port, sent_to=proxy.port)
            for i, (port, proxy) in enumerate(zip(ports, proxies, strict=True))
        }
        return SecuredKafka(folder, self.certificates, more=behind, audited=False, version=version)

    def valkey_settings(self, name: str) -> dict[str, str]:
        """Return the settings of a Valkey with an ACL, which may become the other's replica."""
        file = self._folder / f"{name}.acl"
        file.write_text(ADMINISTRATOR_ALONE, "utf-8")
        return {"aclfile": str(file), "masteruser": "admin", "masterauth": ADMIN_PASSWORD}

    @staticmethod
    def administrators_url(port: int) -> str:
        """Return the URL of Redis for the tests themselves."""
        return f"redis://admin:{ADMIN_PASSWORD}@{HOST}:{port}/0"

    def way_in(self, user: str, kafka: str, redis_port: int) -> dict[str, Any]:
        """Return the settings by which a user connects. `kafka`, `redis_port`: each of a listener with TLS."""
        return scram(user, kafka, f"rediss://{user}:{PASSWORDS[user]}@{HOST}:{redis_port}/0", self.certificates)

    async def admit(self, settings: Settings, valkeys: Iterable[Redis]) -> None:
        """Grant each role what the page lists, for these settings' group and topics."""
        await grant(settings, [*documented(settings), _dead_letters_of_a_torn_turn(settings)])
        for name, words in redis_users(settings).items():
            known = self._redis_users.setdefault(name, [])
            known += [word for word in words if word not in known]
        for redis in valkeys:
            set_redis_users(redis, self._redis_users)
            redis.acl_save()


def worker_rules(settings: Settings) -> list[KafkaRule]:
    """Return a worker's permissions in Kafka."""
    return [rule for rule in documented(settings) if rule.principal == f"User:{WORKER}"]


def worker_commands() -> list[str]:
    """Return the commands of Redis that a worker may run."""
    return [word.removeprefix("+") for word in redis_users()[WORKER] if word.startswith("+")]


def _dead_letters_of_a_torn_turn(settings: Settings) -> KafkaRule:
    """Return what the page says a `rebuild` may need of the worker's permissions: all others it has."""
    return KafkaRule(f"User:{OPERATOR}", "Write", "--topic", settings.orders_dead_letters_topic, prefixed=False)
