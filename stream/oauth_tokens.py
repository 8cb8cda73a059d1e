"""OAuth tokens for Kafka, from a file or a command: read anew as connections are made, because tokens expire."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Final

from aiokafka.abc import AbstractTokenProvider

from stream.errors import SettingsError

FILE: Final = "SEGSTREAM_KAFKA_SASL_OAUTH_TOKEN_FILE"
COMMAND: Final = "SEGSTREAM_KAFKA_SASL_OAUTH_TOKEN_COMMAND"
REUSE_S: Final = 30.0  # a worker makes dozens of connections when it takes its shards over
COMMAND_TIMEOUT_S: Final = 10.0


class TokenUnavailable(SettingsError, OSError):
    """There is no token now. aiokafka treats it as any connection that fails: it tries again."""


class FileToken(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka ships no types
    """Reads the token from a file for each connection."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        """Return the token. Raises TokenUnavailable."""
        try:
            text = self._path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            what = error.strerror if isinstance(error, OSError) else "it isn't text"
            raise TokenUnavailable(
                f"{FILE}={str(self._path)!r} can't be read: {what}.", hint="Give a file that holds a token."
            ) from None
        return _checked(text, f"{FILE}={str(self._path)!r}")


class CommandToken(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka ships no types
    """Runs a command that prints the token, at most every REUSE_S. Its text may hold a secret: it is never shown."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._lock = threading.Lock()  # Faust's consumer has a thread and an event loop of its own
        self._token = ""
        self._run_s = float("-inf")

    async def token(self) -> str:
        """Return the token. Raises TokenUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(None, self._fresh)

    def _fresh(self) -> str:
        with self._lock:
            if time.monotonic() - self._run_s > REUSE_S:
                self._token = _checked(self._printed(), f"the output of {COMMAND}")
                self._run_s = time.monotonic()
            return self._token

    def _printed(self) -> str:
        hint = "Run it by hand as this user; it must print a token and nothing else."
        try:
            done = subprocess.run(  # noqa: S603  # the operator's own command, without a shell
                shlex.split(self._command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                timeout=COMMAND_TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise TokenUnavailable(f"{COMMAND} didn't end within {COMMAND_TIMEOUT_S:.0f} s.", hint=hint) from None
        except (OSError, ValueError) as error:  # ValueError: an open quotation mark
            what = error.strerror if isinstance(error, OSError) else str(error)
            raise TokenUnavailable(f"{COMMAND} can't be run: {what}.", hint=hint) from None
        if done.returncode:
            raise TokenUnavailable(f"{COMMAND} ended with exit code {done.returncode}.", hint=hint)
        return done.stdout.decode("utf-8", "replace").strip()


def _checked(token: str, source: str) -> str:
    """Return the token. Raises TokenUnavailable where it could be none: nothing else of a wrong file may be sent."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise TokenUnavailable(
            f"{source} isn't a token: expected one line of printable characters.", hint="Give the token alone."
        )
    return token


@lru_cache(maxsize=16)
def command_token(command: str) -> CommandToken:
    """Return the provider of a command's tokens: all connections of this process share it."""
    return CommandToken(command)
