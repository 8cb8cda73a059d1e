"""Text on stdout and stderr: no character of an id, a name or a message can steer the terminal that shows it."""

from __future__ import annotations

from typing import Final
from unicodedata import category

import typer

_SPACE: Final = "Zs"  # no-break and thin spaces, which aren't "printable"


def harmless(text: str) -> str:
    r"""Return text as one line in which control characters, line ends, and what reorders or hides text are escapes.

    They are escaped as in JSON, so JSON stays the same value. Letters of every script and every width of space stay.

    >>> harmless("Zoë" + chr(27) + "[2J" + chr(10) + chr(0x202E) + chr(0xE0041))
    'Zoë\\u001b[2J\\u000a\\u202e\\udb40\\udc41'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or category(c) == _SPACE else _escape(c) for c in text)


def harmless_lines(text: str) -> str:
    r"""Return text in which each line is as by `harmless`.

    >>> harmless_lines("a" + chr(7) + chr(10) + "b")
    'a\\u0007\nb'
    """
    return "\n".join(harmless(line) for line in text.split("\n"))


def echo(line: str | bytes = "", *, err: bool = False) -> None:
    """Write a line, on stderr if `err`."""
    text = line.decode() if isinstance(line, bytes) else line
    typer.echo(harmless(text), err=err)  # noqa: TID251  # the one place


def echo_lines(text: str | bytes, *, err: bool = False) -> None:
    """Write a text of several lines; a line end at its end isn't doubled."""
    decoded = text.decode() if isinstance(text, bytes) else text
    typer.echo(harmless_lines(decoded.removesuffix("\n")), err=err)  # noqa: TID251


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
