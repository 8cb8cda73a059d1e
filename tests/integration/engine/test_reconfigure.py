"""Settings that all workers must share: a worker with others is refused, and `segstream reconfigure` changes them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from segmentation.entries import NONE
from segmentation.event_text import instant
from segmentation.events import Amount, OrderCancelled, OrderPlaced
from segmentation.rfm import advance_bytes, with_announcement
from stream.clock import now_ms
from stream.kafka import topics
from stream.status.report import ShardReport, report
from tests.support.command_line import run
from tests.support.engine.deployment import open_deployment
from tests.support.engine.real_worker import (
    activate,
    check_chains,
    launch,
    moves,
    processes,
    settled,
    states,
    store_heads,
)
from tests.support.engine.toy_engine import eventually
from tests.support.orders import send_events
from trainer.errors import SnapshotError
from trainer.snapshot.redis import take

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stream.settings import Settings

START = 1_735_689_600_000  # 2025-01-01
DAYS = 400
NAMES = [f"c{i:02}" for i in range(24)]


def history() -> list[Any]:
    """Return orders over more than a year, some of them cancelled: of each customer in another rhythm."""
    events: list[Any] = []
    for number, name in enumerate(NAMES):
        for turn, day in enumerate(range(number, DAYS, 11 + 3 * (number % 12))):
            at, text = instant(START + day * 86_400_000), f"{name}-{day}"
            amount = Amount(f"{20 + number}.00", "USD")
            events.append(OrderPlaced(id=text, order_id=text, customer_id=name, occurred_at=at, amount=amount))
            if turn % 4 == 3:
                later = at + timedelta(days=1)
                events.append(OrderCancelled(id=f"{text}-c", order_id=text, customer_id=name, occurred_at=later))
    return sorted(events, key=lambda event: event.occurred_at)


async def shop(settings: Settings) -> None:
    await topics.create(settings)
    await asyncio.to_thread(activate, settings)
    await send_events(settings, *history())


def other(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update=changes)


async def quarantined(settings: Settings, partitions: int) -> list[ShardReport]:
    """Wait until so many shards are quarantined. Return them."""
    found: list[ShardReport] = []

    async def there() -> bool:
        rows = await asyncio.to_thread(report, settings, "scoring", now_ms())
        found[:] = [row for row in rows if row.state == "quarantined"]
        return len(found) >= partitions

    await eventually(there, 90, f"{partitions} shards quarantined")
    return found


async def follows(settings: Settings) -> None:
    """Wait until all shards are under these settings, and rescored."""
    await eventually(
        lambda: all(
            head.agreed == settings.agreed and head.stripped is None and head.cursor is None
            for head in store_heads(settings, settings.orders_topic)
        ),
        90,
        "the new settings",
    )
    await settled(settings)


def bare(settings: Settings) -> dict[bytes, bytes]:
    """Return the states at their shard's clock, without the last published move."""
    at = max(head.clock for head in store_heads(settings, settings.orders_topic))
    return {
        key: with_announcement(advance_bytes(value, at, settings.rules), 0, 0, NONE)
        for key, value in states(settings).items()
    }


async def fresh(settings_for: Callable[..., Settings], like: Settings, folder: Path) -> dict[bytes, bytes]:
    """Return the states of another deployment that had these settings from its start."""
    names = [*type(like.agreed).__struct_fields__]
    values = {name: getattr(like, name) for name in names}
    settings = settings_for(partitions=like.partitions, **values)
    await topics.create(settings)
    await send_events(settings, *history())
    with processes(settings, folder / "fresh", "worker"):
        await settled(settings)
    return bare(settings)


def causes(published: list[list[dict[str, Any]]]) -> Counter[str]:
    return Counter(move["cause"] for rows in published for move in rows)


@pytest.mark.slow
async def test_a_worker_with_another_window_is_refused_until_it_is_reconfigured(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(partitions=2, time="event")
    changed = other(settings, window_days=120, grace_days=3)
    await shop(settings)
    with processes(settings, tmp_path, "worker"):
        await settled(settings)
        before, published = states(settings), await moves(settings)
        with processes(changed, tmp_path / "other", "worker"):
            (row, *_) = await quarantined(settings, 1)
            assert row.reason == "settings_changed"
            assert "SEGSTREAM_WINDOW_DAYS is 120 here, but 365" in row.detail
            assert "SEGSTREAM_GRACE_DAYS is 3 here, but 7" in row.detail
            assert "segstream reconfigure" in row.detail
    assert states(settings) == before, "it has touched nothing"

    refused = await asyncio.to_thread(run, changed, "rebuild", "--yes", code=1)
    assert "segstream reconfigure" in str(refused.exception)
    for reader in (("customer", "c01", "--json"), ("forecast",), ("export", "--out", str(tmp_path / "all.csv"))):
        error = (await asyncio.to_thread(run, changed, *reader, code=1)).exception
        assert "SEGSTREAM_WINDOW_DAYS is 120 here, but 365" in str(error), reader
        await asyncio.to_thread(run, settings, *reader)
    with pytest.raises(SnapshotError, match="SEGSTREAM_WINDOW_DAYS is 120 here, but 365"):
        take(changed, None, now_ms=now_ms())
    shown = await asyncio.to_thread(run, changed, "reconfigure")
    assert "SEGSTREAM_WINDOW_DAYS: 365 -> 120 (2 of 2 shards)" in shown.stdout
    assert states(settings) == before
    assert await moves(settings) == published

    with processes(changed, tmp_path, "worker"):
        await quarantined(settings, 2)
        done = await asyncio.to_thread(run, changed, "reconfigure", "--yes")
        assert "trying again: 0, 1" in done.stdout
        await follows(changed)
        after = await moves(changed)
    assert [rows[: len(then)] for rows, then in zip(after, published, strict=True)] == published
    assert causes(after)["settings"] > 0
    assert causes(after) - causes(published) == Counter(settings=causes(after)["settings"])
    check_chains(after)
    assert bare(changed) == await fresh(settings_for, changed, tmp_path)
    assert "nothing to do" in (await asyncio.to_thread(run, changed, "reconfigure", "--yes")).stdout


async def test_shards_without_a_turn_begin_under_the_settings_of_the_command(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(partitions=2, time="event")
    changed = other(settings, window_days=120)
    await topics.create(settings)
    assert "begins those without a turn: 0, 1" in (await asyncio.to_thread(run, changed, "reconfigure")).stdout
    done = await asyncio.to_thread(run, changed, "reconfigure", "--yes")
    assert "shard 1: changed; it had no turn yet" in done.stdout
    await asyncio.to_thread(activate, settings)
    await send_events(settings, *history())
    with processes(settings, tmp_path / "former", "worker"):
        await quarantined(settings, 2)
    with processes(changed, tmp_path, "worker"):
        await asyncio.to_thread(run, changed, "reconfigure", "--yes")
        await follows(changed)
    assert states(changed)


async def test_of_two_first_workers_with_other_windows_one_is_refused(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(partitions=4, time="event")
    changed = other(settings, window_days=120)
    await shop(settings)
    with processes(settings, tmp_path, "worker"), processes(changed, tmp_path / "other", "worker"):
        rows = await quarantined(settings, 1)
        assert {row.reason for row in rows} == {"settings_changed"}
        held = [head for head in store_heads(settings, settings.orders_topic) if head is not None]
        assert len({head.agreed for head in held}) <= 1


def moved_on(settings: Settings, before: list[Any]) -> bool:
    """Return whether Redis has come further, or is where it should be."""
    heads = store_heads(settings, settings.orders_topic)
    return all(head.agreed == settings.agreed for head in heads) or [head.offset for head in heads] != [
        head.offset for head in before
    ]


CHANGES = {
    "a larger window": {"window_days": 730},
    "a smaller cap": {"cap_entries": 5},
    "a dwell": {"dwell_hours": 24.0 * 30},
    "a limit of events": {"max_clock_jump_days": 60, "future_tolerance_s": 60},
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_killed_at_any_moment_a_change_ends_in_the_states_of_a_fresh_replay(
    settings_for: Callable[..., Settings], tmp_path: Path, change: dict[str, Any]
) -> None:
    settings = settings_for(partitions=2, time="event", dwell_hours=24.0, rescore_slice=3, turn_max_orders=40)
    changed = other(settings, **change)
    await shop(settings)
    with processes(settings, tmp_path, "worker"):
        await settled(settings)
    published = await moves(settings)
    # The command dies between its shards, or in one of them.
    for seconds in (1.5, 2.5):
        command = launch(changed, tmp_path, "reconfigure --yes")
        await asyncio.sleep(seconds)
        command.kill()
        command.wait()
    # So does a worker, while it reads again or rescores.
    for _ in range(3):
        worker = launch(changed, tmp_path, "worker")
        await asyncio.to_thread(run, changed, "reconfigure", "--yes")
        heads = store_heads(settings, settings.orders_topic)
        await asyncio.sleep(0.2)
        await eventually(partial(moved_on, changed, heads), 90, "a change in Redis")
        worker.kill()
        worker.wait()
    with processes(changed, tmp_path, "worker"):
        await asyncio.to_thread(run, changed, "reconfigure", "--yes")
        await follows(changed)
    after = await moves(changed)
    assert [rows[: len(then)] for rows, then in zip(after, published, strict=True)] == published
    check_chains(after)
    added = causes(after) - causes(published)
    assert set(added) <= {"settings"}
    assert all(
        count == 1
        for count in Counter(
            move["customer_id"] for rows in after for move in rows if move["cause"] == "settings"
        ).values()
    ), "published once each"
    assert bare(changed) == await fresh(settings_for, changed, tmp_path)


def as_before_the_settings(raw: bytes) -> bytes:
    """Return a head in Redis as the version wrote it whose heads knew no settings."""
    head = json.loads(raw)
    return json.dumps({k: v for k, v in head.items() if k not in {"agreed", "changes", "stripped", "stored"}}).encode()


@pytest.mark.slow
async def test_a_backup_by_an_earlier_version_is_not_taken_for_one_under_the_new_settings(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(partitions=2, time="event")
    changed = other(settings, window_days=730)
    async with open_deployment(settings) as shop:
        await send_events(settings, *history())
        with processes(settings, tmp_path, "worker"):
            await settled(settings)
        with shop.redis() as redis:
            for keys in shop.shards:
                raw = redis.get(keys.head)
                assert isinstance(raw, bytes)
                redis.set(keys.head, as_before_the_settings(raw))
            backup = shop.back_up()
        await asyncio.to_thread(run, changed, "reconfigure", "--yes")
        with processes(changed, tmp_path, "worker"):
            await follows(changed)
        published, right = await moves(changed), bare(changed)
        shop.restore(backup)
        with processes(changed, tmp_path, "worker"):
            await follows(changed)
        assert bare(changed) == right
        assert await moves(changed) == published


@pytest.mark.slow
async def test_more_partitions_before_the_rescore_leave_its_moves_their_cause(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(partitions=2, time="event")
    changed = other(settings, window_days=120, grace_days=3)
    new = other(changed, partitions=3)
    await shop(settings)
    with processes(settings, tmp_path, "worker"):
        await settled(settings)
    published = await moves(settings)
    await asyncio.to_thread(run, changed, "reconfigure", "--yes")
    await asyncio.to_thread(run, changed, "reshard", "--partitions", "3", "--yes")
    with processes(new, tmp_path, "worker"):
        await follows(new)
    after = await moves(new)
    added = causes(after) - causes(published)
    assert added
    assert set(added) == {"settings"}
    check_chains([sorted((move for rows in after for move in rows), key=lambda move: move["sequence"])])
    assert bare(new) == await fresh(settings_for, new, tmp_path)
