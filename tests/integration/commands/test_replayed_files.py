"""Files through the real commands: killed and run again, with gaps, as backfills, and larger than memory."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.csv
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.events import CONTROL_KEY
from segmentation.money import format_units
from segmentation.rfm import advance_bytes
from stream import cli
from stream.kafka import topics
from stream.kafka.clients import end_offsets, read_topic
from stream.orders.files import read_orders
from stream.orders.rows import OrderRow, parse_at
from stream.orders.simulate import simulate
from stream.orders.sorting import in_time_order
from stream.replay.publisher import BackfillPart, replay
from stream.settings import Settings
from stream.worker.steps import scoring_step
from tests.support.command_line import environment, run, start
from tests.support.engine.real_worker import settled, states
from tests.support.engine.toy_engine import engine, eventually
from tests.support.paths import ROOT

SettingsFor = Callable[..., Settings]

START = parse_at("2011-03-01T10:00:00Z")
GAP_MS = 400 * DAY_MS
END = parse_at("2020-01-01")  # later than any of the files here
KINDS = {"placed": "order", "refunded": "refund", "cancelled": "cancellation"}


def shop(customers: int, rows: int) -> list[OrderRow]:
    """Return orders with a pause that is longer than a clock may jump."""
    found = list(itertools.islice(simulate(5, customers, START), rows))
    middle = found[rows // 2].at_ms
    return [row if row.at_ms < middle else msgspec.structs.replace(row, at_ms=row.at_ms + GAP_MS) for row in found]


def write(rows: list[OrderRow], path: Path) -> Path:
    """Write orders to a file, in random order."""
    lines = [
        f"{row.order_id or ''},{row.customer_id},{iso(row.at_ms)},{format_units(row.amount_units)},{KINDS[row.kind]}\n"
        for row in rows
    ]
    random.Random(1).shuffle(lines)
    path.write_text("order_id,customer_id,ordered_at,amount,kind\n" + "".join(lines))
    return path


async def taken_up(settings: Settings) -> dict[bytes, bytes]:
    """Return the states after everything that was sent, as of the file's end. There are no dead letters."""
    async with engine(settings, scoring_step(settings)):
        await settled(settings)
    assert await read_topic(settings, settings.orders_dead_letters_topic) == []
    # A state that wasn't read since it changed by time alone still has its former bytes.
    return {name: advance_bytes(value, END, settings.rules) for name, value in states(settings).items()}


async def sent(settings: Settings) -> int:
    return sum((await end_offsets(settings, settings.orders_topic)).values())


async def test_a_replay_that_is_killed_and_repeated_gives_the_same_states(
    settings_for: SettingsFor, tmp_path: Path
) -> None:
    path = write(shop(300, 4_000), tmp_path / "orders.csv")
    file = str(path)
    whole, killed = settings_for(time="event"), settings_for(time="event")
    for settings in (whole, killed):
        await topics.create(settings)
    with in_time_order(read_orders(path, currency=whole.currency)) as rows:
        await replay(whole, rows)
    want = await taken_up(whole)
    # Slowly enough for a kill in the middle.
    with start(killed, "replay", file, "--speed", "2e7") as process:
        await eventually(lambda: _some_arrived(killed), what="rows on their way")
        process.kill()
    assert 0 < await sent(killed) < await sent(whole)
    assert await taken_up(killed) != want
    with start(killed, "replay", file, "--json") as process:
        out, errors = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0, errors
    assert sum(json.loads(out)["sent"].values()) == 4_000
    assert await taken_up(killed) == want


async def _some_arrived(settings: Settings) -> bool:
    return await sent(settings) > 0


async def _stopped_in_the_middle(settings: Settings, rows: list[OrderRow], backfill: BackfillPart | None) -> Any:
    stop = asyncio.Event()
    return await replay(
        settings,
        rows,
        speed=1e8,
        backfill=backfill,
        stop=stop,
        progress=lambda done, _: stop.set() if done > len(rows) // 2 else None,
    )


async def test_a_stopped_replay_continues_where_it_says(settings_for: SettingsFor) -> None:
    rows = shop(200, 2_000)
    whole, halves = settings_for(time="event"), settings_for(time="event")
    for settings in (whole, halves):
        await topics.create(settings)
    await replay(whole, rows)
    first = await _stopped_in_the_middle(halves, rows, None)
    assert first.interrupted
    assert first.last_at is not None
    second = await replay(halves, rows, from_ms=parse_at(first.last_at))
    # Only rows of that instant are sent twice.
    assert 2_000 <= sum(first.sent.values()) + sum(second.sent.values()) < 2_010
    assert await taken_up(halves) == await taken_up(whole)


async def _events(settings: Settings) -> list[list[Any]]:
    """Return the events of each partition, with their keys."""
    found: list[list[Any]] = [[] for _ in range(settings.partitions)]
    for record in sorted(await read_topic(settings, settings.orders_topic), key=lambda record: record.offset):
        found[record.partition].append((record.key, msgspec.json.decode(record.value)))
    return found


async def test_a_backfill_marks_each_event_and_finishes_on_every_partition(settings: Settings) -> None:
    event_time = settings.model_copy(update={"time": "event"})
    rows = shop(50, 500)
    report = await replay(event_time, rows, backfill=BackfillPart("archive"))
    assert (report.backfill, report.finished) == ("archive", True)
    for events in await _events(settings):
        marks = [event["backfill"] for key, event in events if key != CONTROL_KEY]
        assert marks
        assert set(marks) == {"archive"}
        finish = {"type": "backfill.finished", "id": "backfill@archive", "backfill": "archive"}
        assert [event for _, event in events if event["type"] == "backfill.finished"] == [finish]
        assert events[-1] == (CONTROL_KEY, finish)
    want = await taken_up(event_time)
    # Again, and as a plain replay: the mark is no part of the event's content.
    await replay(event_time, rows, backfill=BackfillPart("archive"))
    await replay(event_time, rows)
    assert await taken_up(event_time) == want


async def test_a_stopped_backfill_is_not_finished(settings: Settings) -> None:
    report = await _stopped_in_the_middle(settings, shop(50, 500), BackfillPart("archive"))
    assert (report.interrupted, report.finished) == (True, False)
    types = {event["type"] for events in await _events(settings) for _, event in events}
    assert "backfill.finished" not in types


def test_a_backfill_of_several_files(settings_for: SettingsFor, tmp_path: Path) -> None:
    settings = settings_for(time="event")
    asyncio.run(topics.create(settings))
    rows = shop(50, 500)
    halves = [write(rows[:250], tmp_path / "a.csv"), write(rows[250:], tmp_path / "b.csv")]
    result = run(settings, "backfill", str(halves[0]), "--id", "archive", "--no-finish")
    assert "backfill archive isn't finished" in result.stderr
    assert all(event["type"] != "backfill.finished" for events in asyncio.run(_events(settings)) for _, event in events)
    # After the first file has been processed, the second may begin years later.
    asyncio.run(taken_up(settings))
    result = run(settings, "backfill", str(halves[1]), "--id", "archive")
    assert "; backfill archive is finished; last offsets" in result.stdout
    finished = [event for events in asyncio.run(_events(settings)) for _, event in events[-1:]]
    assert [event["type"] for event in finished] == ["backfill.finished"] * settings.partitions
    assert len(asyncio.run(taken_up(settings))) == len({row.customer_id for row in rows})


def test_a_backfill_refuses_wrong_ids_and_files(settings: Settings, tmp_path: Path) -> None:
    file = str(write(shop(5, 20), tmp_path / "orders.csv"))
    early = ["--from", "2011-02-01", "--until", "2011-01-31"]
    for wrong in (
        [],
        ["--id", ""],
        ["--id", "x" * 201],
        ["--id", "a\nb"],
        ["--id", "x", *early],
        ["--id", "x", "--speed", "1"],
    ):
        assert CliRunner().invoke(cli.app, ["backfill", file, *wrong], env=environment(settings)).exit_code == 2
    late = run(settings, "backfill", file, "--id", "x", "--until", "9000-01-01", code=1)
    assert "lies in the future" in str(late.exception)
    (tmp_path / "none.csv").write_text("order_id,customer_id,ordered_at,amount\n1,,2011-01-01,5\n")
    none = run(settings, "backfill", str(tmp_path / "none.csv"), "--id", "x", code=1)
    assert "no row can be used. Left out: 1 no_customer." in str(none.exception)
    assert asyncio.run(sent(settings)) == 0


def test_rows_of_the_future_and_of_the_far_past_are_left_out_and_counted(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text("order_id,customer_id,ordered_at,amount\n1,a,9000-01-01,5\n2,a,2011-01-01,5\n3,a,1989-12-31,5\n")
    assert "sent 1 placed" in (shown := run(settings, "replay", str(path)).stdout)
    assert "left out 1 date, 1 dated_ahead" in shown


PEAK = """
import sys
from collections import Counter
from pathlib import Path
from stream.orders.files import read_orders
from stream.orders.sorting import in_time_order
import pyarrow.parquet
counts = Counter()
rows = read_orders(Path(sys.argv[1]), currency="USD", counts=counts)
with in_time_order(rows, left_out=counts, in_memory_rows=5_000, runs_at_once=8) as ordered:
    print(sum(1 for _ in ordered))
# Not from the resource usage, which starts with the parent's.
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


def _peak_mb(path: Path, rows: int) -> float:
    # Arrow's own pools keep their memory.
    plain = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"}
    result = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], cwd=ROOT, env=plain, capture_output=True, text=True, check=True
    )
    read, kib = map(int, result.stdout.split())
    assert read == rows
    return kib / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("name", ["orders.csv.gz", "orders.parquet"])
def test_a_file_five_times_as_large_takes_no_more_memory(tmp_path: Path, name: str) -> None:
    peaks = []
    for rows in (40_000, 200_000):
        text = tmp_path / f"{rows}.csv.gz"
        with gzip.open(text, "wt", compresslevel=1) as file:
            file.write("order_id,customer_id,ordered_at,amount,kind\n")
            for n in range(rows):
                # In random order of time, each customer new, every second row a refund.
                day = n * 7919 % 280
                kind = "refund" if n % 2 else ""
                file.write(
                    f"{n},c{n},2011-{day // 28 + 1:02}-{day % 28 + 1:02}T{n % 24:02}:{n % 60:02},{n % 90}.5,{kind}\n"
                )
        path = text
        if name.endswith(".parquet"):
            path = tmp_path / f"{rows}.parquet"
            pyarrow.parquet.write_table(pyarrow.csv.read_csv(text), path, row_group_size=20_000)
        peaks.append(_peak_mb(path, rows))
    # Held in memory, 160,000 rows more would take at least 40 MB.
    assert peaks[1] - peaks[0] < 15, peaks
