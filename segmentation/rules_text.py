"""A file of YAML as plain values with their lines, and what pydantic finds wrong in it, in words that name the line."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

TreePath = tuple[str | int, ...]
_MOST_SHOWN: Final = 20  # findings in the text of an error, which also goes into the log and /health
_SHOWN: Final = 64  # characters of a refused value that a message repeats
_TAG: Final = "tag:yaml.org,2002:"
_NULL: Final = f"{_TAG}null"
_TAGS: Final = {f"{_TAG}{name}" for name in ("str", "seq", "map", "null")}
_VALUES: Final = {f"{_TAG}{name}" for name in ("int", "float", "bool", "timestamp")}
KEY: Final = "?"  # stands for a key itself in a path
# What people get wrong most often, by a part of the parser's own words, which name a symptom and no remedy.
_REMEDIES: Final = {
    r"'\t' that cannot start": "indent with spaces, not with tabs",
    "expected alphabetic or numeric character": 'put text with * or & in quotes, like "*"',
    "mapping values are not allowed": "put text with a colon in quotes, and indent the fields of one rule alike",
    "or '}', but got": "close what { opens, and put text with a comma, colon or bracket in quotes",
    "or ']', but got": "close what [ opens, and put text with a comma, colon or bracket in quotes",
    "that cannot start any token": "put text that begins with this character in quotes",
    "unexpected end of stream": "close the quotes of the text that begins there or above",
    "<block mapping start>": "indent the fields of one rule alike",
    "<block sequence start>": "indent the fields of one rule alike",
    "<block end>, but found '<scalar>'": "put the whole text in quotes",
    "could not find expected ':'": "write a colon and a space after the name of the field",
}


class RulesError(ValueError):
    """A rule table that can't be used. Each finding names line, rule and field, and what is accepted there."""

    def __init__(self, *findings: str) -> None:
        """Take the findings, in the order of the file."""
        more = f"; and {len(findings) - _MOST_SHOWN} more" if len(findings) > _MOST_SHOWN else ""
        super().__init__("; ".join(findings[:_MOST_SHOWN]) + more)
        self.findings = findings


class RulesTree(NamedTuple):
    """The content of a file as text, None, lists and dicts, with the line of each path."""

    content: dict[str, Any]
    lines: dict[TreePath, int]

    def line_of(self, path: TreePath) -> int:
        """Return the line of a path, or of the nearest part above it that stands in the file."""
        return next((self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines), 1)

    def place(self, path: TreePath) -> str:
        """Return line, rule and field of a path, as messages begin; without the line where none is known.

        >>> RulesTree({"rules": [{"name": "vip"}]}, {("rules", 0): 2}).place(("rules", 0, "when", "to", 1))
        "line 2, rule 1 ('vip'), when.to[1]"
        """
        return ", ".join([*([f"line {self.line_of(path)}"] if self.lines else []), *self._names(path)])

    def _names(self, path: TreePath) -> Iterator[str]:
        if len(path) > 1 and path[0] == "rules" and isinstance(path[1], int):
            rule = self.content["rules"][path[1]]
            name = rule.get("name") if isinstance(rule, dict) else None
            yield f"rule {path[1] + 1} ({name!r})" if isinstance(name, str) else f"rule {path[1] + 1}"
            path = path[2:]
        if path:
            yield "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def read_tree(text: str, untyped: Callable[[TreePath], bool]) -> RulesTree:
    """Read YAML. `untyped`: whether a scalar that YAML takes for something else may stand at a path. Raises RulesError.

    YAML's own reading would let the last of two equal keys win, and take `no` for false. Everything here is text,
    numbers and dates too: so they are exact.
    """
    lines: dict[TreePath, int] = {}
    try:
        content = _plain(yaml.compose(text, Loader=yaml.SafeLoader), (), lines, set(), untyped)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise RulesError(
            f"line {mark.line + 1 if mark else 1}: not YAML: {_with_remedy(error.problem or '')}"
        ) from None
    except yaml.YAMLError as error:
        raise RulesError(f"not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RulesError("nested too deeply to be a rule table") from None
    if not isinstance(content, dict):
        raise RulesError("line 1: expected `rules:` and a list of rules below it")
    return RulesTree(content, lines)


def _with_remedy(problem: str) -> str:
    """Return what YAML's parser says, and what to do where that is known.

    >>> _with_remedy("expected <block end>, but found '<block mapping start>'")
    "expected <block end>, but found '<block mapping start>': indent the fields of one rule alike"
    """
    return ": ".join([problem, *[remedy for part, remedy in _REMEDIES.items() if part in problem][:1]])


def _plain(
    node: Any, path: TreePath, lines: dict[TreePath, int], seen: set[int], untyped: Callable[[TreePath], bool]
) -> Any:
    """Turn a YAML node into text, None, lists and dicts, and note the line of each path."""
    if node is None:
        return None
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if id(node) in seen:
        raise RulesError(f"line {line}: an alias (*name) leads here: write the value out")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode) and node.tag in _TAGS:
        return [_plain(item, (*path, index), lines, seen, untyped) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode) and node.tag in _TAGS:
        content: dict[str, Any] = {}
        for key_node, value in node.value:
            key = _plain(key_node, (*path, KEY), lines, seen, untyped)
            at = key_node.start_mark.line + 1
            if not isinstance(key, str) or key in content:
                raise RulesError(
                    f"line {at}: the key {key!r} {'stands there twice' if isinstance(key, str) else 'is not text'}"
                )
            lines[*path, key] = at
            content[key] = _plain(value, (*path, key), lines, seen, untyped)
        return content
    if node.tag not in _TAGS and not (node.tag in _VALUES and isinstance(node, yaml.ScalarNode) and untyped(path)):
        shown = repr(node.value[:_SHOWN]) if isinstance(node, yaml.ScalarNode) else "this"
        raise RulesError(
            f"line {line}: YAML reads {shown} as {node.tag.removeprefix(_TAG)}, expected text: put it in quotes"
        )
    return None if node.tag == _NULL else node.value


def nothing_there(tree: RulesTree, allowed: Callable[[TreePath], bool]) -> list[str]:
    """Return a finding for each key without a value: it looks like a setting, and sets nothing."""

    def empty(value: Any, path: TreePath) -> Iterator[TreePath]:
        if value is None and not allowed(path):
            yield path
        below: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, dict):
            below = value.items()
        elif isinstance(value, list):
            below = enumerate(value)
        for key, part in below:
            yield from empty(part, (*path, key))

    def remedy(name: str | int) -> str:
        glued = isinstance(name, str) and ":" in name
        return "put a space after the colon" if glued else "write a value, or take the line out"

    return [f"{tree.place(path)}: nothing stands there: {remedy(path[-1])}" for path in empty(tree.content, ())]


def explain(
    error: ValidationError, tree: RulesTree, model: type[BaseModel], shown: Callable[[TreePath], TreePath]
) -> list[str]:
    """Return pydantic's findings by line, each with its place, the value found, and the values accepted.

    `model`: that of the whole file. `shown`: where in the file the field of a path stands.
    """
    found: list[tuple[int, str]] = []
    for finding in error.errors(include_url=False):
        if finding["type"] == "too_short" and finding["input"]:
            continue  # pydantic counts the items that are right, and those that aren't are found one by one
        loc = _cleaned(finding["loc"])
        at = shown(loc)
        found.append((tree.line_of(at), f"{tree.place(at)}: {_wrong(finding, loc, model)}"))
    return [text for _, text in sorted(found, key=lambda one: one[0])]


def _cleaned(loc: TreePath) -> TreePath:
    """Return a path without the names that pydantic gives the branches of a union."""
    return tuple(part for part in loc if not (isinstance(part, str) and part.startswith(BRANCH)))


BRANCH: Final = "branch:"  # how the tag of a union's branch begins


def _owner_and_type(model: type[BaseModel], loc: TreePath) -> tuple[type[BaseModel], Any]:
    """Return the innermost model above a path, and the type that stands at it."""
    owner: type[BaseModel] = model
    here: Any = model
    for part in loc:
        if isinstance(here, type) and issubclass(here, BaseModel):
            owner = here
            fields = (field.annotation for name, field in here.model_fields.items() if part in (name, field.alias))
            here = _bare(next(fields, None))
        else:
            arguments = get_args(here)
            here = _bare(arguments[get_origin(here) is dict] if arguments else None)
    return owner, here


def _bare(annotation: Any) -> Any:
    """Return a type without what may stand in its place: the model of a union, the list of a choice."""
    while get_origin(annotation) in (Annotated, Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        annotation = parts[0]
    return annotation


def _wrong(finding: Any, loc: TreePath, model: type[BaseModel]) -> str:
    """Describe the value found and the values accepted, in our words instead of pydantic's. `loc`: where it is."""
    owner, here = _owner_and_type(model, loc)
    fields = {field.alias or name: field.is_required() for name, field in owner.model_fields.items()}
    if finding["type"] == "missing":
        return f"missing, expected {', '.join(name for name, required in fields.items() if required)}"
    if finding["type"] == "extra_forbidden":
        return _unknown(str(loc[-1]), owner, list(fields))
    got = "[]" if finding["input"] == () else repr(finding["input"])[:_SHOWN]
    context = finding.get("ctx", {})
    accepted = {
        "model_type": f"a mapping with {', '.join(_names(here))}",
        "too_short": "at least one",
        "too_long": f"at most {context.get('max_length')}",
        "tuple_type": "a list in brackets",
        "dict_type": "a mapping",
        "string_too_short": "at least one character",
        "string_too_long": f"at most {context.get('max_length')} characters",
        "string_type": "text",
        "string_unicode": "text in Unicode",
        "literal_error": str(context.get("expected", "")).replace("'", ""),
    }
    if finding["type"] in accepted:
        return f"{got}, expected {accepted[finding['type']]}"
    message: str = finding["msg"].removeprefix("Value error, ")
    # Of a whole mapping the message names what counts; its dump would hide it.
    return message if isinstance(finding["input"], dict) else f"{got}, {message}"


def _names(here: Any) -> list[str]:
    is_model = isinstance(here, type) and issubclass(here, BaseModel)
    return [field.alias or name for name, field in here.model_fields.items()] if is_model else []


def _unknown(name: str, owner: type[BaseModel], fields: list[str]) -> str:
    """Describe a field that isn't one, and where it belongs if it is one elsewhere."""
    inside = [
        field.alias or own for own, field in owner.model_fields.items() if name in _names(_bare(field.annotation))
    ]
    if inside:
        return f"unknown here, it belongs under `{inside[0]}`"
    near = get_close_matches(name, fields, 1)
    guess = f": did you mean {near[0]}?" if near else ""
    return f"unknown, expected one of {', '.join(fields)}{guess}"
