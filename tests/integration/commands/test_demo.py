from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from segmentation.event_text import instant
from stream.clock import now_ms
from stream.demo.run import DemoPlan, demo
from stream.demo.source import DemoRequest
from stream.demo.view import PlainView
from stream.errors import SegstreamError
from stream.orders.rows import parse_at
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRST = parse_at("2021-01-04T09:00:00Z")
DAY_MS = 86_400_000
CUSTOMERS = 240
MARK = "DEMO_TEST_MARK"
Order = tuple[str, str, int, Decimal]


def _shop() -> list[Order]:
    """Return orders (id, customer, ms, amount): all begin in the first weeks, one in three goes on, some much later."""
    chance = random.Random(7)
    orders: list[Order] = []
    for number in range(CUSTOMERS):
        at = FIRST + chance.randrange(40 * DAY_MS)
        for _ in range(1 if number % 3 else chance.randrange(2, 7)):
            orders.append((f"o{len(orders)}", f"c{number:03}", at, Decimal(chance.randrange(500, 20_000)) / 100))
            at += chance.randrange(20 * DAY_MS, 90 * DAY_MS)
    return [order for order in orders if order[2] < FIRST + 300 * DAY_MS]


@pytest.fixture(scope="module")
def orders_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("shop") / "orders.csv"
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(("order_id", "customer_id", "ordered_at", "amount", "currency"))
        writer.writerows((i, c, instant(at).isoformat(), amount, "EUR") for i, c, at, amount in _shop())
    return file


class Started:
    """A demo whose processes are found by a mark that all of them inherit."""

    def __init__(self, *arguments: str) -> None:
        self._mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stream.cli", "demo", *arguments],
            cwd=ROOT,
            env=os.environ | {MARK: self._mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def living(self) -> list[str]:
        """Return the command lines of all processes that carry the mark."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def works(self) -> bool:
        """Return whether Kafka, Valkey, a worker and the dispatcher are running."""
        assert self.process.poll() is None, self.process.communicate()
        living = self.living()
        return all(
            any(part in line for line in living) for part in ("kafka.Kafka", "valkey", "cli worker", "cli dispatch")
        )


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def begin(*arguments: str) -> Started:
        started.append(Started(*arguments))
        return started[-1]

    yield begin
    for begun in started:
        if begun.process.poll() is None:
            begun.process.kill()
        begun.process.communicate()


def _until(condition: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _result(begun: Started) -> dict[str, Any]:
    out, err = begun.process.communicate(timeout=150)
    assert begun.process.returncode == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


@pytest.mark.timeout(180)
def test_a_file_goes_through_the_whole_pipeline(
    start: Callable[..., Started], orders_file: Path, tmp_path: Path
) -> None:
    orders, out = _shop(), tmp_path / "out"
    begun = start("--source", str(orders_file), "--workers", "1", "--out", str(out), "--json")
    result = _result(begun)
    assert begun.living() == []

    assert (result["orders"], result["customers"], result["currency"]) == (len(orders), CUSTOMERS, "EUR")
    assert (result["left_out"], result["dead_letters"]) == ({}, 0)
    assert sum(line["customers"] for line in result["segments"]) == CUSTOMERS
    assert sum(Decimal(line["monetary"]) for line in result["segments"]) == sum(amount for *_, amount in orders)
    assert result["history"]["orders"] + result["live"]["orders"] == len(orders)
    assert min(result["history"]["orders"], result["live"]["orders"]) > 0

    check = result["check"]
    assert (check["customers"], check["broken"], check["duplicates"], check["strangers"]) == (CUSTOMERS, 0, 0, 0)
    assert sum(step["moves"] for step in result["matrix"]) == sum(result["causes"].values()) == check["moves"]
    assert result["causes"]["first"] == CUSTOMERS
    assert check["moves"] > CUSTOMERS, "no customer has moved since the first segment"
    worth = result["worth"]
    assert worth["moves_per_year"] > 0
    assert sum(line["customers"] for line in worth["segments"]) == CUSTOMERS
    assert sum(worth["campaigns"].values()) == result["actions"] > 0
    assert result["action_examples"]
    assert result["stories"]

    _hold_customers(out / "customers.csv", orders)
    assert len((out / "moves.jsonl").read_text().splitlines()) == check["moves"]
    assert len((out / "actions.jsonl").read_text().splitlines()) == result["actions"]
    assert len(json.loads((out / "model.json").read_text())["segments"]) > 5
    logs = {log.name for log in (out / "logs").iterdir()}
    assert logs == {"worker-1.log", "dispatcher.log", "trainer.log", "kafka.log", "valkey.log"}
    assert not (out / "servers").exists()


def _hold_customers(file: Path, orders: list[Order]) -> None:
    """Compare each customer's figures with plain sums: no order is older than the window."""
    with file.open(newline="") as lines:
        exported = {row["customer_id"]: row for row in csv.DictReader(lines)}
    end = max(at for _, _, at, _ in orders)
    for customer in {customer for _, customer, _, _ in orders}:
        mine = [(at, amount) for _, c, at, amount in orders if c == customer]
        row = exported.pop(customer)
        assert int(row["frequency"]) == len(mine)
        assert Decimal(row["monetary"]) == sum(amount for _, amount in mine)
        assert float(row["recency_days"]) == (end - max(at for at, _ in mine)) / DAY_MS
    assert exported == {}


@pytest.mark.timeout(150)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130)])
def test_nothing_is_left_running_however_a_demo_is_killed(
    start: Callable[..., Started], orders_file: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    # At the orders' own timing the rest of the file takes months.
    begun = start("--source", str(orders_file), "--workers", "1", "--out", str(tmp_path / "out"), "--speed", "1")
    assert _until(begun.works, 90)
    begun.process.send_signal(number)
    begun.process.wait(60)
    assert begun.process.returncode == code
    assert _until(lambda: not begun.living(), 45), begun.living()


def test_ctrl_c_ends_a_demo(start: Callable[..., Started], orders_file: Path, tmp_path: Path) -> None:
    begun = start("--source", str(orders_file), "--out", str(tmp_path / "out"))
    assert _until(lambda: any("kafka.Kafka" in line for line in begun.living()), 60)
    begun.process.send_signal(signal.SIGINT)
    begun.process.wait(60)
    assert begun.process.returncode == 130
    assert begun.living() == []


@pytest.mark.parametrize(
    ("train_at", "folder", "source", "message"),
    [
        (None, "old", None, "old exists and isn.t an empty folder"),
        ("2031-01-01", "new", None, "the model would be trained at 2031-01-01"),
        (None, "new", "none.csv", "none.csv: No such file"),
    ],
)
def test_an_impossible_demo_is_refused_before_anything_starts(
    orders_file: Path, tmp_path: Path, train_at: str | None, folder: str, source: str | None, message: str
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mine").write_text("")
    request = DemoRequest(
        str(orders_file if source is None else tmp_path / source),
        train_at_ms=None if train_at is None else parse_at(train_at),
    )
    with (
        pytest.raises(SegstreamError, match=message),
        demo(request, DemoPlan(tmp_path / folder), PlainView(print), now_ms),
    ):
        pass
    assert not (tmp_path / "new").exists()
