"""No part of a password is in an error of Redis: neither from the URL nor from what the server quotes."""

from __future__ import annotations

import socket
import threading

import pytest
import redis
from pydantic import SecretStr

from stream.settings import Settings
from stream.storage.client import RedisUnreachable, redis_client, refusal
from trainer.errors import LockUnreachable
from trainer.lock import training_lock

SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:12/{SECRET}@127.0.0.1:1/0",
        f"redis://:12?{SECRET}@127.0.0.1:1/0",
        f"redis://user:12#{SECRET}@127.0.0.1:1/0",
        f"redis://{SECRET}:12/x@127.0.0.1:1/0",
        f"redis://:{SECRET}/x@127.0.0.1:1/0",
    ],
)
def test_a_password_that_ends_the_address_is_refused_and_not_shown(url: str) -> None:
    settings = Settings(redis_url=SecretStr(url))
    with pytest.raises(RedisUnreachable, match="percent-encoded") as raised, redis_client(settings):
        pass
    assert SECRET not in str(raised.value)
    assert "12" not in str(raised.value).replace("127.0.0.1", "")
    with pytest.raises(LockUnreachable) as lock, training_lock(settings):
        pass
    assert SECRET not in str(lock.value)
    assert "12" not in str(lock.value).replace("127.0.0.1", "")


def test_a_server_that_quotes_the_login_is_not_quoted() -> None:
    """As Redis 5 answers HELLO, which it doesn't know."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_quote, args=(server,), daemon=True).start()
        port = server.getsockname()[1]
        settings = Settings(redis_url=SecretStr(f"redis://me:{SECRET}@127.0.0.1:{port}/0"))
        with pytest.raises(RedisUnreachable, match="unknown command") as raised, redis_client(settings):
            pass
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "User worker has no permissions to run the 'hset' command script: abc",
            "the 'hset' command",
        ),
        ("This user has no permissions to run the 'zadd' command on {g:orders:0}:customers", "run the 'zadd' command."),
        ("Command # 1 (EVALSHA abc 5 k) of pipeline caused error: No permissions to access a key", "access a key."),
        ("EXEC without MULTI", "the 'multi' command"),
    ],
)
def test_what_an_acl_forbids_is_named_however_redis_puts_it(text: str, words: str) -> None:
    kind = redis.exceptions.NoPermissionError if "access a key" in text else redis.ResponseError
    refused = refusal(Settings(), kind(text))
    assert refused is not None
    assert words in str(refused)
    assert "SEGSTREAM_REDIS_URL" in str(refused)
    assert "EVALSHA" not in str(refused)


def _quote(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        asked = connection.recv(4096)
        assert SECRET.encode() in asked
        said = f"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `me`, `{SECRET}`\r\n"
        connection.sendall(said.encode())
        connection.recv(4096)
