"""The forecast of customers who then buy nothing comes true, to the millisecond."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from stream.customers.forecast import ForecastFlow, ForecastMove, each_move, forecast_flows, named
from stream.kafka import topics
from stream.models.topic import read_published
from stream.orders.simulate import simulate
from stream.replay.publisher import replay
from stream.settings import Settings
from tests.support.command_line import run
from tests.support.engine.real_worker import activate, moves, processes, settled, states

DAY = 86_400_000
START = 1_600_000_000_000
DAYS = 90


async def test_the_forecast_comes_true(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(time="event", dwell_hours=36)
    await topics.create(settings)
    end = START + 300 * DAY
    rows = list(itertools.takewhile(lambda row: row.at_ms < end, simulate(11, 120, START)))
    with processes(settings, tmp_path, "worker"):
        await replay(settings, rows[: len(rows) // 2])
        await settled(settings)
        await asyncio.to_thread(activate, settings)
        await replay(settings, rows[len(rows) // 2 :], until_ms=end)
        await settled(settings)
        before = sum(map(len, await moves(settings)))
        published = await read_published(settings)
        predicted = [named(move, published) for _, move in each_move(settings, published, DAYS)]
        flows = forecast_flows(settings, published, DAYS)
        as_json = await asyncio.to_thread(run, settings, "forecast", "--days", str(DAYS), "--json")
        plain = await asyncio.to_thread(run, settings, "forecast", "--days", str(DAYS))
        await replay(settings, [], until_ms=end + DAYS * DAY)
        await settled(settings)
        happened = [move for partition in await moves(settings) for move in partition]
    published_since = sorted(
        (m["customer_id"], m["occurred_at"], m["from"], m["to"], m["rfm"]["monetary"])
        for m in happened
        if m["occurred_at"] >= flows.as_of and m["cause"] in {"silence", "window", "order", "refund", "cancellation"}
    )
    assert len(happened) > before + 30
    assert sorted((m.customer_id, m.at, m.from_segment, m.to_segment, m.monetary) for m in predicted) == published_since

    by_day = Counter((m.at[:10], m.from_segment, m.to_segment) for m in predicted)
    assert {(f.day, f.from_segment, f.to_segment): f.customers for f in flows.flows} == dict(by_day)
    assert flows.customers == len(states(settings))
    assert [msgspec.json.decode(line, type=ForecastFlow) for line in as_json.stdout.splitlines()] == flows.flows
    assert f"{len(predicted):,} moves by {flows.until}" in plain.stdout
    assert isinstance(predicted[0], ForecastMove)
