"""The JSON Schema of rules: it takes the shipped tables, and refuses what `parse_rules` refuses field by field."""

from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]  # comes with check-jsonschema; ships no types
import pytest
import yaml

from segmentation.campaign_rules import RulesError, parse_rules
from segmentation.rules_schema import rules_json_schema
from tests.support.paths import ROOT
from tests.support.rules import ANY, rules_text

SCHEMA: Final = jsonschema.Draft202012Validator(rules_json_schema())
SHIPPED: Final = [
    ROOT / "segmentation" / "default_rules.yaml",
    *sorted((ROOT / "examples" / "campaigns").glob("*.yaml")),
]


class _EditorLoader(yaml.SafeLoader):
    """Reads YAML as editors do, by version 1.2, which has no days and no times of its own."""


_EditorLoader.yaml_implicit_resolvers = {
    first: [found for found in resolvers if found[0] != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def by_the_schema(text: str) -> bool:
    content: Any = yaml.load(text, Loader=_EditorLoader)
    return bool(SCHEMA.is_valid(content))


def by_the_parser(text: str) -> bool:
    try:
        parse_rules(text)
    except RulesError:
        return False
    return True


@pytest.mark.parametrize("file", SHIPPED, ids=[file.name for file in SHIPPED])
def test_shipped_tables_are_valid_and_name_the_schema(file: Path) -> None:
    text = file.read_text("utf-8")
    assert by_the_schema(text)
    assert parse_rules(text).warnings() == []
    first = text.splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (file.parent / first.split("$schema=")[1]).resolve() == ROOT / "docs/reference/campaign-rules.schema.json"


@pytest.mark.parametrize(
    "rule",
    [
        ANY,
        "to: ['At *', Lost], from: [null, Loyal], cause: [silence, order]",
        f"{ANY}, from: null, first_time: true, rfm: {{frequency: {{at_least: 2, at_most: 3}}}}",
        f"{ANY} | quiet_hours: none, priority: -3, tags: [a, b], cooldown: 365d, holdout: 0.125, consent: required",
        f"{ANY} | quiet_hours: {{from: '21:00', until: '8:00'}}, delay: 2d, unless: order, if_still: false",
        f"{ANY} | goal: {{order_within: 30d}}, valid: {{from: '2026-11-01'}}, budget: {{per_day: 500}}",
        f"{ANY} | transactional: true, time_zone: Europe/Paris, group: calls",
        "from: [Lost]",
        "to: Lost",
        "to: []",
        f"{ANY}, cause: [erasure]",
        f"{ANY}, life: {{}}",
        f"{ANY}, life: {{orders: {{}}}}",
        f"{ANY}, life: {{orders: {{at_least: -1}}}}",
        f"{ANY}, outlook: {{chance_90d: {{at_most: 20}}}}",
        f"{ANY} | cooldown: 30",
        f"{ANY} | delay: 1.5h",
        f"{ANY} | unless: reply",
        f"{ANY} | colour: red",
        f"{ANY} | priority: 1001",
        f"{ANY} | tags: a",
        f"{ANY} | quiet_hours: night",
        f"{ANY} | quiet_hours: {{from: '21:00'}}",
        f"{ANY} | holdout: 0.6",
        f"{ANY} | budget: {{per_day: 0}}",
        f"{ANY} | valid: {{}}",
        f"{ANY} | if_still: 'maybe'",
        f"{ANY} | consent: maybe",
    ],
)
def test_schema_and_parser_agree_on_a_field(rule: str) -> None:
    text = rules_text(rule)
    assert by_the_schema(text) is by_the_parser(text)


@pytest.mark.parametrize(
    "top",
    [
        "caps: [{at_most: 2, within: 7d, tag: a}, {at_most: 1, per: day}]",
        "holdouts: {salt: '2026', rotate: quarter, global: 0.05, tags: {a: 0.1}}",
        "time_zone: Europe/Berlin",
        "caps: [{at_most: 2}]",
        "caps: [{at_most: 2, within: 7d, per: day}]",
        "holdouts: {rotate: weekly}",
        "holdouts: {tags: {a: 1}}",
        "colour: red",
    ],
)
def test_schema_and_parser_agree_on_what_goes_for_all_rules(top: str) -> None:
    text = rules_text(f"{ANY} | tags: [a]", top=top)
    assert by_the_schema(text) is by_the_parser(text)


def test_every_field_is_described() -> None:
    parts = rules_json_schema()
    conditions = {"Bounds", "FigureBounds", "ChanceBounds", "LifeConditions", "OutlookConditions", "RfmConditions"}
    for name, part in {"table": parts, **parts["$defs"]}.items():
        undescribed = [field for field, of in part.get("properties", {}).items() if "description" not in of]
        assert name in conditions or undescribed == [], name
