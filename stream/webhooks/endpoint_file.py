"""The endpoints file: YAML to endpoints. Errors name the line, and never quote what may be a secret."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from stream.errors import SettingsError
from stream.webhooks.endpoints import BreakerOptions, Endpoint, EndpointTable, SecretSource, wrong_url

_Where = tuple[str | int, ...]
_SHOWN: Final = 64  # characters of a refused value that a message repeats
_SECRET: Final = frozenset({"secrets", "url"})  # somebody may write a secret into these
_FIELDS: Final[dict[str, type[BaseModel]]] = {"secrets": SecretSource, "breaker": BreakerOptions}


class EndpointsError(SettingsError):
    """An endpoints file that can't be used. Each finding names line, endpoint and field, in the order of the file."""

    def __init__(self, *findings: str, file: Path | None = None, hint: str = "") -> None:
        """Take the findings in a file; None: it isn't known, or they name it."""
        super().__init__(("" if file is None else f"{file}: ") + "; ".join(findings), hint=hint)
        self.findings = findings


def read_endpoints(path: Path) -> tuple[Endpoint, ...]:
    """Read an endpoints file. Raises EndpointsError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it isn't UTF-8"
        raise EndpointsError(
            f"the endpoints file {path} can't be read: {why}.",
            hint="Give --endpoints FILE or SEGSTREAM_ENDPOINTS_FILE.",
        ) from None
    try:
        return parse_endpoints(text)
    except EndpointsError as error:
        raise EndpointsError(*error.findings, file=path) from None


def parse_endpoints(text: str) -> tuple[Endpoint, ...]:
    """Read endpoints from YAML. Raises EndpointsError.

    >>> parse_endpoints("endpoints: [{name: crm, url: 'https://crm.example'}]")
    Traceback (most recent call last):
    stream.webhooks.endpoint_file.EndpointsError: line 1, endpoint 1 ('crm'), secrets: missing
    """
    lines: dict[_Where, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = _plain(node, (), lines, set()) if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise EndpointsError(f"line {mark.line + 1 if mark else 1}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError):
        raise EndpointsError("not YAML: it holds characters that YAML doesn't allow, or is nested too deeply") from None
    if not isinstance(content, dict):
        raise EndpointsError("line 1: expected `endpoints:` and a list of endpoints below it")
    try:
        return EndpointTable.model_validate(content).endpoints
    except ValidationError as error:
        raise EndpointsError(*_findings(error, content, lines)) from None


def _plain(node: Any, path: _Where, lines: dict[_Where, int], seen: set[int]) -> Any:
    """Return a node's value, and note the line of each path. A key that stands there twice is an error, an alias too.

    YAML's own reading would let the last of two equal keys win.
    """
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if id(node) in seen:
        raise EndpointsError(f"line {line}: an alias (*name) leads here: write the value out")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), lines, seen) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        content: dict[str, Any] = {}
        for key_node, value in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
            at = key_node.start_mark.line + 1
            if not key or key in content:
                raise EndpointsError(f"line {at}: the key {key!r} {'stands there twice' if key else 'is not text'}")
            lines[*path, key] = at
            content[key] = _plain(value, (*path, key), lines, seen)
        return content
    # Numbers, true and false are themselves; all else is text, `no` and dates too.
    kind = node.tag.rpartition(":")[2]
    if kind in {"int", "float", "null"} or (kind == "bool" and node.value.lower() in {"true", "false"}):
        return yaml.SafeLoader("").construct_object(node)
    return node.value


def _findings(error: ValidationError, content: dict[str, Any], lines: dict[_Where, int]) -> list[str]:
    """Return all findings, in the order of their lines."""
    found = [*_of_fields(error), *_of_urls_and_names(content)]
    placed = []
    for path, wrong in found:
        line = next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), 1)
        placed.append((line, f"{', '.join([f'line {line}', *_names(path, content)])}: {wrong}"))
    return [text for _, text in sorted(placed, key=lambda one: one[0])]


def _of_fields(error: ValidationError) -> Iterator[tuple[_Where, str]]:
    for finding in error.errors(include_url=False):
        path: _Where = finding["loc"]
        if finding["type"] == "value_error" and len(path) < 3:
            continue  # of a URL or a name: `_of_urls_and_names` finds it also beside others, with its own line
        if finding["type"] == "too_short" and finding["input"]:
            continue  # pydantic counts the items that are right, and those that aren't are found one by one
        yield path, _wrong(finding, path)


def _of_urls_and_names(content: dict[str, Any]) -> Iterator[tuple[_Where, str]]:
    """Yield what several fields together make wrong. Pydantic looks at that only where each of them is right."""
    found = content.get("endpoints")
    first: dict[str, int] = {}
    for index, endpoint in enumerate(found if isinstance(found, list) else []):
        if not isinstance(endpoint, dict):
            continue
        url, name = endpoint.get("url"), endpoint.get("name")
        # An `allow_http` that is neither true nor false is a finding itself.
        allow_http = endpoint.get("allow_http", False) is not False
        if isinstance(url, str) and (wrong := wrong_url(url, allow_http=allow_http)):
            yield ("endpoints", index, "url"), wrong
        if isinstance(name, str) and (before := first.setdefault(name, index)) < index:
            yield ("endpoints", index, "name"), f"{name!r:.{_SHOWN}} is the name of endpoint {before + 1} too"


def _names(path: _Where, content: dict[str, Any]) -> Iterator[str]:
    """Yield the endpoint and the field that a path leads to."""
    if len(path) > 1 and isinstance(path[1], int):
        endpoint = content["endpoints"][path[1]]
        name = endpoint.get("name") if isinstance(endpoint, dict) else None
        yield f"endpoint {path[1] + 1} ({name!r})" if isinstance(name, str) else f"endpoint {path[1] + 1}"
        path = path[2:]
    if path:
        yield "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _wrong(finding: Any, path: _Where) -> str:
    """Describe the value found and the values accepted, in our words instead of pydantic's."""
    field = path[2] if len(path) > 2 else None
    model: type[BaseModel] = (
        _FIELDS.get(str(field), Endpoint) if len(path) > 3 else Endpoint if len(path) > 1 else EndpointTable
    )
    kind, context, given = finding["type"], finding.get("ctx", {}), finding["input"]
    if kind == "missing":
        return "missing"
    if kind == "extra_forbidden":
        near = get_close_matches(str(path[-1]), model.model_fields, 1)
        guess = f": did you mean {near[0]}?" if near else ""
        return f"unknown, expected one of {', '.join(model.model_fields)}{guess}"
    accepted = {
        "model_type": f"a mapping with {', '.join(_FIELDS.get(str(field), Endpoint).model_fields)}",
        "tuple_type": "a list",
        "too_short": "at least one",
        "too_long": f"at most {context.get('max_length')}",
        "string_type": "text",
        "string_too_short": "text",
        "bool_type": "true or false",
        "int_type": "a whole number",
        "float_type": "a number",
        "literal_error": context.get("expected"),
        "string_pattern_mismatch": (
            "letters, digits, - and _, at most 40" if path[-1:] == ("name",) else "a name of letters, digits and _"
        ),
    }
    if kind == "value_error":
        said = str(context["error"])
        return said if isinstance(given, dict | SecretSource) else f"{given!r:.{_SHOWN}}, {said}"
    expected = accepted.get(kind) or finding["msg"].lower()
    if field in _SECRET:
        hint = "; write `env: VARIABLE` or `file: PATH`, never the secret itself" if field == "secrets" else ""
        return f"expected {expected}{hint}"
    return f"expected {expected}" if isinstance(given, dict) else f"{given!r:.{_SHOWN}}, expected {expected}"
