"""A rule table of version 1 as text of version 2."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Final, NamedTuple

import yaml

from segmentation.campaign_rules import parse_rules, read_rules_tree
from segmentation.rules_former import is_former, translated

_WIDTH: Final = 110
_BOUNDS: Final = ("at_least", "at_most")


class ConvertedRules(NamedTuple):
    """The text of a table in version 2. `lost`: how many lines of comments stood within rules, and aren't in it."""

    text: str
    lost: int


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


class _BlockDumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002  # the library's
        """Indent the items of lists too."""
        super().increase_indent(flow, indentless=False)


def _plain_number(dumper: _BlockDumper, number: _Number) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:float" if "." in number else "tag:yaml.org,2002:int", number)


_BlockDumper.add_representer(_Number, _plain_number)


def converted(text: str) -> ConvertedRules | None:
    r"""Return the text of a table of version 1 in version 2; None: it is of version 2 already. Raises RulesError.

    Comments before the rules stay.

    >>> print(converted("rules:\n- {name: a, to: [Lost], action: Call, channel: phone, cooldown_days: 7}").text)
    version: 2
    rules:
      - name: a
        when:
          to: [Lost]
        then: {action: Call, channel: phone}
        cooldown: 7d
    <BLANKLINE>
    """
    tree = read_rules_tree(text)
    if not is_former(tree):
        return None
    parse_rules(text)
    lines = text.splitlines()
    starts = [tree.lines["rules", number] - 1 for number in range(len(tree.content["rules"]))]
    parts = [_comments(lines, tree.lines["rules",] - 1), ["version: 2", "rules:"]]
    for number, (start, rule) in enumerate(zip(starts, translated(tree)["rules"], strict=True)):
        about = [f"  {line.strip()}".rstrip() for line in _comments(lines, start)]
        dumped = yaml.dump(
            [_numbered(rule)],
            Dumper=_BlockDumper,
            default_flow_style=None,
            sort_keys=False,
            allow_unicode=True,
            width=_WIDTH,
        )
        body = [f"  {line}" for line in dumped.splitlines()]
        parts.append([*([""] if number else []), *about, *body])
    found = [line for part in parts for line in part]
    return ConvertedRules("\n".join(found) + "\n", _count(lines) - _count(found))


def _comments(lines: Sequence[str], before: int) -> list[str]:
    """Return the lines of comments that end before a line, without the empty ones around them."""
    above = list(takewhile(lambda line: not line.strip() or _is_comment(line), reversed(lines[:before])))[::-1]
    while above and not above[0].strip():
        above.pop(0)
    while above and not above[-1].strip():
        above.pop()
    return above


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _count(lines: Sequence[str]) -> int:
    return sum(map(_is_comment, lines))


def _numbered(value: Any, key: str = "") -> Any:
    """Return a value with the numbers of bounds marked, which else would come in quotes."""
    if isinstance(value, dict):
        return {name: _numbered(below, name) for name, below in value.items()}
    if isinstance(value, list):
        return [_numbered(item) for item in value]
    return _Number(value) if key in _BOUNDS else value
