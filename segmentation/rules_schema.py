"""The JSON Schema of rule tables, by which editors complete and check them while they are written."""

from __future__ import annotations

from typing import Any, Final

from segmentation.campaign_rules import RuleTable

_NULL: Final = {"type": "null"}


def rules_json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of tables of version 2.

    It refuses nothing that `parse_rules` takes, but for numbers in quotes. It knows fields one by one: whether they
    make sense together is for `segstream campaigns check`.
    """
    schema = _plain(RuleTable.model_json_schema(by_alias=True))
    schema["$defs"] = {name: _without(part, "description") for name, part in schema["$defs"].items()}
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Campaign rules of segstream"}
    return about | _without(schema, "description")


def _plain(part: Any) -> Any:
    """Return a part without what only says how Python holds it: titles, and None for a field that isn't there."""
    if isinstance(part, list):
        return [_plain(item) for item in part]
    if not isinstance(part, dict):
        return part
    found = {
        key: {name: _plain(below) for name, below in value.items()} if key in ("properties", "$defs") else _plain(value)
        for key, value in part.items()
        if key != "title" and not (key == "default" and value is None)
    }
    choices = found.get("anyOf", [])
    if len(choices) == 2 and _NULL in choices:
        [found_type] = [choice for choice in choices if choice != _NULL]
        return _without(found, "anyOf") | found_type
    return found


def _without(part: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != name}
