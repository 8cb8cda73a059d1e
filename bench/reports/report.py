"""The results, for people: a table on the terminal, and the page docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.reports.time_report import time_lines, time_problems, time_section

COLUMNS = (
    "who",
    "orders/s",
    "times Faust",
    "CPU s per million",
    "broker's",
    "Valkey's",
    "peak MB",
    "moves",
    "guarantee",
    "others, cores",
    "load before",
)


def problems(result: dict[str, Any]) -> list[str]:
    """What the checks of the outputs found wrong."""
    takeover, rolling = result.get("takeover"), result.get("rolling") or {}
    rows = [*result["rows"], *([{"row": "takeover", **takeover}] if takeover else [])]
    wrong = [f"{row['row']}: {text}" for row in rows for text in (row["checks"] or {}).get("problems", [])]
    wrong += [f"rolling: {rolling[kind]} moves {kind}" for kind in ("lost", "doubled") if rolling.get(kind)]
    return wrong + time_problems(result)


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    if result["rows"]:
        table = Table(*COLUMNS, box=None, pad_edge=False)
        for cells in _cells(result):
            table.add_row(*cells)
        console.print(table)
    for line in (*_latency(result), *_rolling(result), *_takeover(result), *_profile(result), *time_lines(result)):
        console.print(line, markup=False)
    for text in problems(result):
        console.print(f"WRONG: {text}", style="red", markup=False)
    if result["rows"] and not problems(result):
        console.print("outputs checked: all as the orders say")


def _number(value: float | None, digits: int = 0) -> str:
    """A figure with thousands separated; a dash where there is none.

    >>> _number(15000.4), _number(None), _number(0.25, 2)
    ('15,000', '-', '0.25')
    """
    return "-" if value is None else f"{value:,.{digits}f}"


def _cells(result: dict[str, Any]) -> Iterable[list[str]]:
    rate_of = {row["row"]: row["orders_per_s"] for row in result["rows"]}
    faust = rate_of.get("faust")
    for row in result["rows"]:
        times = row["orders_per_s"] / faust if faust and row["orders_per_s"] else None
        yield [
            row["label"],
            _number(row["orders_per_s"]),
            _number(times, 1),
            _number(row["cpu_s_per_million"], 1),
            _number(row["broker_cpu_s_per_million"], 1),
            _number(row["valkey_cpu_s_per_million"], 1),
            _number(row["peak_rss_mb"]),
            _number(row["checks"]["moves"] if row["checks"] else None),
            row["guarantee"],
            _number(row["others_cores"], 2),
            _number(row["load_average"], 2),
        ]


def _latency(result: dict[str, Any]) -> list[str]:
    told = result["latency"]
    if told is None:
        return []
    line = (
        f"from an order to its visible move, {told['rate_per_s']:,.0f} orders/s, {told['moves']:,} moves: "
        f"p50 {told['p50_ms']} ms, p99 {told['p99_ms']} ms, longest {told['max_ms']} ms; "
        f"worker {told['worker_cores']:.0%} of a core, broker {told['broker_cores']:.0%}, Valkey {told['valkey_cores']:.0%}, all others {told['others_cores']:.0%}"
    )
    return [line]


def _rolling(result: dict[str, Any]) -> list[str]:
    told = result.get("rolling")
    if told is None:
        return []
    line = (
        f"rolling restart of three workers, {told['rate_per_s']:,.0f} orders/s, {told['orders']:,} orders, {told['timed']:,} of them timed: "
        f"pause of a shard p50 {told['pause_p50_ms']} ms, p99 {told['pause_p99_ms']} ms, longest {told['pause_max_ms']} ms "
        f"({told['pauses']} of them), between the changes p99 {told['calm_p99_ms']} ms; lost {told['lost']}, doubled {told['doubled']}"
    )
    return [line]


def _takeover(result: dict[str, Any]) -> list[str]:
    told = result.get("takeover")
    if told is None:
        return []
    parts = ", ".join(f"{_behind(lag)} {lag['ready_p50_s']:.1f} s" for lag in told["lags"])
    return [
        f"start-up and takeover of {told['shards']} shards by one worker, median of {told['times']} (rebuilt: once), by how many orders Redis lags: {parts}"
    ]


def _behind(lag: dict[str, Any]) -> str:
    """How far Redis lags.

    >>> _behind({"orders": 1000, "rebuilt": False}), _behind({"orders": 0, "rebuilt": False})
    ('1,000', 'none')
    """
    return (_number(lag["orders"]) if lag["orders"] else "none") + (" (rebuilt)" if lag["rebuilt"] else "")


def _takeover_table(result: dict[str, Any]) -> str:
    rows = [
        [
            "Redis lags by, orders",
            "ready after, s",
            "longest, s",
            "all takeovers, s",
            "a shard's, s",
            "orders/s read again",
        ]
    ]
    rows.append(["---:"] * len(rows[0]))
    rows += [
        [
            _behind(lag),
            _number(lag["ready_p50_s"], 2),
            _number(max(lag["ready_s"]), 2),
            _number(lag["takeover_p50_s"], 2),
            _number(lag["shard_p50_s"], 2),
            _number(lag["orders_per_s"]),
        ]
        for lag in result["takeover"]["lags"]
    ]
    return _markdown(rows)


def _profile(result: dict[str, Any]) -> list[str]:
    told = result["profile"]
    if told is None:
        return []
    parts = ", ".join(f"{stage} {share:.0%}" for stage, share in told["shares"].items())
    return [f"where the worker's CPU time goes ({told['samples']:,} samples): {parts}"]


def page(result: dict[str, Any], time: dict[str, Any] | None = None) -> str:
    """The page, of a run of all rows. `time`: of one with the rows about time, which may be another; None: without them."""
    machine, options = result["machine"], result["options"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    table = [list(COLUMNS), ["---"] + ["---:"] * 7 + ["---"] + ["---:"] * 2, *_cells(result)]
    shares = [["stage", "share"], ["---", "---:"]]
    shares += [[stage, f"{share:.1%}"] for stage, share in result["profile"]["shares"].items()]
    checks = {row["row"]: row["checks"] for row in result["rows"]}
    agents = next(row for row in result["rows"] if row["row"] == "faust")
    return _PAGE.format(
        command=result["command"],
        started_at=result["started_at"],
        machine=f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gb']} GB, {machine['system']}",
        versions=f"{machine['python']}, Apache Kafka {machine['kafka']}, Valkey {machine['valkey']}; {packages}",
        orders=_number(options["orders"]),
        customers=_number(checks["wall"]["customers"]),
        minutes=_number(1e6 / agents["orders_per_s"] / 60 if agents["orders_per_s"] else None),
        faust_orders=_number(agents["orders"]),
        table=_markdown(table),
        latency="\n".join(_latency(result)).removeprefix("from").strip(),
        rolling="\n".join(_rolling(result)),
        takeover=_takeover_table(result),
        takeover_orders=_number(result["takeover"]["orders"]),
        takeover_customers=_number(result["takeover"]["customers"]),
        takeover_shards=result["takeover"]["shards"],
        takeover_times=result["takeover"]["times"],
        takeover_moves=_number(result["takeover"]["checks"]["moves"]),
        moved_by_time=_number(result["takeover"]["moved_by_time"]),
        latency_s=_number(options["latency_s"]),
        warm_up_s=_number(options["warm_up_s"]),
        calm_s=_number(options["calm_s"]),
        checked_customers=_number(checks["wall"]["customers"]),
        checked_moves=_number(checks["wall"]["moves"] + checks["event"]["moves"]),
        asked=_number(checks["wall"]["segments_asked"] + checks["event"]["segments_asked"]),
        causes=", ".join(f"{cause} {_number(count)}" for cause, count in checks["event"]["causes"].items()),
        shares=_markdown(shares),
        samples=_number(result["profile"]["samples"]),
        profile_orders=_number(result["profile"]["orders"]),
        about_time=time_section(time, apart=time is not result),
    )


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


_PAGE = """Written by `make bench ARGS=--write-docs`: all results up to "Other measurements" are of one run, but where a section says
otherwise.

- Command: `{command}`, {started_at}
- Machine: {machine}
- Versions: {versions}

## Throughput

{orders} orders of {customers} customers, evenly over half a year, 8 partitions, lz4, all in Kafka before anything starts. Every row is one
process, one after the other, on one broker and one Valkey.

{table}

- **orders/s** counts from the moment at which the work may begin (the first shard taken over, the first event delivered) until everything is
  settled: moves committed in Kafka, states stored in Valkey. The start of the process and joining the group lie before that.
- **CPU s per million** is the process's own CPU time in that span, scaled to a million orders; the broker's and Valkey's stand beside it.
- **others** is what kept the machine busy besides: other programs, and the measuring itself.
- **Draining** reads the topic (read_committed, 20,000 records a call) and throws it away: the floor for anything that uses this client.
- **The Faust agent** is written as Faust's documentation has it: per event a Redis HGETALL, Yeo-Johnson, `StandardScaler` and
  `KMeans.predict` with the same centroids, `topic.send` where the segment differs, a Redis HSET. It ran on {faust_orders} orders with as
  many orders a customer. It does less: it keeps sums only, so orders never leave its window and cancelled or repeated ones aren't noticed; nobody is moved by silence.

## Latency

From {latency}.

Wall time; {warm_up_s} s of warm-up, then {latency_s} s measured. Each order is of a new customer, so each makes a move. The clock starts
just before `send` and stops when a read_committed consumer has the move in hand.

## Rolling restart

{rolling}.

Each of three workers in turn gets a SIGTERM, and some seconds later is started again: six changes, eight shards. The pause of a shard is the longest
that an order in it waited for its visible move, from the change until {calm_s} s later. One order in ten is of a new customer, so it makes a move at once, and is timed.

## Start-up and takeover

{takeover_orders} orders of {takeover_customers} customers, all told. Then Redis is put back to how it stood some orders ago, as a restore or a fail-over would, or made
anew by `segstream rebuild`, and one worker starts: medians of {takeover_times} starts (rebuilt: one).

{takeover}

- **Ready after** counts from the start of the process until all {takeover_shards} shards are its own and Redis stands where Kafka does.
- **All takeovers**: of it, since the first shard's began; before that lie Python's start and joining the group. **A shard's** is the mean of
  `segstream_takeover_seconds`; a worker takes its shards over at once, so they share a core.
- **Read again**: the lag, over what the takeovers took longer than without one.

A takeover tells nothing: of {takeover_moves} moves, {moved_by_time} were told during these, all because time alone had moved a customer. After each, every customer's
state in Redis is that of before, to the byte (a customer whom time moved: one move further).

{about_time}## How the outputs were checked

After each row of ours, over all of its output:

- {checked_moves} moves: per customer the sequence is 1, 2, 3… and each `from` is the `to` before it.
- {checked_customers} customers, twice: number, sum and latest date of the orders in Valkey are those of an independent recomputation from the orders' JSON
  (standard library, `Decimal`); the segment and sequence stored are those of the last move told.
- {asked} customers at random: asked again at the shard's clock, with the recomputed figures, the model leaves each where the last move has put them.

Moves in event time by cause: {causes}. After the Faust agent: every customer's count and sum; its changes are counted.

## Where the time goes

Samples of the worker's CPU time ({samples} of them, {profile_orders} orders, wall time); each belongs to the innermost stage of the work on the
stack. Waiting isn't counted.

{shares}

*Merge* takes an order into its customer's state; *search* finds when time alone will move the customer next; *write moves* makes the events' bytes and headers.

## How to read this

Figures of a shared machine vary by ±30 % from run to run, more when something else takes a core. The ratios between rows of one run are what
counts. The Faust agent's figures come from fewer orders, since a million would take {minutes} minutes. The latency is measured after the
throughput, on a broker whose JVM has had work to compile; alone (`--only latency`), with a cold broker, it is higher.
"""
