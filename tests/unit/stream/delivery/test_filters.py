"""Which of the decisions that the dispatcher publishes an endpoint gets."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from segmentation.output_events import CampaignBudget, CampaignDecision
from stream.delivery.filters import NotSendable, action_facts, wants
from stream.webhooks.endpoints import EVENT_TYPES, Endpoint, SecretSource
from tests.support.delivery.endpoint import action, encoded


def endpoint(**options: Any) -> Endpoint:
    return Endpoint(name="crm", url="https://crm.example/", secrets=(SecretSource(env="S"),), **options)


def test_an_endpoint_may_ask_for_every_decision_about_a_customer_and_no_other_record() -> None:
    tags = {event.__struct_config__.tag for event in get_args(CampaignDecision)}
    assert set(EVENT_TYPES) == tags
    assert CampaignBudget.__struct_config__.tag not in EVENT_TYPES


def test_the_fields_that_are_read_are_those_that_are_published() -> None:
    for event in get_args(CampaignDecision):
        fields = {field.name: field for field in msgspec.structs.fields(event)}
        assert {"id", "customer_id", "campaign", "channel"} <= fields.keys(), event


@pytest.mark.parametrize(
    ("options", "event", "wanted"),
    [
        ({}, {}, True),
        ({}, {"type": "campaign.withheld"}, False),
        ({}, {"type": "campaign.budget"}, False),
        ({"types": ("campaign.withheld",)}, {"type": "campaign.withheld"}, True),
        ({"campaigns": ("win-back",)}, {}, True),
        ({"campaigns": ("other",)}, {}, False),
        ({"channels": ("email", "push")}, {"channel": "push"}, True),
        ({"channels": ("push",)}, {}, False),
        ({"tags": ("vip", "marketing")}, {}, True),
        ({"tags": ("vip",)}, {}, False),
        ({"tags": ("vip",)}, {"tags": []}, False),
        ({"campaigns": ("win-back",), "channels": ("push",)}, {}, False),
    ],
)
def test_filters(options: dict[str, Any], event: dict[str, Any], *, wanted: bool) -> None:
    assert wants(endpoint(**options), action_facts(encoded(action(1, "c", **event)))) is wanted


@pytest.mark.parametrize(
    "value",
    [
        None, b"", b"{", b"[]", b"1", b"\xff\xfe", b'{"type": "campaign.action"}', b"[" * 100_000,
        encoded(action(1, "c", id="a.b")), encoded(action(1, "c", id="a\r\nx-evil: 1")), encoded(action(1, "c", id="")),
        encoded(action(1, "c", tags="vip")), encoded(action(1, "c", customer_id=7)),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_sent(value: bytes | None) -> None:
    with pytest.raises(NotSendable):
        action_facts(value)
