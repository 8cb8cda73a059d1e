"""The permissions that docs/security.md tells users to grant, granted by a test as they stand there."""

from __future__ import annotations

import asyncio
import re
import shlex
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest
from redis import Redis

from stream.settings import Settings
from tests.support.paths import ROOT

PAGE: Final = "docs/security.md"
_RESOURCES: Final = {"--topic": 2, "--group": 3, "--cluster": 4, "--transactional-id": 5}  # Kafka's ResourceType
_CLUSTER: Final = "kafka-cluster"
_OPERATIONS: Final = {
    "Read": 3, "Write": 4, "Create": 5, "Delete": 6, "Alter": 7, "Describe": 8, "DescribeConfigs": 10,
}  # fmt: skip
_LITERAL, _PREFIXED, _ALLOW = 3, 4, 3


@dataclass(frozen=True)
class KafkaRule:
    """One permission in Kafka."""

    principal: str
    operation: str
    kind: str  # "--topic" and so on
    name: str
    prefixed: bool

    def __str__(self) -> str:
        return f"{self.operation} {self.kind.removeprefix('--')} {self.name}{'*' if self.prefixed else ''}"


def documented(settings: Settings | None = None) -> list[KafkaRule]:
    """Return Kafka's permissions from the page, one for each operation on each resource.

    `settings`: whose topics and group take the place of the default ones.
    """
    rules: list[KafkaRule] = []
    for line in (ROOT / PAGE).read_text("utf-8").splitlines():
        if line.startswith("acl --"):
            rules += _parse(shlex.split(line)[1:])
    return [replace(rule, name=_renamed(rule.name, settings)) for rule in rules] if settings else rules


def _renamed(text: str, settings: Settings) -> str:
    """Return a text of the page with the names of these settings."""
    names = {
        str(field.default): str(getattr(settings, name))
        for name, field in Settings.model_fields.items()
        if name == "group" or name.endswith("_topic")
    }
    longest_first = sorted(names, key=len, reverse=True)
    return re.sub("|".join(longest_first), lambda found: names[found[0]], text)


def _parse(words: list[str]) -> Iterable[KafkaRule]:
    operations: list[str] = []
    resources: list[tuple[str, str]] = []
    principal, prefixed = "", False
    rest = iter(words)
    for word in rest:
        if word == "--cluster":
            resources.append((word, _CLUSTER))
            continue
        value = next(rest)
        if word == "--allow-principal":
            principal = value
        elif word == "--operation":
            operations.append(value)
        elif word == "--resource-pattern-type":
            prefixed = {"prefixed": True, "literal": False}[value]
        else:
            assert word in _RESOURCES, f"{PAGE} has an option that this parser doesn't know: {word}"
            resources.append((word, value))
    return [KafkaRule(principal, o, kind, name, prefixed) for kind, name in resources for o in operations]


def redis_users(settings: Settings | None = None) -> dict[str, list[str]]:
    """Return the rules of each user of Redis from the page. `settings`: as in `documented`."""
    lines = re.findall(r"^user (\S+) (.+)$", (ROOT / PAGE).read_text("utf-8"), re.MULTILINE)
    return {name: [_of_settings(rule, settings) for rule in rules.split()] for name, rules in lines}


def _of_settings(rule: str, settings: Settings | None) -> str:
    return _renamed(rule, settings) if settings and "~" in rule else rule


async def grant(settings: Settings, rules: Iterable[KafkaRule]) -> None:
    """Create the permissions, and wait until they hold. `settings`: of an administrator."""
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()
    try:
        for rule in rules:
            answer: Any = await admin._send_request(_creation(rule))
            assert [code for code, _ in answer.creation_responses] == [0], f"{rule}: {answer}"
            await _wait_until(admin, rule, granted=True)
    finally:
        await admin.close()


async def revoke(settings: Settings, rule: KafkaRule) -> None:
    """Delete one permission, and wait until that holds."""
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()
    try:
        answer: Any = await admin._send_request(DeleteAclsRequest(*_filter(rule)))
        assert answer.to_object()["filter_responses"][0]["matching_acls"], f"{rule} wasn't granted"
        await _wait_until(admin, rule, granted=False)
    finally:
        await admin.close()


async def _wait_until(admin: AIOKafkaAdminClient, rule: KafkaRule, *, granted: bool) -> None:
    """Wait until the broker goes by a change: it answers before, and a single request behind it might still pass."""
    deadline = time.monotonic() + 30
    while True:
        answer: Any = await admin._send_request(DescribeAclsRequest(*_filter(rule)))
        if bool(answer.to_object()["resources"]) == granted:
            return
        assert time.monotonic() < deadline, f"{rule}: the broker doesn't go by its change"
        await asyncio.sleep(0.02)


def _filter(rule: KafkaRule) -> tuple[int, str, int, str, str, int, int]:
    pattern = _PREFIXED if rule.prefixed else _LITERAL
    return _RESOURCES[rule.kind], rule.name, pattern, rule.principal, "*", _OPERATIONS[rule.operation], _ALLOW


def _creation(rule: KafkaRule) -> CreateAclsRequest:
    return CreateAclsRequest(
        resource_type=_RESOURCES[rule.kind],
        resource_name=rule.name,
        resource_pattern_type_filter=_PREFIXED if rule.prefixed else _LITERAL,
        principal=rule.principal,
        host="*",
        operation=_OPERATIONS[rule.operation],
        permission_type=_ALLOW,
    )


def set_redis_users(admin: Redis, users: Mapping[str, list[str]]) -> None:
    """Set each user's rules, and nothing that they had before."""
    for name, rules in users.items():
        command: Any = admin.execute_command
        command("ACL", "SETUSER", name, "reset", *rules)
