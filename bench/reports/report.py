"""The results: tables on the terminal, and the page docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.reports.tables import number, table
from bench.reports.time_report import time_lines, time_problems, time_section

COLUMNS = (
    "program",
    "orders/s",
    "times Faust",
    "CPU s per million",
    "broker's CPU s",
    "Valkey's CPU s",
    "peak MB",
    "moves",
    "guarantee",
    "others, cores",
    "load before",
)


def problems(result: dict[str, Any]) -> list[str]:
    """Return the problems that the checks of the outputs found."""
    takeover, rolling = result.get("takeover"), result.get("rolling") or {}
    rows = [*result["rows"], *([{"row": "takeover", **takeover}] if takeover else [])]
    wrong = [f"{row['row']}: {text}" for row in rows for text in (row["checks"] or {}).get("problems", [])]
    wrong += [f"rolling: {rolling[kind]} moves {kind}" for kind in ("lost", "doubled") if rolling.get(kind)]
    return wrong + time_problems(result)


def show(result: dict[str, Any], console: Console) -> None:
    """Print the results."""
    if result["rows"]:
        grid = Table(*COLUMNS, box=None, pad_edge=False)
        for cells in _cells(result):
            grid.add_row(*cells)
        console.print(grid)
    for line in (*_latency(result), *_rolling(result), *_takeover(result), *_profile(result), *time_lines(result)):
        console.print(line, markup=False)
    for text in problems(result):
        console.print(f"WRONG: {text}", style="red", markup=False)
    if result["rows"] and not problems(result):
        console.print("outputs checked: all agree with the orders")


def _cells(result: dict[str, Any]) -> Iterable[list[str]]:
    rate_of = {row["row"]: row["orders_per_s"] for row in result["rows"]}
    faust = rate_of.get("faust")
    for row in result["rows"]:
        times = row["orders_per_s"] / faust if faust and row["orders_per_s"] else None
        yield [
            row["label"],
            number(row["orders_per_s"]),
            number(times, 1),
            number(row["cpu_s_per_million"], 1),
            number(row["broker_cpu_s_per_million"], 1),
            number(row["valkey_cpu_s_per_million"], 1),
            number(row["peak_rss_mb"]),
            number(row["checks"]["moves"] if row["checks"] else None),
            row["guarantee"],
            number(row["others_cores"], 2),
            number(row["load_average"], 2),
        ]


def _latency(result: dict[str, Any]) -> list[str]:
    latency = result["latency"]
    if latency is None:
        return []
    line = (
        f"from an order to its visible move, {latency['rate_per_s']:,.0f} orders/s, {latency['moves']:,} moves: "
        f"p50 {latency['p50_ms']} ms, p99 {latency['p99_ms']} ms, longest {latency['max_ms']} ms; "
        f"worker {latency['worker_cores']:.0%} of a core, broker {latency['broker_cores']:.0%}, "
        f"Valkey {latency['valkey_cores']:.0%}, all others {latency['others_cores']:.0%}"
    )
    return [line]


def _rolling(result: dict[str, Any]) -> list[str]:
    rolling = result.get("rolling")
    if rolling is None:
        return []
    line = (
        f"rolling restart of three workers, {rolling['rate_per_s']:,.0f} orders/s, {rolling['orders']:,} orders, "
        f"{rolling['timed']:,} of them timed: pause of a shard p50 {rolling['pause_p50_ms']} ms, "
        f"p99 {rolling['pause_p99_ms']} ms, longest {rolling['pause_max_ms']} ms ({rolling['pauses']} pauses), "
        f"between the changes p99 {rolling['calm_p99_ms']} ms; lost {rolling['lost']}, doubled {rolling['doubled']}"
    )
    return [line]


def _takeover(result: dict[str, Any]) -> list[str]:
    takeover = result.get("takeover")
    if takeover is None:
        return []
    parts = ", ".join(f"{_behind(lag)} {lag['ready_p50_s']:.1f} s" for lag in takeover["lags"])
    line = (
        f"start-up and takeover of {takeover['shards']} shards by one worker, median of {takeover['times']} "
        f"(rebuilt: once), by the number of orders that Redis lags: {parts}"
    )
    return [line]


def _behind(lag: dict[str, Any]) -> str:
    """Return how far Redis lags.

    >>> _behind({"orders": 1000, "rebuilt": False}), _behind({"orders": 0, "rebuilt": False})
    ('1,000', 'none')
    """
    return (number(lag["orders"]) if lag["orders"] else "none") + (" (rebuilt)" if lag["rebuilt"] else "")


def _takeover_table(result: dict[str, Any]) -> str:
    head = [
        "Redis lags by, orders",
        "ready after, s",
        "longest, s",
        "all takeovers, s",
        "one shard's takeover, s",
        "orders/s read again",
    ]
    rows = [
        [
            _behind(lag),
            number(lag["ready_p50_s"], 2),
            number(max(lag["ready_s"]), 2),
            number(lag["takeover_p50_s"], 2),
            number(lag["shard_p50_s"], 2),
            number(lag["orders_per_s"]),
        ]
        for lag in result["takeover"]["lags"]
    ]
    return table(head, rows)


def _profile(result: dict[str, Any]) -> list[str]:
    profile = result["profile"]
    if profile is None:
        return []
    parts = ", ".join(f"{stage} {share:.0%}" for stage, share in profile["shares"].items())
    return [f"the worker's CPU time by stage ({profile['samples']:,} samples): {parts}"]


def page(result: dict[str, Any], time: dict[str, Any] | None = None) -> str:
    """Return the page for a run of all rows.

    `time`: a run with the rows about time, which may be another one; None: leave them out.
    """
    machine, options, takeover = result["machine"], result["options"], result["takeover"]
    packages = ", ".join(f"{name} {release}" for name, release in machine["packages"].items())
    shares = [[stage, f"{share:.1%}"] for stage, share in result["profile"]["shares"].items()]
    checks = {row["row"]: row["checks"] for row in result["rows"]}
    agents = next(row for row in result["rows"] if row["row"] == "faust")
    return _PAGE.format(
        command=result["command"],
        started_at=result["started_at"],
        machine=f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gb']} GB, {machine['system']}",
        versions=f"{machine['python']}, Apache Kafka {machine['kafka']}, Valkey {machine['valkey']}; {packages}",
        orders=number(options["orders"]),
        customers=number(checks["wall"]["customers"]),
        minutes=number(1e6 / agents["orders_per_s"] / 60 if agents["orders_per_s"] else None),
        faust_orders=number(agents["orders"]),
        table=_throughput_table(result),
        latency="\n".join(_latency(result)).removeprefix("from").strip(),
        rolling="\n".join(_rolling(result)).removeprefix("rolling restart").strip(),
        takeover=_takeover_table(result),
        takeover_orders=number(takeover["orders"]),
        takeover_customers=number(takeover["customers"]),
        takeover_shards=takeover["shards"],
        takeover_times=takeover["times"],
        takeover_moves=number(takeover["checks"]["moves"]),
        moved_by_time=number(takeover["moved_by_time"]),
        latency_s=number(options["latency_s"]),
        warm_up_s=number(options["warm_up_s"]),
        calm_s=number(options["calm_s"]),
        checked_customers=number(checks["wall"]["customers"]),
        checked_moves=number(checks["wall"]["moves"] + checks["event"]["moves"]),
        asked=number(checks["wall"]["segments_asked"] + checks["event"]["segments_asked"]),
        causes=", ".join(f"{cause} {number(count)}" for cause, count in checks["event"]["causes"].items()),
        shares=table(["stage", "share"], shares),
        samples=number(result["profile"]["samples"]),
        profile_orders=number(result["profile"]["orders"]),
        about_time=time_section(time, apart=time is not result),
    )


def _throughput_table(result: dict[str, Any]) -> str:
    lines = [list(COLUMNS), ["---"] + ["---:"] * 7 + ["---"] + ["---:"] * 2, *_cells(result)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


_PAGE = """`make bench ARGS=--write-docs` writes this part of the page, up to "Other measurements". Its results are of
one run, except where a section says otherwise.

- Command: `{command}`, {started_at}
- Machine: {machine}
- Versions: {versions}

## Throughput

{orders} orders of {customers} customers, evenly over half a year, 8 partitions, lz4, all in Kafka before anything
starts. Every row is one process, measured one after the other, on one broker and one Valkey.

{table}

- **orders/s** counts from the moment at which the work may begin (the first shard taken over, the first event
  delivered) until everything is settled: moves committed in Kafka, states stored in Valkey. The start of the process
  and joining the group come before that.
- **CPU s per million** is the process's own CPU time in that span, scaled to a million orders; the broker's and
  Valkey's CPU time is scaled likewise.
- **others** are the cores that everything else kept busy: other programs, and the benchmark itself.
- **Draining** reads the topic (read_committed, 20,000 records a call) and decodes nothing: the floor for anything that
  uses this client.
- **The Faust agent** is written as Faust's documentation shows: per event a Redis HGETALL, Yeo-Johnson,
  `StandardScaler` and `KMeans.predict` with the same centroids, `topic.send` where the segment differs, a Redis HSET.
  It ran on {faust_orders} orders, with as many orders per customer. It does less: it keeps sums only, so orders never
  leave its window, cancelled and repeated orders aren't noticed, and silence moves nobody.

## Latency

From {latency}.

Wall time; {warm_up_s} s of warm-up, then {latency_s} s measured. Each order is of a new customer, so each makes a move.
The clock starts just before `send` and stops when a read_committed consumer has the move.

## Rolling restart

Rolling restart {rolling}.

Each of three workers in turn gets a SIGTERM, and some seconds later is started again: six changes, eight shards. The
pause of a shard is the longest wait of an order in it for its visible move, from the change until {calm_s} s later. One
order in ten is of a new customer, makes a move at once, and is timed.

## Start-up and takeover

{takeover_orders} orders of {takeover_customers} customers are processed and their moves published. Then Redis is put
back to its content some orders ago, as after a restore or a fail-over, or emptied by `segstream rebuild`, and one
worker starts. The figures are medians of {takeover_times} starts (rebuilt: one).

{takeover}

- **Ready after** counts from the start of the process until all {takeover_shards} shards are its own and Redis is level
  with Kafka.
- **All takeovers** is the part of it since the first shard's takeover began; Python's start and joining the group come
  before that. **One shard's takeover** is the mean of `segstream_takeover_seconds`; a worker takes its shards over at
  the same time, so they share a core.
- **Read again** is the lag, divided by the time that the takeovers took longer than without a lag.

A takeover publishes no moves but those by time: of {takeover_moves} moves, {moved_by_time} were published during the
takeovers, all caused by silence. After each takeover, every customer's state in Redis is, to the byte, the one before
(with one more move noted where time moved the customer).

{about_time}## How the outputs were checked

After each row of segstream, over all of its output:

- {checked_moves} moves: per customer the sequence is 1, 2, 3… and each `from` is the `to` before it.
- {checked_customers} customers, twice: number, sum and latest date of the orders in Valkey are those of an independent
  recomputation from the orders' JSON (standard library, `Decimal`); the segment and sequence stored are those of the
  last published move.
- {asked} customers at random: at the shard's clock and with the recomputed figures, the model leaves each in the
  segment of the last move.

Moves in event time by cause: {causes}. After the Faust agent: every customer's count and sum; its changes are counted.

## Where the time goes

These are samples of the worker's CPU time ({samples} of them, {profile_orders} orders, wall time); each belongs to the
innermost stage of the work on the stack. Waiting isn't counted.

{shares}

*Merge* adds an order to its customer's state; *search* finds when time alone will move the customer next; *write moves*
makes the events' bytes and headers.

## How to read this

Figures of a shared machine vary by ±30 % from run to run, more when other programs take a core. Compare the rows of one
run with each other: their ratios are stable. The Faust agent's figures come from fewer orders, since a million would
take {minutes} minutes. The latency is measured after the throughput, on a broker whose JVM has already compiled its
code; alone (`--only latency`), with a cold broker, it is higher.
"""
