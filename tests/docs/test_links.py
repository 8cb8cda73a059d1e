"""Every link and every reference to a page leads somewhere: in the pages, and in the code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from stream.delivery.metrics import DeliveryMetrics
from stream.metrics import Metrics
from stream.settings import Settings
from tests.support.metric_rows import metric_rows
from tests.support.paths import ROOT
from trainer.schedule.metrics import ScheduleMetrics
from trainer.schedule.settings import ScheduleSettings
from trainer.training.settings import TrainingSettings

DOCS: Final = ROOT / "docs"
AT_THE_ROOT: Final = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES: Final = [*sorted(DOCS.rglob("*.md")), *AT_THE_ROOT]
FENCE: Final = re.compile(r"(?ms)^( *)```.*?^\1```$")
LINK: Final = re.compile(r"\]\(<?([^)\s>]+)>?\)")
CODE: Final = re.compile(r"`([^`\n]+)`")
# `docs/explanation/time.md, section 9`, also over the end of a comment's line.
PAGE_IN_CODE: Final = re.compile(r"\bdocs/[\w./-]+\.md(?:,?[\s#*]+sections? (\d+)(?: (?:and|to) (\d+))?)?")
ADR_IN_CODE: Final = re.compile(r"\bdocs/adr/(\d{4})\b(?!-)")
# A path in code type: with a folder, or a Python module. Not: options, topics, URLs, and what readers call their own.
PATH: Final = re.compile(r"(?:[\w.-]+/)+(?:[\w.-]+\.(?:py|md|html|yaml|yml|toml|svg|json|css|js|sh))?")
OF_READERS: Final = {"shop/adapter.py"}
# A name of the code: with a capital letter, or an underline.
IDENTIFIER: Final = re.compile(r"(?:[A-Za-z_][\w.]*(?:[a-z][A-Z]|_)\w*|[A-Z]\w{3,})(?:\.\w+)*(?:\(\))?")
# Names of Redis, Kafka, Python and its tools.
OF_OTHERS: Final = {
    "BGSAVE",
    "offsets_for_times",
    "HRANDFIELD",
    "PIP_INDEX_URL",
    "TMPDIR",
    "UV_DEFAULT_INDEX",
    "__consumer_offsets",
    "exactly_once",
    # Put together from the prefix where they are read.
    "SEGSTREAM_CACHE_DIR",
    "SEGSTREAM_LOCAL_KAFKA_VERSION",
    "SEGSTREAM_CONFIG",
    "SEGSTREAM_TEST_DATA",
}


def called(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text("utf-8"))


def slug(heading: str) -> str:
    """The anchor that both the site and a forge give a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\s-]", "", plain).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"(?m)^#+ (.*)$", prose(page))}


@pytest.mark.parametrize("page", PAGES, ids=called)
def test_every_link_leads_to_a_file_and_an_anchor(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if page.is_relative_to(DOCS) and not target.is_relative_to(DOCS):
            broken.append(f"{link}: not in docs/, so not on the site; name it in code type")
        elif not target.exists():
            broken.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target):
            broken.append(f"{link}: no such heading")
    assert broken == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=called)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = [name for name in CODE.findall(prose(page)) if PATH.fullmatch(name) and name not in OF_READERS]
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """Every file of text that isn't a page, by its path."""
    found = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = {}
    for name in found:
        path = ROOT / name
        if path.is_file() and path.suffix not in {".md", ".gz", ".lock", ".png"} and path != Path(__file__):
            texts[name] = path.read_text("utf-8")
    return texts


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=called)
def test_every_name_that_a_page_takes_from_the_code_exists(page: Path, words: set[str]) -> None:
    named = {
        name
        for code in CODE.findall(prose(page))
        if IDENTIFIER.fullmatch(code)
        for name in code.rstrip("()").split(".")
        if IDENTIFIER.fullmatch(name)
    }
    assert named - words - OF_OTHERS == set()


@pytest.fixture(scope="module")
def words(sources: dict[str, str]) -> set[str]:
    """Return every word of the code and its files' names, and the variables of settings."""
    found = {word for name, text in sources.items() for word in re.findall(r"\w+", f"{name} {text}")}
    for settings in (Settings, TrainingSettings, ScheduleSettings):
        found |= {settings.model_config["env_prefix"] + name.upper() for name in settings.model_fields}
    return found | {
        row[0] for metrics in (Metrics(), ScheduleMetrics(), DeliveryMetrics()) for row in metric_rows(metrics)
    }


def test_every_page_that_the_code_names_exists_with_its_section(sources: dict[str, str]) -> None:
    broken = []
    for name, text in sources.items():
        for found in PAGE_IN_CODE.finditer(text):
            page = ROOT / re.match(r"[\w./-]+\.md", found[0])[0]  # type: ignore[index]  # the pattern begins so
            if not page.exists():
                broken.append(f"{name}: {found[0]}: no such page")
                continue
            broken += [
                f"{name}: {found[0]}: no section {number}"
                for number in found.groups()
                if number and not re.search(rf"(?m)^## {number} ", page.read_text("utf-8"))
            ]
        broken += [
            f"{name}: {found[0]}: no such decision"
            for found in ADR_IN_CODE.finditer(text)
            if not list((DOCS / "adr").glob(f"{found[1]}-*.md"))
        ]
    assert broken == []


def test_the_site_lists_every_page() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    unlisted = {page for page in pages if f": {page}\n" not in navigation}
    assert {page for page in unlisted if not page.startswith(("adr/", "samples/"))} == set()


def test_the_decisions_are_listed() -> None:
    listed = re.findall(r"(?m)^\| \[(\d{4})\]\((\S+)\)", (DOCS / "adr" / "README.md").read_text("utf-8"))
    files = sorted(path.name for path in (DOCS / "adr").glob("0*.md"))
    assert [name for _, name in listed] == files
    assert all(name.startswith(number) for number, name in listed)
