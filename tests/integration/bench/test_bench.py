from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer
from redis import Redis

from bench.harness import outputs, sampler
from bench.harness.orders import bodies
from bench.harness.outputs import Checked, CustomerTotals, check_worker, recompute
from bench.reports.report import page, problems
from bench.reports.time_report import time_section
from bench.scenarios.takeover import RedisDump, TakeoverTimes, differences, lags_of, unexpected_moves
from segmentation.rfm import CustomerState, headers, pack
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from stream.settings import Settings

# Some twenty processes start, one after the other: that took 168 s on two busy cores.
pytestmark = pytest.mark.timeout(300)

ORDERS = 3_000
SMALL = ("--orders", "3000", "--customers", "600", "--faust-orders", "300", "--profile-orders", "3000")
BRIEF = ("--latency-seconds", "3", "--warm-up-seconds", "1", "--calm-seconds", "1", "--rolling-rate", "300")
TAKEOVER = ("--takeover-orders", "2400", "--takeover-times", "1")
DUE = ("--due-customers", "3000", "--due-rate", "100", "--due-seconds", "2", "--warm-up-seconds", "1")
REST = ("--rest-customers", "1000", "100", "--rest-seconds", "2", "--flood-customers", "3000")
SWAP = ("--swap-customers", "2000", "--swap-rate", "300", "--swap-calm-seconds", "1")
FIGURES = {
    "orders",
    "seconds",
    "orders_per_s",
    "cpu_s_per_million",
    "broker_cpu_s_per_million",
    "valkey_cpu_s_per_million",
    "peak_rss_mb",
    "load_average",
    "others_cores",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Return the output and the results of the whole benchmark."""
    return _run(tmp_path_factory.mktemp("bench") / "bench.json", *SMALL, *BRIEF, *TAKEOVER)


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Return the same for the rows about time, which run only by name."""
    return _run(
        tmp_path_factory.mktemp("bench") / "time.json", "--only", "due", "rest", "flood", "swap", *DUE, *REST, *SWAP
    )


def _run(out: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments, "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_row_is_measured_and_its_outputs_are_right(ran: tuple[str, dict[str, Any]]) -> None:
    _, result = ran
    assert [row["row"] for row in result["rows"]] == ["drain", "wall", "event", "faust"]
    assert [row["guarantee"] for row in result["rows"]] == ["none", "exactly once", "exactly once", "at least once"]
    for row in result["rows"]:
        assert set(row) >= FIGURES
        assert row["peak_rss_mb"] > 20
    assert problems(result) == []
    _, wall, event, faust = result["rows"]
    assert wall["orders"] == event["orders"] == ORDERS
    for row in (wall, event):
        assert row["orders_per_s"] > 0
        assert row["cpu_s_per_million"] > 0
        assert row["checks"]["customers"] == len(recompute(bodies(ORDERS, 600)))
        assert row["checks"]["moves"] >= row["checks"]["customers"]
        assert row["checks"]["segments_asked"] > 100
    assert set(event["checks"]["causes"]) >= {"first", "order", "silence"}
    assert faust["orders"] == 300
    assert faust["checks"]["moves"] >= faust["checks"]["customers"]


@pytest.mark.slow
def test_latency_is_that_of_every_order_after_the_warm_up(ran: tuple[str, dict[str, Any]]) -> None:
    latency = ran[1]["latency"]
    assert latency["orders"] == latency["moves"] == 1_500
    assert 0 < latency["p50_ms"] <= latency["p99_ms"] <= latency["max_ms"]


@pytest.mark.slow
def test_a_rolling_restart_loses_no_move_and_publishes_none_twice(ran: tuple[str, dict[str, Any]]) -> None:
    rolling = ran[1]["rolling"]
    assert (rolling["lost"], rolling["doubled"]) == (0, 0)
    assert (rolling["changes"], rolling["pauses"]) == (6, 48)
    assert rolling["pause_max_ms"] >= rolling["pause_p99_ms"] >= rolling["pause_p50_ms"] > 0


@pytest.mark.slow
def test_takeovers_are_timed_by_lag_and_publish_no_moves(ran: tuple[str, dict[str, Any]]) -> None:
    takeover = ran[1]["takeover"]
    assert [(lag["orders"], lag["rebuilt"]) for lag in takeover["lags"]] == [
        (0, False),
        (20, False),
        (200, False),
        (2_000, False),
        (2_400, True),
    ]
    for lag in takeover["lags"]:
        assert len(lag["ready_s"]) == takeover["times"] == 1
        assert lag["ready_p50_s"] > lag["takeover_p50_s"] > 0
        assert lag["shard_p50_s"] > 0
    checks = takeover["checks"]
    assert checks["problems"] == []
    assert checks["moves"] >= checks["customers"] == takeover["customers"] > 300
    assert checks["segments_asked"] > 100
    assert takeover["moved_by_time"] == checks["causes"].get("silence", 0)


@pytest.mark.slow
def test_profile_divides_the_time_among_stages(ran: tuple[str, dict[str, Any]]) -> None:
    profile = ran[1]["profile"]
    assert profile["samples"] > 10
    assert sum(profile["shares"].values()) == pytest.approx(1, abs=0.01)
    assert set(profile["shares"]) <= {stage for stage, _, _ in sampler.STAGES} | {sampler.REST}


@pytest.mark.slow
def test_page_and_table_show_the_results(ran: tuple[str, dict[str, Any]]) -> None:
    printed, result = ran
    text = page(result)
    assert "outputs checked: all agree with the orders" in printed
    assert f"p99 {result['latency']['p99_ms']} ms" in printed
    assert f"p99 {result['latency']['p99_ms']} ms" in text
    assert f"longest {result['rolling']['pause_max_ms']} ms" in text
    assert "start-up and takeover of 8 shards" in printed
    for lag in result["takeover"]["lags"]:
        assert f"| {lag['ready_p50_s']:.2f} | {max(lag['ready_s']):.2f} |" in text
    assert result["machine"]["kafka"] in text
    for row in result["rows"]:
        assert row["label"] in text


@pytest.mark.slow
def test_moves_by_silence_are_timed_and_correct(timed: tuple[str, dict[str, Any]]) -> None:
    due = timed[1]["due"]
    assert problems(timed[1]) == []
    assert due["busy"]["due"]["count"] == due["quiet"]["due"]["count"] == 200
    assert (due["busy"]["orders"]["count"] > 900, due["quiet"]["orders"]["count"]) == (True, 0)
    for spread in (due["busy"]["due"], due["quiet"]["due"], due["busy"]["orders"]):
        assert 0 < spread["p50_ms"] <= spread["p99_ms"] <= spread["max_ms"]


@pytest.mark.slow
def test_rest_costs_the_same_for_any_number_of_customers(timed: tuple[str, dict[str, Any]]) -> None:
    rest = timed[1]["rest"]
    few, many = rest["rows"]
    assert (few["customers"], many["customers"], rest["skipped"]) == (100, 1_000, [])
    assert many["redis_commands_per_s"] == pytest.approx(few["redis_commands_per_s"], rel=0.5)
    # No move is published and no head is written: at most the group's offsets add to the logs.
    assert max(row["kafka_bytes_per_s"] for row in rest["rows"]) < 2_000


@pytest.mark.slow
def test_all_moves_of_a_flood_are_published_under_load(timed: tuple[str, dict[str, Any]]) -> None:
    printed, result = timed
    flood = result["flood"]
    # They are due within one second, the last at its end: a machine that is quick enough is done right then.
    assert 0.9 <= flood["drained_s"] < 60
    assert min(flood["calm"]["count"], flood["during"]["count"]) > 100
    assert flood["rss_peak_mb"] >= flood["rss_before_mb"] > 20
    section = time_section(result, apart=True)
    assert f"{flood['during']['p99_ms']:,.1f}" in section
    assert "3,000 customers due within one second" in printed
    assert all(f"| {row['customers']:,} |" in section for row in result["rest"]["rows"])


@pytest.mark.slow
def test_a_new_model_rescores_all_customers_at_rest_and_under_load(timed: tuple[str, dict[str, Any]]) -> None:
    printed, result = timed
    swap = result["swap"]
    for kind in ("rest", "load"):
        found = swap[kind]
        assert found["moves"] > 20
        assert found["moves"] + found["stayed"] + found["by_time"] == 2_000
        assert found["ratio"] == pytest.approx(found["customers_per_s"] / found["plain_per_s"], rel=0.1)
        assert 0 <= found["started_s"] <= found["seconds"]
    assert (swap["rest"]["orders_per_s"], swap["rest"]["customers"]) == (0, 2_000)
    assert swap["load"]["orders_per_s"] > 200
    assert swap["load"]["calm"]["count"] > 20
    assert f"{swap['load']['ratio']:.2f} of the plain loop's" in printed
    assert swap["shadow"]["customers"] >= 2_000
    assert swap["shadow"]["during"]["count"] > 20
    assert f"| {swap['rest']['ratio']:.2f} |" in time_section(result, apart=True)


def studied(name: str, customers: int, tmp_path: Path) -> tuple[str, Any]:
    """Run a study; return what it printed and its result."""
    out = tmp_path / f"{name}.json"
    done = subprocess.run(
        [sys.executable, "-m", f"bench.studies.{name}", "--customers", str(customers), "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_training_is_measured_step_by_step(tmp_path: Path) -> None:
    printed, result = studied("training", 500, tmp_path)
    for kind in ("first", "again"):
        run = result[kind]
        assert run["verdict"] == "active"
        assert sum(run["steps"].values()) < run["seconds"]
        assert run["peak_rss_mb"] > 50
        assert f"{run['seconds']:.1f}" in printed


@pytest.mark.slow
def test_a_reshard_is_measured_phase_by_phase_and_its_outputs_are_right(tmp_path: Path) -> None:
    printed, result = studied("resharding", 200, tmp_path)
    (row,) = result["rows"]
    assert 60 < row["moved"] < row["customers"] <= 200
    assert row["problems"] == []
    assert 0 < sum(row["phases"].values()) < row["command_s"]
    assert min(*row["phases"].values(), row["stop_s"], row["start_s"], row["command_cpu_s"]) > 0
    assert f"| `segstream reshard`, s | {row['command_s']:.1f} |" in printed


def test_stages_name_existing_files_and_functions() -> None:
    for _, part, functions in sampler.STAGES:
        if part.startswith(("segmentation/", "stream/")):
            text = (ROOT / part).read_text(encoding="utf-8")
            assert all(f"def {name}(" in text for name in functions), part


def _move(customer: str, sequence: int, source: str | None, target: str) -> bytes:
    return json.dumps(
        {"customer_id": customer, "sequence": sequence, "from": source, "to": target, "cause": "order"}
    ).encode()


async def _check(settings: Settings, moves: list[bytes]) -> Checked:
    producer = AIOKafkaProducer(**settings.kafka_client())
    await producer.start()
    for move in moves:
        await producer.send_and_wait(settings.changes_topic, move, key=b"c1", partition=0)
    await producer.stop()
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        return await check_worker(settings, redis, {})


@pytest.mark.parametrize(
    ("second", "wrong"),
    [
        ((2, "Loyal", "Lost"), False),
        ((3, "Loyal", "Lost"), True),
        ((2, "Lost", "Loyal"), True),
        ((1, None, "Loyal"), True),
    ],
)
async def test_checks_see_a_broken_chain(
    settings: Settings, second: tuple[int, str | None, str], *, wrong: bool
) -> None:
    checked = await _check(settings, [_move("c1", 1, None, "Loyal"), _move("c1", *second)])
    assert checked.moves == 2
    assert bool(checked.problems) == wrong


def _sequenced(**sequences: int) -> dict[bytes, bytes]:
    """Return states that differ in the number of the last move alone."""
    return {name.encode(): pack(CustomerState(segment=2, sequence=n)) for name, n in sequences.items()}


@pytest.mark.parametrize(
    ("after", "wrong"),
    [
        (_sequenced(a=1, b=3), False),
        (_sequenced(a=1, b=4), False),  # time has moved b
        (_sequenced(a=1, b=5), True),
        (_sequenced(a=1, b=2), True),
        (_sequenced(a=1), True),
        (_sequenced(a=1, b=3, c=1), True),
        (_sequenced(a=1) | {b"b": pack(CustomerState(segment=3, sequence=3))}, True),
        (_sequenced(a=1) | {b"b": pack(CustomerState(segment=3, sequence=4))}, False),
        (_sequenced(a=1) | {b"b": pack(CustomerState(segment=3, sequence=4, frequency=1))}, True),
    ],
)
def test_checks_see_states_that_a_takeover_changed(after: dict[bytes, bytes], *, wrong: bool) -> None:
    assert bool(differences(_sequenced(a=1, b=3), after)) == wrong


def test_checks_see_moves_that_a_takeover_published() -> None:
    before = Checked(causes={"first": 9, "order": 4})
    assert unexpected_moves(before, Checked(causes={"first": 9, "order": 4, "silence": 2})) == []
    assert unexpected_moves(before, Checked(causes={"first": 9, "order": 5})) == [
        "1 moves published in takeovers: order"
    ]
    assert unexpected_moves(before, Checked(causes={"first": 9, "silence": 2})) == [
        "-4 moves published in takeovers: order"
    ]


def test_problems_name_the_row_of_the_takeovers() -> None:
    checks = {"problems": ["1 moves published in takeovers: order"]}
    assert problems({"rows": [], "takeover": {"checks": checks}}) == ["takeover: 1 moves published in takeovers: order"]


def test_rate_of_reading_again_leaves_out_the_time_of_a_takeover_without_a_lag() -> None:
    dumps = [
        RedisDump(0, rebuilt=False, shards=[]),
        RedisDump(50, rebuilt=False, shards=[]),
        RedisDump(60_000, rebuilt=True, shards=[]),
    ]
    rows = [
        [TakeoverTimes(3.0, 0.5, 0.4)] * 3,
        [TakeoverTimes(3.1, 0.6, 0.5)] * 3,
        [TakeoverTimes(9, 9, 9), TakeoverTimes(5.4, 2.5, 2.0), TakeoverTimes(5, 2, 1)],
    ]
    none, little, all_of_them = lags_of(dumps, rows)
    assert (none.orders_per_s, little.orders_per_s) == (None, None)
    assert (all_of_them.orders_per_s, all_of_them.ready_p50_s, all_of_them.rebuilt) == (30_000, 5.4, True)


def _state(**fields: Any) -> Any:
    usual: dict[str, Any] = {"frequency": 1, "monetary": 50_000, "last": 7, "segment": 2, "sequence": 1}
    return headers([pack(CustomerState(**(usual | fields)))])[0]


@pytest.mark.parametrize(
    ("fields", "wrong"), [({}, False), ({"frequency": 2}, True), ({"monetary": 50_001}, True), ({"last": 8}, True)]
)
def test_checks_see_a_figure_that_differs(fields: dict[str, int], *, wrong: bool) -> None:
    checked = Checked()
    outputs._compare(b"c1", _state(**fields), CustomerTotals(1, 50_000, 7), checked)
    assert bool(checked.problems) == wrong


def test_checks_see_a_segment_that_the_model_would_leave() -> None:
    figures = CustomerTotals(1, 50_000, 7)
    # One small order, long ago, isn't a champion's.
    long_after = 7 + 200 * 86_400_000
    for segment, wrong in ((5, False), (1, True)):
        checked = Checked()
        outputs._check_segments([(b"c1", _state(segment=segment), long_after)], {b"c1": figures}, checked)
        assert checked.segments_asked == 1
        assert bool(checked.problems) == wrong


async def test_checks_see_missing_customers(settings: Settings) -> None:
    expected = await asyncio.to_thread(recompute, bodies(10, 3))
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        checked = await check_worker(settings, redis, expected)
    assert checked.problems == [f"0 customers in Redis, {len(expected)} in the orders"]
