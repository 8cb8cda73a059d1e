# ruff: noqa: INP001 — started by its path, from the root of the repository
"""Write the reference pages from the code: settings, commands, events' schemas, AsyncAPI, and the tables of metrics.

.venv/bin/python docs/generate.py      (or `make docs-reference`)

A test compares what is committed with what this writes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
import yaml
from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings
from typer import Typer
from typer.main import get_command
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1]))

import stream.cli
import trainer.cli
from bench.reports.markdown import wrapped
from segmentation.events import CampaignAction, Control, CustomerEvent, InputEvent, OutputEvent, SegmentChanged
from stream.kafka import topics
from stream.metrics import Metrics
from stream.settings import DeploymentSettings, Settings
from trainer.schedule.metrics import ScheduleMetrics
from trainer.schedule.settings import ScheduleSettings
from trainer.training.settings import TrainingSettings

REFERENCE: Final = Path(__file__).parent / "reference"
COLUMNS: Final = 100  # of a command's help
_EDIT: Final = "Written by docs/generate.py from the code. Don't edit it here."
_NOTE: Final = f"<!-- {_EDIT} -->"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def pages() -> dict[Path, str]:
    """Return every generated file with its content."""
    schemas = REFERENCE / "schemas"
    metrics = REFERENCE / "metrics.md"
    return {
        REFERENCE / "settings.md": wrapped(settings_page()),
        REFERENCE / "commands.md": wrapped(commands_page()),
        REFERENCE / "schemas.md": wrapped(schemas_page()),
        schemas / "input-events.json": schema_file("What segstream reads from the topic of orders", InputEvent),
        schemas / "output-events.json": schema_file("Events that segstream publishes", OutputEvent),
        REFERENCE / "asyncapi.yaml": asyncapi_file(),
        metrics: with_tables(
            metrics.read_text("utf-8"),
            {"metrics": metrics_table(Metrics()), "schedule-metrics": metrics_table(ScheduleMetrics())},
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
            _NOTE,
            "",
            "Every setting is an environment variable. A TOML file that `SEGSTREAM_CONFIG` names can hold them too:",
            "there the name is in lower case and without its prefix. The environment wins over the file. An unknown",
            "name is an error.",
            "",
            "`segstream settings` shows the values that are in force on your machine.",
            "",
            "## Deployment",
            "",
            "Read by every command of `segstream` and `segtrainer`. All processes of one deployment need the same",
            "values. In the file: at the top level.",
            "",
            _settings_table(DeploymentSettings),
            "",
            "## Workers and other commands",
            "",
            "Read by the commands of `segstream`. All workers of one deployment need the same values. In the file:",
            "at the top level.",
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
        _NOTE,
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


def schema_file(title: str, union: Any) -> str:
    """Return the JSON Schema of a union of events, as a file."""
    references, definitions = msgspec.json.schema_components(get_args(union), ref_template="#/$defs/{name}")
    schema = {"$schema": _DIALECT, "title": title, "anyOf": list(references), "$defs": definitions}
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def schemas_page() -> str:
    """Return the page of every event's fields."""
    lines = [
        "# Schemas of the events",
        "",
        _NOTE,
        "",
        "The same as JSON Schema (2020-12), to validate with: [input-events.json](schemas/input-events.json) and",
        "[output-events.json](schemas/output-events.json). As AsyncAPI 3.0, with channels and bindings:",
        "[asyncapi.yaml](asyncapi.yaml). [Events](events.md) says what each one does.",
        "",
    ]
    for heading, union in (
        ("Events that you send", CustomerEvent),
        ("Controls, which only segstream sends", Control),
        ("Events that segstream publishes", OutputEvent),
    ):
        lines += [f"## {heading}", ""]
        for event in get_args(union):
            _, definitions = msgspec.json.schema_components([event], ref_template="{name}")
            schema = definitions[event.__name__]
            lines += [f"### {schema['properties']['type']['enum'][0]}", "", schema.get("description", ""), ""]
            lines += ["| field | type | required |", "|---|---|---|"]
            for field, of in schema["properties"].items():
                required = "yes" if field in schema["required"] else ""
                lines.append(f"| `{field}` | {_schema_type(of, definitions)} | {required} |")
            lines.append("")
    return "\n".join(lines)


def _schema_type(of: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return a field's type in words."""
    if "$ref" in of:
        target = definitions[of["$ref"]]
        if "properties" in target:
            parts = ", ".join(
                f"`{name}` {_schema_type(part, definitions)}" for name, part in target["properties"].items()
            )
            return f"object: {parts}"
        return _schema_type(target, definitions)
    if "anyOf" in of:
        return " or ".join(_schema_type(part, definitions) for part in of["anyOf"])
    if "enum" in of:
        return ", ".join(f"`{value}`" for value in of["enum"])
    words = [{"object": "object of numbers", "null": "`null`"}.get(of["type"], of["type"])]
    if "description" in of:
        words.append(f"({of['description']})")
    return " ".join(words)


def asyncapi_file() -> str:
    """Return the AsyncAPI 3.0 document of every topic, with the names that the defaults give."""
    settings = Settings.model_construct()
    _, schemas = msgspec.json.schema_components(
        [*get_args(InputEvent), *get_args(OutputEvent)], ref_template="#/components/schemas/{name}"
    )
    specs = {spec.name: spec for spec in topics.specs(settings)}
    orders, changes = _messages(CustomerEvent), _messages(SegmentChanged)
    dead_letter = {"deadLetter": _reference("messages", "deadLetter")}
    channels: dict[str, tuple[str, str, dict[str, Any]]] = {
        # name of the channel: topic, what it is for, messages
        "orders": (settings.orders_topic, "What shops send, keyed by customer.", orders | _messages(Control)),
        "ordersUnkeyed": (
            settings.unkeyed_topic,
            "Order events that aren't keyed by customer; `segstream adapters` sends them on to `orders`.",
            orders,
        ),
        "segmentChanges": (settings.changes_topic, "Every move, once, keyed by customer.", changes),
        "segmentState": (settings.state_topic, "The last move of each customer.", changes),
        "campaignActions": (
            settings.actions_topic,
            "What campaigns do about moves, keyed by customer.",
            _messages(CampaignAction),
        ),
        "ordersDeadLetters": (
            settings.orders_dead_letters_topic,
            "Records of `orders` that can't be used, unchanged, with the reason in headers.",
            dead_letter,
        ),
        "segmentChangesDeadLetters": (
            settings.changes_dead_letters_topic,
            "Moves that no campaign can read, unchanged, with the reason in headers.",
            dead_letter,
        ),
        "segmentModels": (
            settings.models_topic,
            "Every model under its version, and under the key `active` which one scores.",
            {"model": _reference("messages", "model")},
        ),
        "segmentReports": (
            settings.reports_topic,
            "The report of the training behind each model, under the model's version.",
            {"report": _reference("messages", "report")},
        ),
    }
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "segstream",
            "version": "1",
            "description": "Topics have the names that the default settings give.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": settings.kafka_bootstrap_servers,
                "protocol": "kafka",
                "description": "Read with isolation.level=read_committed.",
            }
        },
        "channels": {
            name: {
                "address": topic,
                "description": purpose,
                "messages": messages,
                "bindings": {"kafka": _topic_binding(specs[topic])},
            }
            for name, (topic, purpose, messages) in channels.items()
        },
        "operations": {
            f"{action}{name[0].upper()}{name[1:]}": {"action": action, "channel": _reference("", name)}
            for action, names in _OPERATIONS.items()
            for name in names
        },
        "components": {"messages": _message_components(), "schemas": schemas},
    }
    return f"# {_EDIT}\n{yaml.dump(document, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=110)}"


class _Plain(yaml.SafeDumper):
    """YAML without anchors: each part stands where it is used."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _topic_binding(spec: topics.TopicSpec) -> dict[str, Any]:
    """Return a topic's partitions and settings, of those that AsyncAPI's Kafka binding has names for."""
    config: dict[str, Any] = {"cleanup.policy": [spec.config["cleanup.policy"]]}
    config |= {name: int(spec.config[name]) for name in ("retention.ms", "max.message.bytes") if name in spec.config}
    return {"topic": spec.name, "partitions": spec.partitions, "topicConfiguration": config}


_OPERATIONS: Final = {
    "receive": ["orders", "ordersUnkeyed"],
    "send": [
        "segmentChanges",
        "segmentState",
        "campaignActions",
        "ordersDeadLetters",
        "segmentChangesDeadLetters",
        "segmentModels",
        "segmentReports",
    ],
}
_CUSTOMER_KEY: Final = {"kafka": {"key": {"type": "string", "description": "The customer's id."}}}
_TEXT: Final = {"type": "string"}


def _reference(section: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{section}/{name}" if section else f"#/channels/{name}"}


def _tag(event: Any) -> str:
    return str(event.__struct_config__.tag)


def _messages(union: Any) -> dict[str, Any]:
    return {_tag(event): _reference("messages", _tag(event)) for event in get_args(union) or (union,)}


def _message_components() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for event in (*get_args(InputEvent), *get_args(OutputEvent)):
        control = event in get_args(Control)
        found[_tag(event)] = {
            "name": _tag(event),
            "title": event.__name__,
            "summary": _first_sentence(event),
            "payload": _reference("schemas", event.__name__),
            **({"bindings": _CUSTOMER_KEY} if not control else {}),
            **({"headers": _CLOUD_HEADERS} if event in {SegmentChanged, CampaignAction} else {}),
        }
    found["deadLetter"] = {
        "name": "deadLetter",
        "summary": "A record that can't be used, with its own key, value and headers.",
        "headers": {
            "type": "object",
            "properties": {
                "segstream_reason": _TEXT,
                "segstream_field": _TEXT,
                "segstream_failed_at": _TEXT,
                "__connect.errors.topic": _TEXT,
                "__connect.errors.partition": _TEXT,
                "__connect.errors.offset": _TEXT,
                "__connect.errors.exception.message": _TEXT,
            },
            "required": ["segstream_reason"],
        },
        "payload": {"description": "The record's value, whatever it was."},
    }
    found["model"] = {
        "name": "model",
        "summary": "A model as JSON, or the choice of the active one. See segmentation/model.py.",
        "payload": {"type": "object"},
    }
    found["report"] = {
        "name": "report",
        "summary": "A report, compressed. See trainer/registry/reports.py.",
        "contentType": "application/octet-stream",
        "payload": {"description": "Bytes."},
    }
    return found


_CLOUD_HEADERS: Final = {
    "type": "object",
    "properties": dict.fromkeys(("ce_id", "ce_source", "ce_specversion", "ce_type", "ce_subject", "ce_time"), _TEXT),
}


def _first_sentence(event: Any) -> str:
    return re.split(r"(?<=\.) ", event.__doc__ or "", maxsplit=1)[0]


def main() -> None:
    """Write every page whose content has changed."""
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(f"written: {path.relative_to(REFERENCE.parents[1])}")  # noqa: T201  # a script's own voice


if __name__ == "__main__":
    main()
