"""A page of Markdown: long lines wrapped, and one part of it replaced."""

from __future__ import annotations

import re
import textwrap
from typing import Final

WIDTH: Final = 120
BEGIN, END = "<!-- begin run -->", "<!-- end run -->"
_ITEM: Final = re.compile(r"(\s*)([-*]|\d+\.) +")
_CODE: Final = re.compile(r"`[^`\n]+`")
_SPACE: Final = "\0"  # in place of a space that must stay in its line


def with_run(page: str, run: str) -> str:
    """Return a page whose part between the two markers is `run`, wrapped. Raises ValueError if a marker is missing.

    >>> with_run("# Title\\n\\n<!-- begin run -->\\nold\\n<!-- end run -->\\n\\nmore\\n", "new\\n")
    '# Title\\n\\n<!-- begin run -->\\n\\nnew\\n\\n<!-- end run -->\\n\\nmore\\n'
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"expected {BEGIN} and {END} once in the page: put them around the results of the run")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{wrapped(run).strip()}\n\n{END}{rest.split(END)[1]}"


def wrapped(page: str) -> str:
    """Return a page whose paragraphs and items of lists with a line over 120 characters are wrapped anew.

    Tables, headings, quotes and blocks of code stay as they are, and no code type is torn.

    >>> max(map(len, wrapped("- " + "word " * 60).splitlines())) <= WIDTH
    True
    """
    lines: list[str] = []
    block: list[str] = []
    fenced = False
    for line in [*page.split("\n"), ""]:
        fence = line.lstrip().startswith("```")
        plain = bool(line.strip()) and not fence and not fenced and not re.match(r"\s*(\||#|>|<|!\[)|    ", line)
        if block and (not plain or _ITEM.match(line)):
            lines += _block(block)
            block = []
        if plain:
            block.append(line)
        else:
            lines.append(line)
        fenced ^= fence
    return "\n".join(lines[:-1])


def _block(block: list[str]) -> list[str]:
    """Return one paragraph or item, wrapped if it has a long line."""
    if all(len(line) <= WIDTH for line in block):
        return block
    item = _ITEM.match(block[0])
    first = item[0] if item else re.match(r"\s*", block[0])[0]  # type: ignore[index]  # \s* always matches
    rest = " " * len(first)
    text = " ".join(line.strip() for line in block)[len(first.lstrip()) :]
    text = _CODE.sub(lambda code: code[0].replace(" ", _SPACE), text)
    # A line that began with one of these would be an item of a list, or a heading.
    text = re.sub(r" ([-+*#]|\d+\.) ", f"{_SPACE}\\1 ", text)
    filled = textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(_SPACE, " ") for line in filled]
