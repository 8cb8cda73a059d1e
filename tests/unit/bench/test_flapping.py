from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import to_builtins

from bench.harness.model import bench_model
from bench.studies.flapping import Hop, lasting, main, markdown, measure, measure_all, synthetic
from bench.studies.memory_replay import MemoryRecord, MemoryReplay
from segmentation.events import CONTROL_KEY, ModelActivated, encode
from segmentation.rfm import Rules
from stream.orders.rows import placed
from tests.support.oracles.silence import moves_of_log, read_log, read_move
from tests.support.paths import ROOT

DAY = 86_400_000


def hop(day: int, source: str | None, target: str, *, by_time: bool = False) -> Hop:
    return Hop(day * DAY, source, target, by_time)


def test_a_return_is_a_flap_for_seven_days() -> None:
    start, there = hop(0, None, "A"), hop(10, "A", "B")
    for back, flaps in ((hop(17, "B", "A"), 0.5), (hop(18, "B", "A"), 0.0), (hop(11, "B", "C"), 0.0)):
        assert measure({"c": [start, there, back]}, [], 2.0) == (1.0, flaps, 0.0, 0.0)


def test_moves_by_time_that_last_thirty_days_are_lasting() -> None:
    own = [hop(0, None, "A"), hop(10, "A", "B", by_time=True), hop(39, "B", "A"), hop(50, "A", "C", by_time=True)]
    assert list(lasting({"c": own}, 80 * DAY)) == [("c", "C", 50 * DAY, 80 * DAY)]
    assert list(lasting({"c": own}, 79 * DAY)) == []


def test_delay_counts_from_the_lasting_move_and_late_moves_are_missed() -> None:
    wanted = [("c", "B", 10 * DAY, 60 * DAY)]

    def of(*hops: Hop) -> tuple[float, float]:
        found = measure({"c": list(hops)}, wanted, 1.0)
        return found.delay_days, found.missed

    start = hop(0, None, "A")
    assert of(start, hop(10, "A", "B")) == (0, 0)
    assert of(start, hop(13, "A", "B"), hop(20, "B", "A")) == (3, 0)
    assert of(hop(5, None, "B")) == (0, 0)  # in the segment already
    assert of(hop(5, None, "B"), hop(10, "B", "A")) == (0, 1)
    assert of(start, hop(60, "A", "B")) == (0, 1)
    assert of(start) == (0, 1)


def test_a_margin_makes_fewer_and_later_moves() -> None:
    table = measure_all(synthetic(250), margins=(0.0, 0.5), dwells=(0, 7))
    plain, margin, dwell = (table.cells[key] for key in ((0.0, 0), (0.5, 0), (0.0, 7)))
    assert (plain.delay_days, plain.missed) == (0, 0)
    assert margin.moves_per_year < plain.moves_per_year
    assert margin.delay_days > 1
    assert dwell.flaps <= plain.flaps
    assert table.customers > 200
    assert table.lasting > 100
    text = markdown(table)
    assert f"| 0 | {plain.moves_per_year:.2f} | {plain.flaps:.1%} | 0.0 d | 0.0% |" in text
    assert f"{table.lasting:,} lasting moves" in text


def test_the_replay_in_memory_publishes_every_move_that_a_brute_force_finds() -> None:
    orders = synthetic(60)
    rows = [row for row in orders.rows if row.kind == "placed"]
    history, rest = ([r for r in rows if (r.at_ms < orders.start_ms) == before] for before in (True, False))
    model, rules = bench_model(), Rules()
    shard = MemoryReplay("USD", rules)
    log = list(shard.records(history, orders.start_ms))
    shard.send(history, until_ms=orders.start_ms)
    shard.start(model)
    start = ModelActivated(id="m", activation=1, version=model.version)
    log += [MemoryRecord(0, 0, CONTROL_KEY, encode(start)), *shard.records(rest, orders.end_ms)]
    shard.send(rest, until_ms=orders.end_ms)
    wanted = moves_of_log(read_log(r._replace(offset=n) for n, r in enumerate(log)), model, rules.window)
    assert [read_move(to_builtins(move)) for move in shard.moves()] == wanted
    assert {"first", "order", "silence", "window"} == {move.cause for move in wanted}


def test_the_command_prints_a_table() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.studies.flapping", "--customers", "220", "--margins", "0", "1", "--dwells", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    title, _, _, _, *rows = done.stdout.strip().splitlines()
    assert title.startswith("**Synthetic shop**")
    assert [row.split()[1] for row in rows] == ["0", "1"]


def test_a_missing_data_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path)])
    assert "there is no online_retail/orders.csv.gz" in capsys.readouterr().err


def test_a_row_that_can_t_be_used_raises() -> None:
    shard = MemoryReplay("USD", Rules())
    with pytest.raises(ValueError, match=r"amount\.currency"):
        shard.send([placed("o", "c", DAY, 1, "EUR")], until_ms=2 * DAY)
