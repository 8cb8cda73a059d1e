"""The reference pages are what docs/generate.py writes, and the schemas hold for the events that there are."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]  # comes with check-jsonschema; ships no types
import pytest
import yaml

from stream.kafka.topics import specs
from stream.settings import Settings
from tests.support.paths import ROOT

REFERENCE: Final = ROOT / "docs" / "reference"
# AsyncAPI's own schema of version 3.0.0, unchanged: 3.0.0-without-$id.json of the npm package @asyncapi/specs 6.11.1
# (copyright 2016-2025 AsyncAPI Initiative, Apache-2.0).
ASYNCAPI_SCHEMA: Final = Path(__file__).parent / "asyncapi-3.0.0.schema.json.gz"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def asyncapi() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((REFERENCE / "asyncapi.yaml").read_text("utf-8"))
    return found


def test_the_pages_are_what_the_code_says(generator: ModuleType) -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in generator.pages().items()
        if not path.exists() or path.read_text("utf-8") != text
    ]
    assert stale == [], "run `make docs-reference` and commit what it writes"


def test_asyncapi_is_valid(asyncapi: dict[str, Any]) -> None:
    schema = json.loads(gzip.decompress(ASYNCAPI_SCHEMA.read_bytes()))
    jsonschema.Draft7Validator(schema).validate(asyncapi)


def test_a_misspelt_field_of_asyncapi_is_found(asyncapi: dict[str, Any]) -> None:
    schema = json.loads(gzip.decompress(ASYNCAPI_SCHEMA.read_bytes()))
    wrong = asyncapi | {"chanels": {}}
    assert not jsonschema.Draft7Validator(schema).is_valid(wrong)


def test_every_reference_in_asyncapi_leads_somewhere(asyncapi: dict[str, Any]) -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            return own + [found for below in part.values() for found in references(below)]
        return [found for below in part for found in references(below)] if isinstance(part, list) else []

    for reference in references(asyncapi):
        target: Any = asyncapi
        for step in reference.removeprefix("#/").split("/"):
            assert step in target, reference
            target = target[step]


def test_asyncapi_has_every_topic_but_the_engines_own(asyncapi: dict[str, Any]) -> None:
    settings = Settings()
    own = {
        settings.heads_topic("scoring"),
        settings.heads_topic("campaigns"),
        settings.redrives_topic,
        settings.reshards_topic,
        settings.positions_topic,
        settings.tombstones_topic,
    }
    topics = {channel["address"] for channel in asyncapi["channels"].values()}
    assert topics == {spec.name for spec in specs(settings)} - own


def test_the_examples_of_the_page_of_events_fit_the_schema() -> None:
    schema = json.loads((REFERENCE / "schemas" / "input-events.json").read_text("utf-8"))
    block = re.search(r"(?s)```json\n(.*?)```", (REFERENCE / "events.md").read_text("utf-8"))
    assert block
    examples = [json.loads(line) for line in re.split(r"\n(?=\{)", block[1].strip())]
    assert len(examples) == 5
    validator = jsonschema.Draft202012Validator(schema)
    for example in examples:
        validator.validate(example)
        assert not validator.is_valid(
            {key: value for key, value in example.items() if key not in ("customer_id", "from")}
        )
