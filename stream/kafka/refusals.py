"""Why Kafka doesn't answer or refuses: one line that names the setting to look at, and says what to do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)

from stream.errors import SegstreamError, causes
from stream.kafka.aiokafka_internals import try_connection
from stream.tls import why_tls_failed

if TYPE_CHECKING:
    from stream.settings import DeploymentSettings

PROBE_S: Final = 5.0  # for one broker; a listener of another protocol hangs up at once
_ACLS: Final = "Grant the ACLs that docs/security.md lists for this role."
_DENIED: Final = {
    TopicAuthorizationFailedError: "the topic",
    GroupAuthorizationFailedError: "the consumer group",
    TransactionalIdAuthorizationFailed: "the transactional id",
    ClusterAuthorizationFailedError: "the cluster",
}


class KafkaUnreachable(SegstreamError):
    """Kafka doesn't answer, or answers with an error."""


class KafkaDenied(KafkaUnreachable):
    """Kafka knows this user, but its ACLs don't allow what was asked: trying again doesn't help."""


async def explained(settings: DeploymentSettings, error: Exception) -> KafkaUnreachable:
    """Return what a client's error means. Connect once more (at most 5 s a broker), for aiokafka doesn't say why.

    Raises SettingsError where a file or a token that the connection needs can't be read.
    """
    if isinstance(error, SegstreamError):
        raise error
    if denied := denial(settings, error):
        return denied
    for server in settings.kafka_bootstrap_servers.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            async with asyncio.timeout(PROBE_S):
                await try_connection(settings.kafka_client(), host.strip("[]"), int(port))
        except SegstreamError:
            raise
        except (KafkaError, OSError) as why:  # TimeoutError is an OSError
            return _unreachable(settings, why)
    return _unreachable(settings, error)


def denial(settings: DeploymentSettings, error: BaseException, asked: str = "") -> KafkaDenied | None:
    """Return the refusal that an error of a client is, None for any other. `asked`: what was asked for, if known."""
    # aiokafka wraps what has ended a producer's task.
    for cause, kind in ((c, k) for c in causes(error) for k in _DENIED if isinstance(c, k)):
        names = cause.args[0] if cause.args else ()
        found = ", ".join(sorted(names)) if isinstance(names, (set, frozenset, list, tuple)) else str(names)
        name = f"{_DENIED[kind]} {found}" if found else asked or _DENIED[kind]
        return KafkaDenied(f"Kafka doesn't let {settings.kafka_user} use {name}.", hint=_ACLS)
    return None


def _unreachable(settings: DeploymentSettings, error: Exception) -> KafkaUnreachable:
    what, hint = _meaning(settings, error)
    return KafkaUnreachable(f"Kafka at {settings.kafka_bootstrap_servers}: {what.removesuffix('.')}.", hint=hint)


def _meaning(settings: DeploymentSettings, error: Exception) -> tuple[str, str]:
    protocol = settings.kafka_security_protocol
    if isinstance(error, SaslAuthenticationFailed):
        return f"it refuses {settings.kafka_user}", _credentials_hint(settings)
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"this listener doesn't accept SEGSTREAM_KAFKA_SASL_MECHANISM={settings.kafka_sasl_mechanism}", (
            "Set one of the listener's mechanisms: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER."
        )
    if isinstance(error, IllegalSaslStateError):
        without = "SSL" if protocol == "SASL_SSL" else "PLAINTEXT"
        return f"this listener uses no SASL, but SEGSTREAM_KAFKA_SECURITY_PROTOCOL is {protocol}", f"Set {without}."
    if protocol.endswith("SSL"):
        without = "SASL_PLAINTEXT" if protocol == "SASL_SSL" else "PLAINTEXT"
        why = why_tls_failed(
            error,
            settings.kafka_tls,
            address="SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS",
            plain=f"set SEGSTREAM_KAFKA_SECURITY_PROTOCOL={without}",
        )
        if why:
            return why
    if isinstance(error, (KafkaConnectionError, ConnectionResetError)):
        # The port is open, but whoever listens hung up in the middle of the greeting.
        return f"it closes the connection (SEGSTREAM_KAFKA_SECURITY_PROTOCOL is {protocol})", (
            "Set the protocol of this listener: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
        )
    what = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return what, (
        "Check SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS, and that the brokers run (`segstream local up` starts one)."
    )


def _credentials_hint(settings: DeploymentSettings) -> str:
    if settings.kafka_sasl_mechanism == "OAUTHBEARER":
        return "The token may have expired, or be of another issuer or audience than the broker expects."
    return (
        "Check SEGSTREAM_KAFKA_SASL_USERNAME and SEGSTREAM_KAFKA_SASL_PASSWORD, and that the user exists for "
        f"{settings.kafka_sasl_mechanism} (SEGSTREAM_KAFKA_SASL_MECHANISM)."
    )
