"""How every process of a deployment reaches Kafka and Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from stream.errors import SettingsError
from stream.settings_sources import SourcedSettings
from stream.tls import TlsFiles


class ConnectionSettings(SourcedSettings):
    """The addresses of Kafka and Redis, and what their servers ask of a client."""

    # Kafka.
    kafka_bootstrap_servers: str = Field("127.0.0.1:9092", description="Kafka brokers: host:port, comma-separated")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="protocol of the connections to Kafka"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        "PLAIN", description="SASL mechanism; used with the SASL protocols only"
    )
    kafka_sasl_username: str | None = Field(None, description="SASL user name")
    kafka_sasl_password: SecretStr | None = Field(None, description="SASL password")
    kafka_sasl_oauth_token_file: Path | None = Field(
        None, description="file with the OAuth token (OAUTHBEARER); read again for each connection"
    )
    kafka_sasl_oauth_token_command: SecretStr | None = Field(
        None, description="command that prints the OAuth token (OAUTHBEARER); its output is used for 30 seconds"
    )
    kafka_ssl_cafile: Path | None = Field(
        None,
        description="file of CA certificates (PEM) that Kafka's certificate is checked with; default: the system's",
    )
    kafka_ssl_certfile: Path | None = Field(
        None, description="certificate (PEM) that Kafka is shown; default: none is shown"
    )
    kafka_ssl_keyfile: Path | None = Field(
        None, description="private key (PEM) of SEGSTREAM_KAFKA_SSL_CERTFILE; default: it is in the same file"
    )
    kafka_ssl_key_password: SecretStr | None = Field(None, description="password of that key; default: it has none")

    # Redis.
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="URL of Redis or Valkey, with user and password if it needs them; rediss:// for TLS",
    )
    redis_ssl_cafile: Path | None = Field(
        None,
        description="file of CA certificates (PEM) that Redis's certificate is checked with; default: the system's",
    )
    redis_ssl_certfile: Path | None = Field(
        None, description="certificate (PEM) that Redis is shown; default: none is shown"
    )
    redis_ssl_keyfile: Path | None = Field(
        None, description="private key (PEM) of SEGSTREAM_REDIS_SSL_CERTFILE; default: it is in the same file"
    )
    redis_ssl_key_password: SecretStr | None = Field(None, description="password of that key; default: it has none")
    redis_sentinels: str | None = Field(
        None,
        description="Sentinels that know the primary: host:port, comma-separated. The host and port of "
        "SEGSTREAM_REDIS_URL aren't used then",
    )
    redis_sentinel_master: str | None = Field(None, description="name by which the Sentinels know the primary")
    redis_sentinel_username: str | None = Field(None, description="user of the Sentinels themselves")
    redis_sentinel_password: SecretStr | None = Field(None, description="password of the Sentinels themselves")
    redis_timeout_s: float = Field(10.0, gt=0, description="seconds after which a call to Redis fails")

    @field_validator("kafka_bootstrap_servers", "redis_sentinels")
    @classmethod
    def _has_ports(cls, value: str | None) -> str | None:
        for server in [] if value is None else value.split(","):
            host, _, port = server.strip().rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"{server!r} is not host:port")
        return value

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings once. Raises SettingsError, also where one of the connection's needs another one."""
        settings = super().load(**overrides)
        settings.check_connections()
        return settings

    def check_connections(self) -> None:
        """Raise SettingsError where a setting needs another one. No file is read."""
        self._check_sasl()
        self.kafka_tls.check()
        self._check_redis()

    @property
    def kafka_tls(self) -> TlsFiles:
        """The files for TLS to Kafka."""
        return TlsFiles(
            "SEGSTREAM_KAFKA_SSL_", self.kafka_ssl_cafile, self.kafka_ssl_certfile, self.kafka_ssl_keyfile,
            self.kafka_ssl_key_password,
        )  # fmt: skip

    @property
    def redis_tls(self) -> TlsFiles:
        """The files for TLS to Redis and its Sentinels."""
        return TlsFiles(
            "SEGSTREAM_REDIS_SSL_", self.redis_ssl_cafile, self.redis_ssl_certfile, self.redis_ssl_keyfile,
            self.redis_ssl_key_password,
        )  # fmt: skip

    @property
    def kafka_user(self) -> str:
        """The user that Kafka sees, with the setting that makes it so: for error messages."""
        if self.kafka_security_protocol.startswith("SASL"):
            if self.kafka_sasl_mechanism != "OAUTHBEARER":
                return f"user {self.kafka_sasl_username!r} (SEGSTREAM_KAFKA_SASL_USERNAME)"
            source = "FILE" if self.kafka_sasl_oauth_token_file else "COMMAND"
            return f"the user of the token (SEGSTREAM_KAFKA_SASL_OAUTH_TOKEN_{source})"
        if self.kafka_security_protocol == "SSL" and self.kafka_ssl_certfile:
            return f"the certificate {self.kafka_ssl_certfile} (SEGSTREAM_KAFKA_SSL_CERTFILE)"
        return f"the anonymous user (SEGSTREAM_KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol})"

    def kafka_client(self) -> dict[str, Any]:
        """Return the arguments that every aiokafka client of this deployment needs. Raises SettingsError."""
        self._check_sasl()
        arguments: dict[str, Any] = {
            "bootstrap_servers": [s.strip() for s in self.kafka_bootstrap_servers.split(",")],
            "security_protocol": self.kafka_security_protocol,
        }
        if self.kafka_security_protocol.endswith("SSL"):
            arguments["ssl_context"] = self.kafka_tls.context()
        if self.kafka_security_protocol.startswith("SASL"):
            arguments["sasl_mechanism"] = self.kafka_sasl_mechanism
            if self.kafka_sasl_mechanism == "OAUTHBEARER":
                arguments["sasl_oauth_token_provider"] = self._token_provider()
            else:
                password = self.kafka_sasl_password
                arguments["sasl_plain_username"] = self.kafka_sasl_username
                arguments["sasl_plain_password"] = password.get_secret_value() if password else None
        return arguments

    @property
    def _token_sources(self) -> tuple[Path | None, SecretStr | None]:
        return self.kafka_sasl_oauth_token_file, self.kafka_sasl_oauth_token_command

    def _token_provider(self) -> Any:
        from stream.oauth_tokens import FileToken, command_token

        if self.kafka_sasl_oauth_token_file is not None:
            return FileToken(self.kafka_sasl_oauth_token_file)
        assert self.kafka_sasl_oauth_token_command is not None, "checked by _check_sasl"
        return command_token(self.kafka_sasl_oauth_token_command.get_secret_value())

    def _check_sasl(self) -> None:
        protocol, mechanism = self.kafka_security_protocol, self.kafka_sasl_mechanism
        if not protocol.startswith("SASL"):
            return
        if mechanism == "OAUTHBEARER":
            if sum(source is not None for source in self._token_sources) != 1:
                raise SettingsError(
                    "SEGSTREAM_KAFKA_SASL_MECHANISM=OAUTHBEARER needs one source of tokens.",
                    hint="Set SEGSTREAM_KAFKA_SASL_OAUTH_TOKEN_FILE, or SEGSTREAM_KAFKA_SASL_OAUTH_TOKEN_COMMAND.",
                )
        else:
            for name in ("username", "password"):
                if not getattr(self, f"kafka_sasl_{name}"):
                    raise SettingsError(
                        f"SEGSTREAM_KAFKA_SECURITY_PROTOCOL={protocol} with {mechanism} needs a {name}.",
                        hint=f"Set SEGSTREAM_KAFKA_SASL_{name.upper()}.",
                    )

    def _check_redis(self) -> None:
        self.redis_tls.check()
        scheme = urlsplit(self.redis_url.get_secret_value()).scheme
        if scheme == "redis" and (self.redis_ssl_cafile or self.redis_ssl_certfile):
            raise SettingsError(
                "SEGSTREAM_REDIS_SSL_… is set, but SEGSTREAM_REDIS_URL begins with redis://, without TLS.",
                hint="Write rediss:// for TLS.",
            )
        if self.redis_sentinels and not self.redis_sentinel_master:
            raise SettingsError(
                "SEGSTREAM_REDIS_SENTINELS needs the name of the primary.", hint="Set SEGSTREAM_REDIS_SENTINEL_MASTER."
            )
        if self.redis_sentinel_master and not self.redis_sentinels:
            raise SettingsError(
                "SEGSTREAM_REDIS_SENTINEL_MASTER is set without Sentinels.", hint="Set SEGSTREAM_REDIS_SENTINELS."
            )
