"""Measure segstream beside an ordinary Faust agent in one run, and check all outputs (`make bench`)."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from redis import Redis
from rich.console import Console

from bench.harness.children import ROOT
from bench.harness.machine import machine
from bench.reports.markdown import with_run
from bench.reports.report import page, problems, show
from bench.reports.time_report import TIME_ROWS, time_problems
from bench.rows import LABELS, Bench, Options
from bench.time_rows import TimeOptions
from stream.errors import SegstreamError
from stream.local.stack import LocalStack

ROWS: Final = (
    *LABELS,
    "latency",
    "profile",
    "rolling",
    "takeover",
)  # The rows about time and models take minutes more: they run only when `--only` names them.
OUT: Final = Path("out/bench.json")
TIME_OUT: Final = Path("out/bench-time.json")
DOCS: Final = ROOT / "docs" / "benchmarks.md"


def _parser() -> argparse.ArgumentParser:
    usual, time = Options(), TimeOptions()
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--orders", type=int, default=usual.orders, help="orders in Kafka before the measurement")
    parser.add_argument("--customers", type=int, default=usual.customers, help="customers of these orders")
    parser.add_argument("--faust-orders", type=int, default=usual.faust_orders, help="orders of the Faust agent")
    parser.add_argument("--profile-orders", type=int, default=usual.profile_orders, help="orders of the CPU profile")
    parser.add_argument(
        "--latency-seconds",
        type=float,
        default=usual.latency_s,
        help="seconds of the latency measurement, at 500 orders/s",
    )
    parser.add_argument(
        "--warm-up-seconds",
        type=float,
        default=usual.warm_up_s,
        help="seconds of warm-up before each latency measurement",
    )
    parser.add_argument(
        "--rolling-rate", type=int, default=usual.rolling_rate, help="orders/s during the rolling restart"
    )
    parser.add_argument(
        "--calm-seconds", type=float, default=usual.calm_s, help="seconds after each stop or start of a worker"
    )
    parser.add_argument(
        "--takeover-orders", type=int, default=usual.takeover_orders, help="orders before the takeovers"
    )
    parser.add_argument(
        "--takeover-times", type=int, default=usual.takeover_times, help="takeovers measured at each lag of Redis"
    )
    parser.add_argument("--due-customers", type=int, default=time.due_customers, help="customers of the row due")
    parser.add_argument("--due-rate", type=int, default=time.due_rate, help="customers that become due each second")
    parser.add_argument(
        "--due-seconds", type=float, default=time.due_s, help="seconds measured with orders, and as many without"
    )
    parser.add_argument(
        "--rest-customers",
        type=int,
        nargs="+",
        default=time.rest_customers,
        help="numbers of customers at rest to measure",
    )
    parser.add_argument(
        "--rest-seconds", type=float, default=time.rest_s, help="seconds measured at each number of customers"
    )
    parser.add_argument(
        "--flood-customers", type=int, default=time.flood_customers, help="customers that become due within one second"
    )
    parser.add_argument(
        "--swap-customers", type=int, default=time.swap_customers, help="customers during a change of the model"
    )
    parser.add_argument("--swap-rate", type=int, default=time.swap_rate, help="orders/s during the change of the model")
    parser.add_argument(
        "--swap-calm-seconds",
        type=float,
        default=time.swap_calm_s,
        help="seconds measured before the change of the model",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=(*ROWS, *TIME_ROWS),
        default=ROWS,
        help=f"rows to measure (default: all but {', '.join(TIME_ROWS)})",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help=f"file for the results, JSON (default: {OUT}; without any of the default rows {TIME_OUT})",
    )
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help=f"write {DOCS.relative_to(ROOT)}; needs all default rows, and takes rows about time from {TIME_OUT} too",
    )
    parser.add_argument("--from", dest="source", type=Path, help="measure nothing, and show the results in this file")
    return parser


def measure_all(options: Options, rows: list[str], console: Console) -> dict[str, Any]:
    """Measure the rows on one fresh stack, and return the results as JSON has them. Raises SegstreamError."""
    result: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": asdict(options),
        "rows": [],
        "latency": None,
        "profile": None,
        "rolling": None,
        "takeover": None,
        **dict.fromkeys(TIME_ROWS),
    }

    def report(line: str) -> None:
        console.print(line, style="dim", markup=False)

    with tempfile.TemporaryDirectory(prefix="segstream-bench-") as scratch:
        folder = Path(scratch)
        with (
            LocalStack(folder / "stack", long_run=True, report=report) as stack,
            Redis.from_url(stack.endpoints.redis) as redis,
        ):
            result["machine"] = machine(redis)
            bench = Bench(options, stack, redis, folder, report)
            for row in rows:
                report(f"measuring: {row}")
                found = bench.run(row)
                if row in LABELS:
                    result["rows"].append(found)
                else:
                    result[row] = found
    return result


def _about_time(result: dict[str, Any]) -> dict[str, Any] | None:
    """Return results with rows about time: this run's, else those in TIME_OUT; None where none exist."""
    if any(result.get(row) for row in TIME_ROWS):
        return result
    return json.loads(TIME_OUT.read_text(encoding="utf-8")) if TIME_OUT.exists() else None


def main() -> int:
    """Measure, show and write. Return 1 where an output was wrong or a row couldn't be measured, else 0."""
    parser = _parser()
    arguments = parser.parse_args()
    rows = [row for row in (*ROWS, *TIME_ROWS) if row in arguments.only]
    if arguments.write_docs and arguments.source is None and not {*ROWS} <= {*rows}:
        parser.error("--write-docs needs all default rows: leave out --only")
    console = Console(stderr=True)
    options = Options(
        arguments.orders,
        arguments.customers,
        arguments.faust_orders,
        arguments.profile_orders,
        arguments.latency_seconds,
        arguments.warm_up_seconds,
        arguments.rolling_rate,
        arguments.calm_seconds,
        arguments.takeover_orders,
        arguments.takeover_times,
        TimeOptions(
            arguments.due_customers,
            arguments.due_rate,
            arguments.due_seconds,
            tuple(arguments.rest_customers),
            arguments.rest_seconds,
            arguments.flood_customers,
            arguments.swap_customers,
            arguments.swap_rate,
            arguments.swap_calm_seconds,
        ),
    )
    out = arguments.out or (OUT if {*ROWS} & {*rows} else TIME_OUT)
    try:
        if arguments.source is not None:
            result = json.loads(arguments.source.read_text(encoding="utf-8"))
        else:
            result = measure_all(options, rows, console)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            console.print(f"results: {out}", markup=False)
    except SegstreamError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    show(result, Console(width=None if sys.stdout.isatty() else 160))
    wrong = problems(result)
    if arguments.write_docs and not wrong:
        about_time = _about_time(result)
        wrong = time_problems(about_time or {})
        run = page(result, None if wrong else about_time)
        DOCS.write_text(with_run(DOCS.read_text(encoding="utf-8"), run), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
