"""docs/how-to/consume.md shows parts of examples/consumers as they are, and names what is tested."""

from __future__ import annotations

import re
import textwrap

import pytest

from segmentation.output_events import CampaignDecision
from stream.local.jars import locked_jars
from tests.support.consumers import EXAMPLES, SQLITE
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "how-to" / "consume.md").read_text("utf-8")
FILES = {"python": "python/actions.py", "java": "java/Actions.java", "js": "node/actions.js"}


def without_indents(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines())


@pytest.mark.parametrize("language", FILES)
def test_the_page_shows_the_program_as_it_is(language: str) -> None:
    (shown,) = re.findall(rf"(?ms)^```{language}\n(.*?)^```$", PAGE)
    assert without_indents(textwrap.dedent(shown)) in without_indents((EXAMPLES / FILES[language]).read_text("utf-8"))


def test_the_page_lists_every_kind_of_decision() -> None:
    kinds = {kind.__struct_config__.tag for kind in CampaignDecision.__args__}
    assert kinds | {"campaign.budget"} == set(re.findall(r"(?m)^\| `(campaign\.\w+)` \|", PAGE))


def test_maven_gets_the_versions_that_are_tested() -> None:
    pom = (EXAMPLES / "java" / "pom.xml").read_text("utf-8")
    rows = re.findall(r"<groupId>([\w.]+)</groupId>\s+<artifactId>([\w-]+)</artifactId>\s+<version>([\w.]+)<", pom)
    named = {row[1]: ":".join(row) for row in rows}
    tested = {jar.coordinate for jar in [*locked_jars(), SQLITE]}
    assert {named[artifact] for artifact in ("kafka-clients", "jackson-databind", "sqlite-jdbc")} <= tested
