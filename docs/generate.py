# ruff: noqa: INP001 — started by its path, from the root of the repository
"""Write the reference from the code: settings, commands, schemas of events and rules, AsyncAPI, tables of metrics.

.venv/bin/python docs/generate.py      (or `make docs-reference`)

A test compares what is committed with what this writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, get_args, get_origin

from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings
from typer import Typer
from typer.main import get_command
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from generate_events import NOTE, asyncapi_file, schema_file, schemas_page

import stream.cli
import trainer.cli
from bench.reports.markdown import wrapped
from segmentation.events import InputEvent
from segmentation.output_events import OutputEvent
from segmentation.profiles import CustomerProfile
from segmentation.rules_schema import rules_json_schema
from stream.delivery.metrics import DeliveryMetrics
from stream.delivery.outcomes import DeliveryEvent
from stream.metrics import Metrics
from stream.settings import DeploymentSettings, Settings
from trainer.schedule.metrics import ScheduleMetrics
from trainer.schedule.settings import ScheduleSettings
from trainer.training.settings import TrainingSettings

REFERENCE: Final = Path(__file__).parent / "reference"
COLUMNS: Final = 100  # of a command's help


def pages() -> dict[Path, str]:
    """Return every generated file with its content."""
    schemas = REFERENCE / "schemas"
    metrics = REFERENCE / "metrics.md"
    return {
        REFERENCE / "settings.md": wrapped(settings_page()),
        REFERENCE / "commands.md": wrapped(commands_page()),
        REFERENCE / "schemas.md": wrapped(schemas_page()),
        schemas / "input-events.json": schema_file("What segstream reads from the topic of orders", InputEvent),
        schemas / "profiles.json": schema_file("Profiles that you send to customer-profiles", CustomerProfile),
        schemas / "output-events.json": schema_file("Events that segstream publishes", OutputEvent),
        schemas / "delivery-events.json": schema_file("What became of the webhooks of an endpoint", DeliveryEvent),
        REFERENCE / "asyncapi.yaml": asyncapi_file(),
        REFERENCE / "campaign-rules.schema.json": json.dumps(rules_json_schema(), indent=2, ensure_ascii=False) + "\n",
        metrics: with_tables(
            metrics.read_text("utf-8"),
            {
                "metrics": metrics_table(Metrics()),
                "schedule-metrics": metrics_table(ScheduleMetrics()),
                "delivery-metrics": metrics_table(DeliveryMetrics()),
            },
        ),
    }


def with_tables(page: str, tables: dict[str, str]) -> str:
    """Return a page with the text between the markers `<!-- begin NAME -->` and `<!-- end NAME -->` replaced."""
    for name, table in tables.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise ValueError(f"expected one {begin} and one {end} in the page")
        before, rest = page.split(begin)
        page = f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"
    return page


def settings_page() -> str:
    """Return the page of all settings, one table a prefix."""
    return "\n".join(
        [
            "# Settings",
            "",
            NOTE,
            "",
            "Every setting is an environment variable. A TOML file that `SEGSTREAM_CONFIG` names can hold them too:",
            "there the name is in lower case and without its prefix. The environment wins over the file. An unknown",
            "name is an error.",
            "",
            "`segstream settings` shows the values that are in force on your machine.",
            "",
            "## Deployment",
            "",
            "Read by every command of `segstream` and `segtrainer`. In the file: at the top level. Where the meaning",
            "ends with *must agree*, all processes of one deployment need the same value",
            "([Change settings](../how-to/change-settings.md)); so they do for group, topics and partitions.",
            "",
            _settings_table(DeploymentSettings),
            "",
            "## Workers and other commands",
            "",
            "Read by the commands of `segstream`. In the file: at the top level. All workers of one deployment need",
            "the same values where it says *must agree*, and of topics and salt.",
            "",
            _settings_table(Settings, without=DeploymentSettings),
            "",
            "## Training",
            "",
            "Read by `segtrainer run` and by each run of `segtrainer schedule`; options of the command win over them.",
            "In the file: the table `[trainer]`. [Models](../explanation/models.md) explains recipes and gates.",
            "",
            _settings_table(TrainingSettings),
            "",
            "## Schedule",
            "",
            "Read by `segtrainer schedule`. In the file: the table `[schedule]`.",
            "[Schedule trainings](../how-to/schedule-trainings.md) explains them.",
            "",
            _settings_table(ScheduleSettings),
            "",
            "## Other variables",
            "",
            "| variable | meaning |",
            "|---|---|",
            "| `SEGSTREAM_CONFIG` | path of the TOML file |",
            "| `SEGSTREAM_LOCAL_KAFKA_VERSION` | the Apache Kafka of the local stack: 4.1.2 (default) or 4.4.0 |",
            "| `SEGSTREAM_CACHE_DIR` | folder for downloads (local stack, demo, tests); default `~/.cache/segstream` |",
            "",
        ]
    )


def _settings_table(settings: type[BaseSettings], *, without: type[BaseSettings] = BaseSettings) -> str:
    """Return the table of a class's settings, but for those of another class."""
    prefix = settings.model_config["env_prefix"]
    rows = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    rows += [
        f"| `{prefix}{name.upper()}` | {_type(field)} | {_default(field)} | {field.description} |"
        for name, field in settings.model_fields.items()
        if name not in without.model_fields
    ]
    return "\n".join(rows)


_NAMES: Final = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    SecretStr: "text, secret",
    Path: "path",
}
_LIMITS: Final = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _type(field: FieldInfo) -> str:
    """Return what a setting takes, with its limits."""
    annotation: Any = field.annotation
    if isinstance(annotation, UnionType):
        [annotation] = [part for part in get_args(annotation) if part is not NoneType]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    assert isinstance(annotation, type)
    limits = [
        f"{sign} {getattr(limit, name):,}"
        for limit in field.metadata
        for name, sign in _LIMITS.items()
        if hasattr(limit, name)
    ]
    return ", ".join([_NAMES.get(annotation, annotation.__name__), *limits])


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return "" if value is None or value == "" else f"`{value}`"


def commands_page() -> str:
    """Return the page of every command's help, as a terminal of 100 columns shows it."""
    lines = [
        "# Commands",
        "",
        NOTE,
        "",
        "The help of every command, as `--help` prints it. Exit codes: 0 done; 1 failed, with one line on stderr that",
        "says what to do; 2 wrong usage; 130 interrupted; 141 the reader of stdout ended. `segtrainer` has",
        "[two more](../how-to/schedule-trainings.md#with-another-scheduler).",
        "",
    ]
    for name, app in (("segstream", stream.cli.app), ("segtrainer", trainer.cli.app)):
        lines += [f"## {name}", "", *_help(app, name, [])]
        for path in _paths(get_command(app)):
            lines += [f"### {name} {' '.join(path)}", "", *_help(app, name, path)]
    return "\n".join(lines)


def _paths(command: Any) -> list[list[str]]:
    """Return the words of every visible command below a group, groups before their commands."""
    found = []
    for name, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            found += [[name], *([name, *path] for path in _paths(below))]
    return found


def _help(app: Typer, name: str, path: list[str]) -> list[str]:
    plain = {"COLUMNS": str(COLUMNS), "TERM": "dumb", "NO_COLOR": "1"}
    shown = CliRunner().invoke(app, [*path, "--help"], prog_name=name, env=plain)
    if shown.exit_code:
        raise RuntimeError(f"{name} {' '.join(path)} --help ended with {shown.exit_code}: {shown.output}")
    text = [line.rstrip() for line in shown.stdout.strip().splitlines()]
    return ["```text", *text, "```", ""]


def metrics_table(metrics: object) -> str:
    """Return the table of all metrics that are attributes of `metrics`, in their order there."""
    rows = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            kind, labels = metric._type, ", ".join(f"`{label}`" for label in metric._labelnames)  # noqa: SLF001  # no public way
            name = metric._name + ("_total" if kind == "counter" else "")  # noqa: SLF001
            rows.append(f"| `{name}` | {kind} | {labels} | {metric._documentation} |")  # noqa: SLF001
    return "\n".join(rows)


def main() -> None:
    """Write every page whose content has changed."""
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(f"written: {path.relative_to(REFERENCE.parents[1])}")  # noqa: T201  # a script's own voice


if __name__ == "__main__":
    main()
