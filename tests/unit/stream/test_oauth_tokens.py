"""Tokens from a file and from a command."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from stream.oauth_tokens import CommandToken, FileToken, TokenUnavailable, command_token


async def test_a_file_is_read_again_for_each_connection(tmp_path: Path) -> None:
    path = tmp_path / "token"
    provider = FileToken(path)
    for content in ("first", "second\n"):
        path.write_text(content)
        assert await provider.token() == content.strip()


@pytest.mark.parametrize("content", [b"", b"two words", b"two\nlines", b"\xff", "\u00e9".encode()])
async def test_a_file_that_holds_no_token_isn_t_sent(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(TokenUnavailable, match="SEGSTREAM_KAFKA_SASL_OAUTH_TOKEN_FILE"):
        await FileToken(path).token()


async def test_a_command_s_output_is_used_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = tmp_path / "count"
    script = f"open({str(count)!r}, 'a').write('x'); print('token-%d' % len(open({str(count)!r}).read()))"
    provider = CommandToken(shlex.join([sys.executable, "-c", script]))
    assert [await provider.token() for _ in range(3)] == ["token-1"] * 3
    monkeypatch.setattr("stream.oauth_tokens.REUSE_S", -1.0)
    assert await provider.token() == "token-2"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("false", "exit code 1"),
        ("/nowhere/at/all", "can't be run: No such file"),
        ("echo 'secret", "can't be run: No closing quotation"),
        ("true", "isn't a token"),
    ],
)
async def test_a_command_that_gives_no_token(command: str, words: str) -> None:
    with pytest.raises(TokenUnavailable, match="SEGSTREAM_KAFKA_SASL_OAUTH_TOKEN_COMMAND") as caught:
        await CommandToken(command).token()
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_a_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.oauth_tokens.COMMAND_TIMEOUT_S", 0.05)
    with pytest.raises(TokenUnavailable, match="didn't end"):
        await CommandToken("sleep 60").token()


def test_all_clients_of_a_process_share_a_command_s_tokens() -> None:
    assert command_token("a") is command_token("a")
    assert isinstance(TokenUnavailable("x"), OSError), "aiokafka tries again after an OSError"
