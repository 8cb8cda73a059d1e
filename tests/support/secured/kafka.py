"""A Kafka that asks who its clients are: one listener for each way to say so, and ACLs in force.

The suite's own listener, PLAINTEXT, is the administrator's: it may do anything.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream.local.kafka_server import KafkaServer
from stream.local.machine import HOST, free_port
from tests.support.secured.certificates import Certificates
from tests.support.secured.rules import KafkaRule

PASSWORDS = {
    user: f"{user}-password"
    for user in (
        "worker", "dispatcher", "adapters", "deliverer", "trainer", "reader", "operator", "shop", "profiles", "crm",
        "nobody",
    )
}  # fmt: skip
# The authorizer writes a line for each decision, with the rule that allowed it.
_AUDIT = "logger.audit.name = kafka.authorizer.logger\nlogger.audit.level = DEBUG\n"
_ALLOWED = re.compile(
    r"is Allowed operation = (\w+) .*StandardAcl\(resourceType=(\w+), resourceName=([^,]+), patternType=(\w+), "
    r"principal=([^,]+), host=\*, operation=(\w+), permissionType=ALLOW\)"
)
_SASL = "org.apache.kafka.common.security"
_OAUTH = f"{_SASL}.oauthbearer"


@dataclass(frozen=True)
class Listener:
    """A listener by Kafka's name for it. `mechanisms`: of SASL. `client`: whether it asks for a certificate.

    `port`: None: a free one. `sent_to`: the port of a proxy to which Kafka sends its clients; None: `port`.
    """

    protocol: str
    mechanisms: tuple[str, ...] = ()
    client: str = "none"
    port: int | None = None
    sent_to: int | None = None


LISTENERS = {
    "TLS": Listener("SSL", client="requested"),
    "MUTUAL": Listener("SSL", client="required"),
    "SASLTLS": Listener("SASL_SSL", ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")),
    "SASLCLEAR": Listener("SASL_PLAINTEXT", ("PLAIN", "SCRAM-SHA-256")),
    "OAUTH": Listener("SASL_SSL", ("OAUTHBEARER",)),
}


class SecuredKafka(KafkaServer):
    """Kafka with LISTENERS, and `more` of them, beside its own. `audited`: for `used_rules`; it logs every decision."""

    def __init__(
        self,
        directory: Path,
        certificates: Certificates,
        *,
        more: Mapping[str, Listener] | None = None,
        audited: bool = True,
        **options: Any,
    ) -> None:
        self._listeners = LISTENERS | dict(more or {})
        self.ports = {name: listener.port for name, listener in self._listeners.items() if listener.port}
        for name in self._listeners.keys() - self.ports.keys():
            self.ports[name] = next(port for port in iter(free_port, None) if port not in self.ports.values())
        self._audited = audited
        overrides = _properties(certificates, self._listeners)
        super().__init__(directory, port=None, report=print, overrides=overrides, **options)
        # Users of SCRAM must be in the storage before the first start.
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            for user, password in PASSWORDS.items():
                self._format_options += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]

    def _java_command(self) -> list[str]:
        command = super()._java_command()
        if self._audited:
            with (self.directory / "log4j2.properties").open("a", encoding="utf-8") as file:
                file.write(_AUDIT)
        return command

    def used_rules(self) -> set[KafkaRule]:
        """Return the rules by which Kafka has allowed just their own operation so far: Read also lets describe."""
        return {
            KafkaRule(principal, _words(operation), f"--{_words(kind, '-').lower()}", name, pattern == "PREFIXED")
            for asked, kind, name, pattern, principal, operation in set(_ALLOWED.findall(self.log.read_text("utf-8")))
            if asked == operation
        }

    def address_of(self, listener: str) -> str:
        return f"{HOST}:{self.ports[listener]}"

    def _write_properties(self, name: str, data: Path) -> Path:
        path = super()._write_properties(name, data)
        sent_to = {listener: self._listeners[listener].sent_to or port for listener, port in self.ports.items()}
        more = {"listeners": _addresses(self.ports), "advertised.listeners": _addresses(sent_to)}
        lines = [line + more.get(line.partition("=")[0], "") for line in path.read_text("utf-8").splitlines()]
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return path


def _addresses(ports: Mapping[str, int]) -> str:
    return "".join(f",{listener}://{HOST}:{port}" for listener, port in ports.items())


def token(user: str, *, lifetime_s: float = 3_600) -> str:
    """Return a token without a signature, which Kafka's validator for tests takes."""
    now = time.time()
    parts = ({"alg": "none"}, {"sub": user, "iat": now - 60, "exp": now + lifetime_s})
    return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts) + "."


def _words(constant: str, between: str = "") -> str:
    """Return a constant of Kafka's code as its command line writes it: DESCRIBE_CONFIGS is DescribeConfigs."""
    return between.join(word.capitalize() for word in constant.split("_"))


def _properties(certificates: Certificates, listeners: Mapping[str, Listener]) -> dict[str, str]:
    protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
    protocols |= {name: listener.protocol for name, listener in listeners.items()}
    found = {
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        "inter.broker.listener.name": "PLAINTEXT",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/,DEFAULT",  # a certificate is known by its common name
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates.server),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.ca),
    }
    for name, listener in listeners.items():
        prefix = f"listener.name.{name.lower()}"
        found[f"{prefix}.ssl.client.auth"] = listener.client
        if listener.mechanisms:
            found[f"{prefix}.sasl.enabled.mechanisms"] = ",".join(listener.mechanisms)
        for mechanism in listener.mechanisms:
            found |= _mechanism(f"{prefix}.{mechanism.lower()}", mechanism)
    return found


def _mechanism(prefix: str, mechanism: str) -> dict[str, str]:
    jaas = f"{prefix}.sasl.jaas.config"
    if mechanism == "PLAIN":
        users = " ".join(f'user_{user}="{password}"' for user, password in PASSWORDS.items())
        return {jaas: f"{_SASL}.plain.PlainLoginModule required {users};"}
    if mechanism == "OAUTHBEARER":
        return {
            jaas: f'{_OAUTH}.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
            f"{prefix}.sasl.server.callback.handler.class": (
                f"{_OAUTH}.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
            ),
        }
    return {jaas: f"{_SASL}.scram.ScramLoginModule required;"}
