# ruff: noqa: INP001 — imported by docs/generate.py, which is started by its path
"""The reference of events: JSON Schema, AsyncAPI, and the page of every event's fields."""

from __future__ import annotations

import re
from inspect import cleandoc
from typing import Any, Final, get_args

import msgspec
import yaml

from segmentation.campaign_inputs import ProfileForwarded
from segmentation.events import Control, CustomerEvent, InputEvent, json_schema
from segmentation.output_events import CampaignBudget, CampaignDecision, OutputEvent, SegmentChanged
from segmentation.profiles import CustomerProfile
from stream.delivery.outcomes import DeliveryEvent
from stream.kafka import topics
from stream.settings import Settings

EDIT: Final = "Written by docs/generate.py from the code. Don't edit it here."
NOTE: Final = f"<!-- {EDIT} -->"

_CONTROLS: Final = (*get_args(Control), ProfileForwarded)
_OUT: Final = (*get_args(OutputEvent), *get_args(DeliveryEvent))
_EVENTS: Final = (*get_args(InputEvent), CustomerProfile, ProfileForwarded, *_OUT)


def schema_file(title: str, union: Any) -> str:
    """Return the JSON Schema of an event, or of a union of events, as a file."""
    schema = msgspec.json.encode(json_schema(get_args(union) or (union,), title))
    return msgspec.json.format(schema, indent=2).decode() + "\n"


def schemas_page() -> str:
    """Return the page of every event's fields."""
    lines = [
        "# Schemas of the events",
        "",
        NOTE,
        "",
        "The same as JSON Schema (2020-12), to validate with: [input-events.json](schemas/input-events.json),",
        "[profiles.json](schemas/profiles.json), [output-events.json](schemas/output-events.json) and",
        "[delivery-events.json](schemas/delivery-events.json). As AsyncAPI 3.0, with channels and bindings:",
        "[asyncapi.yaml](asyncapi.yaml). [Events](events.md) says what each one does.",
        "",
    ]
    for heading, union in (
        ("Events that you send to `orders`", get_args(CustomerEvent)),
        ("Profiles, which you send to `customer-profiles`", (CustomerProfile,)),
        ("Controls, which only segstream sends", _CONTROLS),
        ("Events that segstream publishes", get_args(OutputEvent)),
        ("Outcomes of webhooks, on `campaign-deliveries`", get_args(DeliveryEvent)),
    ):
        lines += [f"## {heading}", ""]
        for event in union:
            _, definitions = msgspec.json.schema_components([event], ref_template="{name}")
            schema = definitions[event.__name__]
            lines += [f"### {schema['properties']['type']['enum'][0]}", "", cleandoc(schema.get("description", "")), ""]
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
    words = [_kind(of, definitions)]
    if "description" in of and "prefixItems" not in of:
        words.append(f"({of['description']})")
    return " ".join(words)


def _kind(of: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the type of a value that isn't one of several, in words."""
    if of["type"] == "object":
        return f"object of {_schema_type(of['additionalProperties'], definitions)}"
    if "prefixItems" in of:
        return f"[{', '.join(_schema_type(part, definitions) for part in of['prefixItems'])}]"
    if of["type"] == "array":
        return f"array of {_schema_type(of['items'], definitions)}"
    return "`null`" if of["type"] == "null" else str(of["type"])


def _channels(settings: Settings) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Return each channel's topic, description and messages, by the channel's name."""
    orders, changes = _messages(CustomerEvent), _messages(SegmentChanged)
    dead_letter = {"deadLetter": _reference("messages", "deadLetter")}
    return {
        "orders": (settings.orders_topic, "Events that shops send, keyed by customer.", orders | _messages(Control)),
        "ordersUnkeyed": (
            settings.unkeyed_topic,
            "Order events that aren't keyed by customer; `segstream adapters` sends them on to `orders`.",
            orders,
        ),
        "customerProfiles": (
            settings.profiles_topic,
            "Time zones, consents and languages that you send, keyed by customer.",
            _messages(CustomerProfile | ProfileForwarded),
        ),
        "segmentChanges": (settings.changes_topic, "Every move, once, keyed by customer.", changes),
        "segmentState": (settings.state_topic, "The last move of each customer.", changes),
        "campaignActions": (
            settings.actions_topic,
            "Decisions of campaigns, keyed by customer: send what a `campaign.action` says, and that alone.",
            _messages(CampaignDecision | CampaignBudget),
        ),
        "campaignDeliveries": (
            settings.deliveries_topic,
            "What became of each attempt to send an action to an endpoint, keyed by customer.",
            _messages(DeliveryEvent),
        ),
        "campaignActionsDeadLetters": (
            settings.actions_dead_letters_topic,
            "Actions that an endpoint never took, unchanged, with the reason in headers.",
            dead_letter,
        ),
        "campaignActionsRedeliveries": (
            settings.redeliveries_topic,
            "Actions that one endpoint is sent again. Only `segstream deliver` reads it.",
            _messages(CampaignDecision),
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
        "segmentRates": (
            settings.rates_topic,
            "Rates of other currencies. Key: the currency, the one of the figures, and the day, `USD/EUR/2026-11-27`.",
            {"rate": _reference("messages", "rate")},
        ),
    }


def asyncapi_file() -> str:
    """Return the AsyncAPI 3.0 document of every topic, with the names that the defaults give."""
    settings = Settings.model_construct()
    _, schemas = msgspec.json.schema_components(_EVENTS, ref_template="#/components/schemas/{name}")
    event = schemas["EventForwarded"]["properties"]["event"]
    event["discriminator"] = event["discriminator"]["propertyName"]  # in OpenAPI an object, here its name alone
    specs = {spec.name: spec for spec in topics.specs(settings)}
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
            for name, (topic, purpose, messages) in _channels(settings).items()
        },
        "operations": {
            f"{action}{name[0].upper()}{name[1:]}": {"action": action, "channel": _reference("", name)}
            for action, names in _OPERATIONS.items()
            for name in names
        },
        "components": {"messages": _message_components(), "schemas": schemas},
    }
    return f"# {EDIT}\n{yaml.dump(document, Dumper=_NoAliasDumper, sort_keys=False, allow_unicode=True, width=110)}"


class _NoAliasDumper(yaml.SafeDumper):
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
    "receive": ["orders", "ordersUnkeyed", "customerProfiles"],
    "send": [
        "segmentChanges",
        "segmentState",
        "campaignActions",
        "ordersDeadLetters",
        "segmentChangesDeadLetters",
        "campaignDeliveries",
        "campaignActionsDeadLetters",
        "campaignActionsRedeliveries",
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
    for event in _EVENTS:
        shards = event in _CONTROLS or event is CampaignBudget
        found[_tag(event)] = {
            "name": _tag(event),
            "title": event.__name__,
            "summary": _first_sentence(event),
            "payload": _reference("schemas", event.__name__),
            **({} if shards else {"bindings": _CUSTOMER_KEY}),
            **({"headers": _CLOUD_HEADERS} if event in _OUT else {}),
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
                "segstream_group": _TEXT,
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
    found["rate"] = {
        "name": "rate",
        "summary": "The price of one unit of a currency, as decimal text. Written by `segstream rates load` alone.",
        "payload": {"type": "object", "properties": {"rate": _TEXT}, "required": ["rate"]},
    }
    return found


_CLOUD_HEADERS: Final = {
    "type": "object",
    "properties": dict.fromkeys(("ce_id", "ce_source", "ce_specversion", "ce_type", "ce_subject", "ce_time"), _TEXT),
}


def _first_sentence(event: Any) -> str:
    return re.split(r"(?<=\.) ", event.__doc__ or "", maxsplit=1)[0]
