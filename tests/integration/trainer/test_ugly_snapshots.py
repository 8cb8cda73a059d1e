"""Customers that can't be trained on, through the whole command: one clear line, exit code 1, nothing published."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
from redis import Redis

from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.model import SegmentModel
from segmentation.rfm import Kind, entry
from stream.kafka import topics
from stream.storage.keys import ShardKeys
from tests.support.command_line import environment
from tests.support.data.redis_customers import UNITS, Entries, end_of_models, fill, order, segtrainer

if TYPE_CHECKING:
    from pathlib import Path

    from segmentation.rfm import Entry
    from stream.settings import Settings

T0 = 1_300_000_000_000
pytestmark = pytest.mark.usefixtures("quiet")
PARTITIONS = 3
HEADER = "order_id,customer_id,ordered_at,amount\n"


@pytest.fixture
def worker(settings_for: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Create a deployment in event time, with topics and without customers, and set its environment."""
    made = settings_for(time="event", partitions=PARTITIONS)
    asyncio.run(topics.create(made))
    for name, value in environment(made).items():
        monkeypatch.setenv(name, value)
    return made


def ordinary(customers: int, seed: int = 1) -> Entries:
    rng = np.random.default_rng(seed)
    found: Entries = {}
    for i in range(customers):
        times = np.sort(rng.integers(T0, T0 + 300 * DAY_MS, int(rng.geometric(0.3))))
        found[f"c{i:03}".encode()] = [
            order(f"{i}-{j}", int(t), round(float(rng.lognormal(4, 1)), 2)) for j, t in enumerate(times)
        ]
    return found


def alike(customers: int = 250) -> Entries:
    return {f"c{i:03}".encode(): [order(f"o{i}", T0, 30.0)] for i in range(customers)}


def two_kinds() -> Entries:
    old_and_new = (T0, 10.0), (T0 + 50 * DAY_MS, 990.0)
    return {
        f"c{i:03}".encode(): [order(f"o{i}-{n}", *old_and_new[i % 2]) for n in range(1 + i % 2)] for i in range(250)
    }


def bought_now() -> Entries:
    """Return customers whose last order is at the instant of the snapshot."""
    now = T0 + 300 * DAY_MS
    return {name: [*own, order(f"last-{name.decode()}", now, 5.0)] for name, own in ordinary(250).items()}


def owing(debt: Callable[[int], float]) -> Entries:
    """Return customers with more refunded than spent."""
    return {
        name: [*own, entry(Kind.REFUNDED, f"r{i}", own[-1].time, amount=_money(own) + round(debt(i) * UNITS))]
        for i, (name, own) in enumerate(ordinary(250).items())
    }


def _money(own: list[Entry]) -> int:
    return sum(e.amount for e in own)


def with_giant() -> Entries:
    found = ordinary(250)
    found[b"c007"].append(order("giant", found[b"c007"][-1].time, 1e12))
    return found


def wrong_type(redis: Redis, keys: ShardKeys) -> None:
    redis.delete(keys.head)
    redis.hset(keys.head, "name", "somebody else's")


def torn_state(redis: Redis, keys: ShardKeys) -> None:
    redis.hset(keys.states, "c001", "torn")


def torn_head(redis: Redis, keys: ShardKeys) -> None:
    redis.set(keys.head, "{}")


@dataclass(frozen=True)
class Ugly:
    """An input that no model can be made of. `message`: a pattern for the line on stderr."""

    message: str
    entries: Entries = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    spoil: Callable[[Redis, ShardKeys], None] | None = None
    file: bytes | None = None


REDIS = {
    "empty": Ugly(
        r"Redis at 127.0.0.1:\d+ has no shard of group group-\w+, .* no customers to train on. Run `segstream worker`"
    ),
    "one customer": Ugly(r"1 customers have an order that stands, expected at least 200. Wait for more", ordinary(1)),
    "199": Ugly(r"199 customers have an order that stands, expected at least 200. Wait for more", ordinary(199)),
    "two customers": Ugly(r"No .*k = 2 .* \(at least 0.8\)", ordinary(2), ("--min-customers", "2", "--k", "2")),
    "all equal": Ugly(r"recency_days is 0 for all 250 customers, .* Train on orders that differ", alike()),
    "all equal, long ago": Ugly(
        r"recency_days is 10 for all 250 customers", alike(), ("--as-of", "2011-03-23T07:06:40Z")
    ),
    "all recency 0": Ugly(r"recency_days is 0 for all 250 customers", bought_now()),
    "equal debts": Ugly(r"monetary is -5 for all 250 customers", owing(lambda _: 5.0)),
    "debts": Ugly(r"monetary hardly differs between customers after log1p. Try", owing(lambda i: 1.0 + i)),
    "a giant": Ugly(
        r"No fit passes .* k = 2 with identity fails by smallest share 0.004 \(at least 0.02\), .* Ask for another",
        with_giant(),
        ("--transform", "identity", "--k", "2,3"),
    ),
    "two kinds": Ugly(r"k=5, but only 2 customers differ. Give --k 2", two_kinds(), ("--k", "5")),
    "foreign keys": Ugly(
        r"WRONGTYPE .* check SEGSTREAM_REDIS_URL and SEGSTREAM_GROUP", ordinary(250), spoil=wrong_type
    ),
    "a state torn": Ugly(r"customer b'c001': 4 bytes .* `segstream rebuild`", ordinary(250), spoil=torn_state),
    "a head torn": Ugly(r"missing required field .* `segstream rebuild`", ordinary(250), spoil=torn_head),
    "too few partitions": Ugly(
        r"SEGSTREAM_PARTITIONS is 2, but .* more shards .* Set the number that the workers have",
        ordinary(250),
        variables={"SEGSTREAM_PARTITIONS": "2"},
    ),
}


def _file(rows: list[str]) -> bytes:
    return (HEADER + "".join(f"{row}\n" for row in rows)).encode()


FILES = {
    "not a number": Ugly(
        r"no usable order; rows left out: amount 4. ",
        file=_file([f"o{i},c{i},2011-05-05,{bad}" for i, bad in enumerate(("NaN", "Infinity", "-inf", "1e400"))]),
    ),
    "a giant": Ugly(r"rows left out: amount_out_of_range 1. ", file=_file([f"o1,c1,2011-05-05,{10**12}"])),
    "no rows": Ugly(r"no usable order; rows left out: none. docs/how-to/files.md", file=_file([])),
    "no columns": Ugly(
        r"orders.csv: no column order_id, .*; the file has a, b. A file of orders needs", file=b"a,b\n1,2\n"
    ),
    "not text": Ugly(r"orders.csv", file=b"\x00\xff\xfe" * 50),
    "nothing": Ugly(r"orders.csv", file=b""),
    "before the first": Ugly(
        r"has no customer with an order up to 2010-01-01.* its last event is of 2011-05-05.* later --as-of",
        file=_file(["o1,c1,2011-05-05,3"]),
        arguments=("--as-of", "2010-01-01"),
    ),
    "one customer": Ugly(
        r"1 customers have an order that stands, expected at least 200", file=_file(["o1,c1,2011-05-05,3"])
    ),
}
CASES = {f"Redis: {name}": case for name, case in REDIS.items()} | {
    f"file: {name}": case for name, case in FILES.items()
}


UGLY_BUT_CUSTOMERS = {
    "one customer": ordinary(1),
    "199": ordinary(199),
    "all equal": alike(),
    "all recency 0": bought_now(),
    "debts": owing(lambda i: 1.0 + i),
    "a giant": with_giant(),
    "two kinds": two_kinds(),
}


@pytest.mark.parametrize("name", UGLY_BUT_CUSTOMERS)
def test_by_own_clock_any_customers_make_a_model(
    name: str, worker: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fill(worker, UGLY_BUT_CUSTOMERS[name])
    arguments = ("run", "--recipe", "rhythm", "--dry-run", "--without-kafka", "--out", str(tmp_path))
    ended = segtrainer(monkeypatch, capsys, *arguments)
    assert ended.code == 0, ended.line
    [path] = tmp_path.glob("model-*.json")
    model = SegmentModel.from_json(path.read_bytes())
    assert model.format == 2
    assert model.training.customers == sum(bool(own) for own in UGLY_BUT_CUSTOMERS[name].values())
    assert "to fit how customers order (" in " ".join(ended.out.split())


@pytest.mark.parametrize("name", CASES)
def test_unusable_customers_end_in_one_line_and_publish_nothing(
    name: str, worker: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    case = CASES[name]
    fill(worker, case.entries)
    if case.spoil is not None:
        with Redis.from_url(worker.redis_url.get_secret_value()) as redis:
            case.spoil(redis, ShardKeys(worker.group, worker.orders_topic, 1))
    arguments = [*case.arguments, "--activate"]
    if case.file is not None:
        path = tmp_path / "orders.csv"
        path.write_bytes(case.file)
        arguments += ["--from", str(path)]
    ended = segtrainer(monkeypatch, capsys, "run", *arguments, **case.variables)
    assert ended.code == 1
    assert ended.line.startswith("segtrainer: ")
    assert re.search(case.message, ended.line), ended.line
    assert asyncio.run(end_of_models(worker)) == 0


def test_one_customer_more_is_enough_and_publishes(
    worker: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(worker, ordinary(200))
    ended = segtrainer(monkeypatch, capsys, "run", "--k", "4", "--force", "--activate")
    assert ended.code == 0, ended.err
    assert asyncio.run(end_of_models(worker)) > 0


def test_broken_rows_are_reported_and_the_others_trained_on(
    worker: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.INFO)
    good = [
        f"{e.event:x},{name.decode()},{iso(e.time)},{e.amount / UNITS:.2f}"
        for name, own in ordinary(250).items()
        for e in own
    ]
    broken = ["n1,c001,2011-05-05,NaN", "n2,c002,2011-05-05,Infinity", "n3,c003,yesterday,5", "n4,,2011-05-05,5", "n5"]
    path = tmp_path / "orders.csv"
    results = []
    for rows in (good, [*good[:100], *broken, *good[100:]]):
        path.write_bytes(_file(rows))
        ended = segtrainer(
            monkeypatch, capsys, "run", "--from", str(path), "--k", "4", "--force", "--dry-run", "--json"
        )
        assert ended.code == 0, ended.err
        results.append((json.loads(ended.out)["version"], re.findall("rows left out: (.*)", caplog.text)))
    assert results[0] == (results[1][0], [])
    assert results[1][1] == ["amount 2, date 1, no_customer 2"]
    assert asyncio.run(end_of_models(worker)) == 0
