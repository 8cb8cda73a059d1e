"""The words and sentences of code and docs that no linter checks. Each failure lists its places."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.paths import ROOT
from tests.support.repository import FOLDERS, listed, sources, texts

if TYPE_CHECKING:
    from collections.abc import Iterator

# Words that meant several things, and the field's own words for them.
INSTEAD: Final = {
    "told": "published, reported or logged",
    "untold": "unpublished",
    "tell": "report, publish or log",
    "tells": "reports, publishes or logs",
    "telling": "reporting, publishing or logging",
    "guardian": "watchdog",
    "way_back": "routing or rollback",
    "crowd": "customers",
    "crowds": "customers",
    "lesson": "training result",
    "lessons": "training results",
    "taught": "trained",
    "christen": "name",
    "christened": "named",
    "lane": "queue",
    "lanes": "queues",
    "wish": "request",
    "wishes": "requests",
    "wished": "requested",
    "mend": "fix",
    "mended": "fixed",
}
_BANNED: Final = re.compile(rf"(?:^|_)({'|'.join(INSTEAD)})(?=_|$)")
# A sentence with "who" or "what" as its subject; a question is fine.
_STATEMENT: Final = re.compile(r"(?:Who|What|Whose|Whom|Whoever|Whatever)\b[^?]*?(?:[.:;!](?:\s|$)|$)")
_HEADING: Final = re.compile(r"^#{1,6} +(?:\d+(?:\.\d+)*\.? +)?(.+?)\s*$")
# Documents of the project's beginnings, which aren't in the repository.
_OUTSIDE: Final = re.compile(
    r"\bPROTOCOL(?:\.md|'s|\s+says)|\bHAZARDS\b|\bLAYOUT\.md"
    r"|\b(?:TIME|STATE|MODELS|PROTOCOL)(?:\.md\b|,?\s+(?:section\s+)?\d)"
)


def identifiers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield each name that a file binds or uses, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.alias(name=name, asname=alias):
                yield node.lineno, alias or name.rsplit(".", 1)[-1]
            case ast.MatchAs(name=str(name)) | ast.ExceptHandler(name=str(name)):
                yield node.lineno, name


def snake(name: str) -> str:
    """Return a name in snake_case: `_ShardLane` is `_shard_lane`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def test_identifiers_use_the_words_of_the_field() -> None:
    found: dict[tuple[str, str], str] = {}
    for file, tree in sources(*FOLDERS).items():
        for line, name in [(1, Path(file).stem), *identifiers(tree)]:
            if word := _BANNED.search(snake(name)):
                found.setdefault((file, name), f"{file}:{line}: {name} (say {INSTEAD[word[1]]})")
    assert not found, listed([*found.values()])


def prose(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield docstrings, help texts, hints and the headings of Markdown templates of a file, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node):
                yield node.body[0].lineno, text
        elif isinstance(node, ast.keyword) and node.arg in {"help", "short_help", "description", "epilog", "hint"}:
            parts = (part for part in ast.walk(node.value) if isinstance(part, ast.Constant))
            yield from ((part.lineno, part.value) for part in list(parts)[:1] if isinstance(part.value, str))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for number, line in enumerate(node.value.splitlines()):
                if heading := _HEADING.match(line):
                    yield node.lineno + number, heading[1]


def headings(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the headings of a Markdown file, with their lines."""
    fenced = False
    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and (heading := _HEADING.match(line)):
            yield number, heading[1]


def test_no_text_begins_with_who_or_what() -> None:
    found = []
    for file, tree in sources(*FOLDERS).items():
        found += [f"{file}:{line}: {text.splitlines()[0]}" for line, text in prose(tree) if _STATEMENT.match(text)]
    for file, lines in texts().items():
        if file.endswith(".md"):
            found += [f"{file}:{line}: {text}" for line, text in headings(lines) if _STATEMENT.match(text)]
    assert not found, listed(found)


@pytest.mark.parametrize(
    ("text", "is_statement"),
    [
        ("Who is in no segment moves at once.", True),
        ("What to be woken for", True),
        ("Whose data differs builds the event.", True),
        ("What is it for? It scores.", False),
        ("Whole hours.", False),
        ("Return what was read.", False),
    ],
)
def test_a_question_may_begin_with_who_or_what(text: str, *, is_statement: bool) -> None:
    assert bool(_STATEMENT.match(text)) is is_statement


def test_no_reference_leaves_the_repository() -> None:
    this = Path(__file__).relative_to(ROOT).as_posix()
    found = [
        f"{file}:{number}: {line.strip()}"
        for file, lines in texts().items()
        if file != this
        for number, line in enumerate(lines, start=1)
        if _OUTSIDE.search(line)
    ]
    assert not found, listed(found)
