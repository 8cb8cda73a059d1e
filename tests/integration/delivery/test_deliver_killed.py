"""`segstream deliver` as a process: killed in the middle of its work, started again, and stopped in good order."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from segmentation.partitioners import murmur2
from stream.kafka import topics
from stream.kafka.clients import read_topic
from tests.support.delivery.endpoint import DROP, SECRET, Reply, WebhookReceiver, action, encoded, webhook_endpoint
from tests.support.engine.toy_engine import eventually
from tests.support.secured.programs import ENDED_BY_SIGNAL, Running, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.settings import Settings

ACTIONS = 600
CONCURRENCY = 6
WAIT_S = 90

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def endpoints_file(path: Path, receiver: WebhookReceiver, token: str) -> Path:
    path.write_text(
        f"""
endpoints:
  - name: crm
    url: {receiver.url}?token={token}
    secrets: [{{env: HOOK_SECRET}}]
    allow_http: true
    allow_private: true
    start: beginning
    concurrency: {CONCURRENCY}
    retries: [1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s]
    breaker: {{failures: 1000}}
"""
    )
    return path


async def publish(settings: Settings, events: list[dict[str, Any]]) -> None:
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        for event in events:
            key = event["customer_id"].encode()
            partition = murmur2(key, settings.partitions)
            await producer.send(settings.actions_topic, encoded(event), key=key, partition=partition)


async def test_a_process_that_is_killed_goes_on_where_it_was(
    settings_for: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    settings = settings_for(session_timeout_ms=6_000)
    await topics.create(settings)
    events = [action(n, f"c{n % 60}") for n in range(ACTIONS)]
    await publish(settings, events)
    runs: list[Running] = []
    async with webhook_endpoint() as receiver:
        bad = [Reply(500), Reply(DROP), Reply(400), Reply(200, delay_s=0.3)]
        receiver.behave = lambda event, before: (
            bad[int(event["id"][-3:]) // 7 % 4]
            if int(event["id"][-3:]) % 7 == 0 and before < 2
            else Reply(delay_s=0.01)
        )
        file = endpoints_file(tmp_path / "endpoints.yaml", receiver, token="t0ken-0f-the-url")
        with ExitStack() as stack:

            def start(number: int) -> Running:
                line = f"segstream deliver --endpoints {file}"
                runs.append(stack.enter_context(running(settings, line, tmp_path / f"{number}.log")))
                return runs[-1]

            for number, most in enumerate((100, 300), start=1):
                process = start(number)
                await eventually(lambda: len(receiver.taken()) >= most, WAIT_S, f"{most} actions")  # noqa: B023
                process.process.kill()
                process.process.wait()
            process = start(3)
            await eventually(lambda: delivered_ids(settings, ACTIONS), WAIT_S, "all actions")
            code, lines = process.stop()
        assert (code, lines[-1]) == (0, ENDED_BY_SIGNAL["segstream"]), lines
        for customer in {event["customer_id"] for event in events}:
            assert receiver.order_of(customer) == [e["id"] for e in events if e["customer_id"] == customer]
        # Only what was under way when the process died may come twice.
        assert len(receiver.taken()) - ACTIONS <= 2 * CONCURRENCY
    logs = "".join("".join(run.lines()) for run in runs)
    assert SECRET not in logs
    assert "t0ken-0f-the-url" not in logs
    written = await written_outcomes(settings)
    assert {event["action_id"] for event in written} == {event["id"] for event in events}
    assert not any("t0ken-0f-the-url" in event["detail"] for event in written)


async def written_outcomes(settings: Settings) -> list[dict[str, Any]]:
    return [msgspec.json.decode(record.value) for record in await read_topic(settings, settings.deliveries_topic)]


async def delivered_ids(settings: Settings, count: int) -> bool:
    written = await written_outcomes(settings)
    return len({event["action_id"] for event in written if event["type"] == "campaign.delivered"}) == count
