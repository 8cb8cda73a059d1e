"""Measure segstream beside an ordinary Faust agent in one run, and check all outputs (`make bench`)."""

from __future__ import annotations

import argparse
import json
import re
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

# The rows about time and models take minutes more: they run only when `--only` names them.
ROWS: Final = (*LABELS, "latency", "profile", "rolling", "takeover")
OUT: Final = Path("out/bench.json")
TIME_OUT: Final = Path("out/bench-time.json")
DOCS: Final = ROOT / "docs" / "benchmarks.md"


# Sizes of a run by their field in Options and TimeOptions: help texts of the options.
_SIZES: Final = {
    "orders": "orders in Kafka before the measurement",
    "customers": "customers of these orders",
    "faust_orders": "orders of the Faust agent",
    "profile_orders": "orders of the CPU profile",
    "latency_s": "seconds of the latency measurement, at 500 orders/s",
    "warm_up_s": "seconds of warm-up before each latency measurement",
    "rolling_rate": "orders/s during the rolling restart",
    "calm_s": "seconds after each stop or start of a worker",
    "takeover_orders": "orders before the takeovers",
    "takeover_times": "takeovers measured at each lag of Redis",
}
_TIME_SIZES: Final = {
    "due_customers": "customers of the row due",
    "due_rate": "customers that become due each second",
    "due_s": "seconds measured with orders, and as many without",
    "rest_customers": "numbers of customers at rest to measure",
    "rest_s": "seconds measured at each number of customers",
    "flood_customers": "customers that become due within one second",
    "swap_customers": "customers during a change of the model",
    "swap_rate": "orders/s during the change of the model",
    "swap_calm_s": "seconds measured before the change of the model",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    _add_sizes(parser, Options(), _SIZES)
    _add_sizes(parser, TimeOptions(), _TIME_SIZES)
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


def _add_sizes(parser: argparse.ArgumentParser, defaults: Options | TimeOptions, texts: dict[str, str]) -> None:
    """Add an option for each size: `latency_s` is `--latency-seconds`."""
    for field, text in texts.items():
        default = getattr(defaults, field)
        several = isinstance(default, tuple)
        name = re.sub("_s$", "_seconds", field)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=field,
            metavar=name.upper(),
            type=type(default[0] if several else default),
            nargs="+" if several else None,
            default=default,
            help=text,
        )


def _options(arguments: argparse.Namespace) -> Options:
    sizes = {field: getattr(arguments, field) for field in _SIZES}
    time_sizes = {field: getattr(arguments, field) for field in _TIME_SIZES}
    time_sizes["rest_customers"] = tuple(time_sizes["rest_customers"])
    return Options(**sizes, time=TimeOptions(**time_sizes))


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
    options = _options(arguments)
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
