"""`segstream customer ID` in campaigns: the profile, what waits, and the latest decisions with their reasons."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from redis import Redis

from segmentation.campaign_state import Act, CampaignState, Candidate, Decided, Facts, GoalWatch, Pending, name_key
from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.events import encode
from segmentation.output_events import (
    CampaignAction,
    CampaignConverted,
    CampaignEvent,
    CampaignScheduled,
    CampaignWithheld,
    Money,
    Withheld,
)
from segmentation.partitioners import murmur2
from segmentation.profiles import DatedText, Profile
from segmentation.rfm import EMPTY, Kind, absorb_bytes, entry
from stream.customers.campaigns import CampaignsReport, campaigns_report, looked_line
from stream.kafka import topics
from stream.settings import Settings
from stream.storage.keys import ShardKeys
from tests.support.command_line import run
from tests.support.data.redis_customers import head

PARTITIONS = 2
ANN, CLEO = "ann-of-the-test", "cleo-of-the-test"
AT = 1_772_547_600_000
CANDIDATE = Candidate("m-1", "win-back", "Lost", "20 % off", "email", "At Risk → Lost (silence)", AT)
COMMON: dict[str, Any] = {
    "customer_id": ANN, "campaign": "win-back", "segment": "Lost", "action": "20 % off", "channel": "email",
    "change_id": "m-1", "occurred_at": iso(AT), "rules": "5b1f0c9e",
}  # fmt: skip
DECISIONS: list[CampaignEvent] = [
    CampaignScheduled(**COMMON, id="1", decided_at=iso(AT + 1), until=iso(AT + DAY_MS), why="delay"),
    CampaignWithheld(**COMMON, id="2", decided_at=iso(AT + 2), reason=Withheld.CAP, detail="2 actions within 7 days"),
    CampaignWithheld(**COMMON, id="3", decided_at=iso(AT + 3), reason=Withheld.HELD_OUT, detail="in the control group"),
    CampaignAction(**COMMON, id="4", decided_at=iso(AT + 4), reason="At Risk → Lost (silence)"),
    CampaignConverted(
        **COMMON, id="5", decided_at=iso(AT + 5), action_id="4", held_out=False, order_id="o-9",
        amount=Money("12.50", "USD"), ordered_at=iso(AT + 5), acted_at=iso(AT + 4),
    ),
]  # fmt: skip


def home(customer: str) -> int:
    return murmur2(customer.encode(), PARTITIONS)


async def publish(settings: Settings, customer: str, *values: bytes) -> None:
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        sent = [
            await producer.send(settings.actions_topic, value, key=customer.encode(), partition=home(customer))
            for value in values
        ]
        await asyncio.gather(*sent)


def store(settings: Settings, topic: str, customer: str, value: bytes) -> None:
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.hset(ShardKeys(settings.group, topic, home(customer)).states, customer, value)


@pytest.fixture
async def known(settings_for: Callable[..., Settings]) -> Settings:
    """A deployment in which Ann has an order and campaigns have decided, and Cleo has a profile alone."""
    settings = settings_for(partitions=PARTITIONS, rules_file=None)
    await topics.create(settings)
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for partition in range(PARTITIONS):
            redis.set(ShardKeys(settings.group, settings.orders_topic, partition).head, head(AT, PARTITIONS))
    order, _ = absorb_bytes(EMPTY, entry(Kind.PLACED, "1", AT, order="1", amount=125_000), AT, settings.rules)
    store(settings, settings.orders_topic, ANN, order)
    consent = (("email", DatedText(AT, "granted")), ("sms", DatedText(AT, "denied")))
    profile = Profile(DatedText(AT, "Europe/Berlni"), DatedText(AT, "de-AT"), consent)
    decided = Decided(
        counter=3,
        acts=(Act(name_key("welcome"), AT), Act(name_key("nobody knows it"), AT + 1, sent=False)),
        pendings=(Pending(CANDIDATE, AT + DAY_MS, "quiet_hours"),),
        watches=(GoalWatch(CANDIDATE._replace(campaign="vip"), "a-1", AT, AT + 30 * DAY_MS, held_out=True),),
    )
    state = CampaignState(2, name_key("Lost"), 0, Facts(profile), decided)
    store(settings, settings.changes_topic, ANN, state.pack())
    store(settings, settings.changes_topic, CLEO, CampaignState(facts=Facts(Profile(language=profile.language))).pack())
    return settings


async def shown(settings: Settings, *arguments: str) -> str:
    return str((await asyncio.to_thread(run, settings, "customer", *arguments)).stdout)


async def test_profile_and_decisions_are_shown_with_their_reasons(known: Settings) -> None:
    await publish(known, ANN, *(encode(event) for event in DECISIONS), b"not a decision")
    await publish(known, "bob", encode(DECISIONS[3]).replace(ANN.encode(), b"bob"))
    text = await shown(known, ANN)
    words = " ".join(text.split())
    since = f"(since {iso(AT)})"
    assert f"time zone Europe/Berlni, which is no time zone: the rule's counts {since}" in words
    assert f"language de-AT {since} consent for email granted {since} consent for sms denied {since}" in words
    assert f"waits until {iso(AT + DAY_MS)} (quiet hours): win-back, 20 % off by email" in words
    assert f"an order until {iso(AT + 30 * DAY_MS)} is a conversion: held out of vip at {iso(AT)}" in words
    assert f"last had welcome at {iso(AT)}" in words
    assert f"last held out of {name_key('nobody knows it').hex()} at {iso(AT + 1)}" in words
    rows = [line.split() for line in text.splitlines() if line.startswith("2026-03-03") and "win-back" in line]
    assert [row[0] for row in rows] == [iso(AT + n) for n in (5, 4, 3, 2, 1)]
    for outcome in (
        "converted order o-9 of 12.50 USD",
        "action 20 % off by email: At Risk → Lost (silence)",
        "not sent: held_out in the control group",
        "not sent: cap 2 actions within 7 days",
        f"waits until {iso(AT + DAY_MS)}: delay",
    ):
        assert outcome in words
    assert f"5 decisions in all of {known.actions_topic} (partition {home(ANN)})" in words

    found = json.loads(await shown(known, ANN, "--json"))
    assert (found["customer_id"], found["frequency"]) == (ANN, 1)
    [state] = found["campaigns"]["known"]
    assert state["profile"]["consent"]["sms"] == {"text": "denied", "since": iso(AT)}
    assert not state["profile"]["zone_exists"]
    assert [waiting["campaign"] for waiting in state["waiting"]] == ["win-back"]
    assert [event["type"].split(".")[1] for event in found["campaigns"]["decisions"]] == [
        "converted", "action", "withheld", "withheld", "scheduled",
    ]  # fmt: skip
    assert found["campaigns"]["looked"]["complete"]


async def test_a_customer_with_a_profile_alone_is_shown(known: Settings) -> None:
    text = await shown(known, CLEO)
    assert text.startswith(f"{CLEO}: no shard knows an order of this customer\n")
    assert f"language de-AT (since {iso(AT)})" in text
    found = json.loads(await shown(known, CLEO, "--json"))
    assert found["campaigns"]["known"][0]["profile"]["language"]["text"] == "de-AT"
    nobody = await asyncio.to_thread(run, known, "customer", "nobody", code=1)
    assert "no customer 'nobody'" in str(nobody.exception)


async def test_of_an_erased_customer_only_a_later_profile_is_shown(known: Settings) -> None:
    await publish(known, CLEO, encode(DECISIONS[3]).replace(ANN.encode(), CLEO.encode()))
    left, _ = absorb_bytes(EMPTY, entry(Kind.ERASED, "2", AT), AT, known.rules)
    store(known, known.orders_topic, CLEO, left)
    text = await shown(known, CLEO)
    assert f"{CLEO} was erased at {iso(AT)}" in text
    assert "language de-AT" in text
    assert "win-back" not in text
    store(known, known.changes_topic, CLEO, CampaignState(3, since=3, facts=Facts(erased_at=AT)).pack())
    assert "campaigns" not in await shown(known, CLEO)


async def test_a_state_that_cannot_be_read_is_named(known: Settings) -> None:
    store(known, known.changes_topic, ANN, b"\xff")
    text = await shown(known, ANN)
    assert f"can't be read: the state of '{ANN}' in shard" in text
    assert "isn't a campaign state of version 1 to 3" in text
    assert "last order" in text


async def test_the_search_goes_back_in_windows_and_says_how_far(known: Settings) -> None:
    """Of a log of 12,000 records: Ann's decisions are behind 11,000 of others."""
    await publish(known, ANN, *(encode(DECISIONS[0]) for _ in range(25)))
    noise = encode(DECISIONS[3]).replace(ANN.encode(), b"bob")
    async with AIOKafkaProducer(**known.kafka_client(), linger_ms=20) as producer:
        for _ in range(11_000):
            await producer.send(known.actions_topic, noise, key=b"bob", partition=home(ANN))
        await producer.flush()

    async def report(back: int) -> CampaignsReport:
        with Redis.from_url(known.redis_url.get_secret_value()) as redis:
            return await campaigns_report(redis, known, ANN, back=back)

    near, far = await report(6_000), await report(1_000_000)
    assert near.looked
    assert far.looked
    assert near.decisions == []
    assert near.looked.records == 10_000
    assert not near.looked.complete
    assert near.looked.since
    said = f"no decision among the newest 10,000 records of {known.actions_topic} (partition {home(ANN)}), back to 20"
    assert looked_line(near.looked, 0).startswith(said)
    assert [event.id for event in far.decisions] == ["1"] * 20
    assert far.looked.records == 11_025
    assert looked_line(far.looked, 20).startswith("the newest 20 of")


async def test_a_topic_that_cannot_be_read_is_named(known: Settings) -> None:
    other = known.model_copy(update={"actions_topic": f"{known.group}-nothing"})
    with Redis.from_url(known.redis_url.get_secret_value()) as redis:
        report = await campaigns_report(redis, other, ANN)
    assert report.looked
    assert looked_line(report.looked, 0) == f"decisions can't be read: there is no topic {known.group}-nothing"
    assert len(report.known) == 1
