"""A simulated rule file decides as the dispatcher has, as a model would that started, and as the forecast foretells."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from segmentation.campaign_rules import parse_rules
from stream.campaigns.simulate import CampaignSimulation, CampaignSimulator, SimulatedPart, SimulationRequest
from stream.clock import now_ms
from stream.customers.forecast import each_move
from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.models.shadow import shadow
from stream.models.topic import read_published
from stream.orders.simulate import simulate
from stream.replay.publisher import replay
from stream.settings import Settings
from tests.support.command_line import run
from tests.support.data.clock_models import clock_model
from tests.support.engine.real_worker import activate, processes, settled

pytestmark = pytest.mark.slow

DAY = 86_400_000
START = 1_600_000_000_000
AHEAD = 30

RULES = """
version: 2
time_zone: Europe/Berlin
quiet_hours: {from: "21:00", until: "08:00"}
holdouts: {global: 0.2}
caps: [{at_most: 1, within: 7d}]
rules:
- {name: first, when: {to: '*', cause: [first]}, then: {action: Welcome, channel: email}, cooldown: 30d}
- {name: other, when: {to: '*'}, then: {action: News, channel: email}, delay: 2h}
"""


async def test_it_decides_as_a_dispatcher_and_as_the_forecast(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    settings = settings_for(time="event", dwell_hours=36, rules_file=rules)
    await topics.create(settings)
    end = START + 200 * DAY
    rows = list(itertools.takewhile(lambda row: row.at_ms < end, simulate(11, 60, START)))
    with processes(settings, tmp_path, "worker", "dispatch"):
        await replay(settings, rows[: len(rows) // 2])
        await settled(settings)
        await asyncio.to_thread(activate, settings)
        await replay(settings, rows[len(rows) // 2 :], until_ms=end)
        await settled(settings)
        await settled(settings, topic=settings.changes_topic)
    published = await read_published(settings)
    table, other = parse_rules(RULES), clock_model()
    request = SimulationRequest(table, 400 * DAY, AHEAD * DAY, None)
    found = await CampaignSimulator(settings, published, request).run(now_ms())
    past, ahead = found.parts

    decided = [json.loads(record.value) for record in await read_topic(settings, settings.actions_topic)]
    happened = Counter((one["campaign"], _kind(one)) for one in decided)
    assert happened["first", "action"]
    assert happened["other", "delay"]
    # The last ones may still wait for a move that lets the dispatcher's clock pass their time.
    assert (happened - _counts(past)).total() == 0
    assert (_counts(past) - happened).total() <= found.held_back + 10

    predicted = [move for _, move in each_move(settings, published, AHEAD)]
    assert ahead.moves == len(predicted) > 0
    assert sum(one.actions + one.held_out + sum(one.withheld.values()) for one in ahead.campaigns) > 0

    started = await CampaignSimulator(settings, published, request._replace(model=other, ahead_ms=0)).run(now_ms())
    report = shadow(settings, published, other)
    assert {part.part: part.moves for part in started.parts} == {
        "past": past.moves,
        "model": sum(flow.customers for flow in report.flows),
    }
    command = ["campaigns", "simulate", str(rules), "--since", "400d", "--ahead", f"{AHEAD}d"]
    as_json = await asyncio.to_thread(run, settings, *command, "--json")
    assert msgspec.json.decode(as_json.stdout, type=CampaignSimulation) == found
    plain = await asyncio.to_thread(run, settings, *command)
    assert f"{past.moves:,} moves that have been" in plain.stdout
    assert plain.stdout.rstrip().endswith("Nothing was sent.")


def _kind(event: dict[str, str]) -> str:
    kind = event["type"].removeprefix("campaign.")
    return {"withheld": event.get("reason", ""), "scheduled": event.get("why", "")}.get(kind, kind)


def _counts(part: SimulatedPart) -> Counter[tuple[str, str]]:
    found = Counter[tuple[str, str]]()
    for one in part.campaigns:
        found[one.campaign, "action"] += one.actions
        found[one.campaign, "held_out"] += one.held_out
        for name, count in (*one.withheld.items(), *one.scheduled.items()):
            found[one.campaign, name] += count
    return +found
