"""A running dispatcher takes a changed file of rules, and keeps the last good one where the new one can't be used."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer

from segmentation.campaign_rules import parse_rules
from segmentation.event_text import iso
from segmentation.events import encode
from segmentation.output_events import Cause, SegmentChanged
from stream.clock import now_ms
from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.local.machine import free_port
from stream.settings import Settings
from stream.status.report import report
from tests.support.engine.real_worker import processes
from tests.support.engine.toy_engine import eventually
from tests.support.rules import ANY, rules_text

BEFORE = rules_text(ANY)
AFTER = rules_text("to: [Loyal]", ANY).replace("name: b", "name: anew")
BROKEN = AFTER.replace("when", "whenever", 1)


class Dispatched:
    """Moves that are sent to a dispatcher, and what it decides on each."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sent = 0

    async def campaign(self) -> str:
        """Send a move, and return the campaign that acts on it."""
        self.sent += 1
        at = iso(now_ms())
        move = SegmentChanged(
            id=f"move-{self.sent}",
            customer_id="ann",
            sequence=self.sent,
            from_="At Risk",
            to="Champions",
            cause=Cause.ORDER,
            occurred_at=at,
            scored_at=at,
            model_version=None,
            rfm=None,
            before=None,
            distances={},
            next=None,
            causation_id=None,
        )
        async with AIOKafkaProducer(**self.settings.kafka_client()) as producer:
            await producer.send_and_wait(self.settings.changes_topic, encode(move), key=b"ann", partition=0)
        found: dict[str, dict[str, Any]] = {}

        async def decided() -> bool:
            records = await read_topic(self.settings, self.settings.actions_topic)
            decisions = [msgspec.json.decode(record.value or b"") for record in records]
            found.update({decision["change_id"]: decision for decision in decisions})
            return move.id in found

        await eventually(decided, what="a decision")
        return str(found[move.id]["campaign"])

    def fetch(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.settings.http_port}/{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def health(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.fetch("health"))
        return content

    async def healthy(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        async def holds() -> bool:
            return condition(await asyncio.to_thread(self.health))

        await eventually(holds, what="/health")

    def rules_in_force(self, text: str) -> Callable[[dict[str, Any]], bool]:
        return lambda health: bool(health["rules"] == parse_rules(text).digest)


async def test_a_dispatcher_takes_changed_rules(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(BEFORE, "utf-8")
    settings = settings_for(rules_file=rules, http_port=free_port())
    await topics.create(settings)
    dispatched = Dispatched(settings)
    with processes(settings, tmp_path, "dispatch"):
        assert await dispatched.campaign() == "a"
        rules.write_text(AFTER, "utf-8")
        await dispatched.healthy(dispatched.rules_in_force(AFTER))
        assert await dispatched.campaign() == "anew"

        rules.write_text(BROKEN, "utf-8")
        await dispatched.healthy(lambda health: bool(health["warnings"]))
        [warning] = dispatched.health()["warnings"]
        assert warning.startswith("the rules in force aren't those of the file, which can't be used: ")
        assert "line 3, rule 1 ('a'), whenever: unknown" in warning
        assert dispatched.health()["healthy"]
        assert await dispatched.campaign() == "anew"
        metrics = dispatched.fetch("metrics")
        assert "segstream_rules_loaded_total 2.0\n" in metrics
        assert "segstream_rules_failed_total 1.0\n" in metrics
        assert "segstream_rules_broken 1.0\n" in metrics

        async def shown() -> bool:
            rows = await asyncio.to_thread(report, settings, "campaigns", now_ms())
            return all(warning in row.warning for row in rows)

        await eventually(shown, what="the warning in the status")
        rules.write_text(BEFORE, "utf-8")
        await dispatched.healthy(dispatched.rules_in_force(BEFORE))
        assert dispatched.health()["warnings"] == []
        assert await dispatched.campaign() == "a"
