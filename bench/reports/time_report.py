"""The rows about time and models in the report: lines on the terminal, and a section of the page."""

from __future__ import annotations

from typing import Any, Final

from bench.reports.swap_report import swap_lines, swap_section
from bench.reports.tables import percentile_cells, percentiles, table

TIME_ROWS: Final = ("due", "rest", "flood", "swap")


def time_problems(result: dict[str, Any]) -> list[str]:
    """Return the problems that the rows' checks found."""
    return [f"{row}: {text}" for row in TIME_ROWS if result.get(row) for text in result[row]["checks"]["problems"]]


def time_lines(result: dict[str, Any]) -> list[str]:
    """Return a line or two for each measured row."""
    lines = []
    if due := result.get("due"):
        lines += [f"{_due_title(due)}, {_load(due[kind])}: {_span(due[kind])}" for kind in ("busy", "quiet")]
    if rest := result.get("rest"):
        lines += [
            f"{row['customers']:,} customers at rest: worker {row['worker_cpu_s_per_minute']} CPU s a minute, "
            f"{row['redis_commands_per_s']} Redis commands/s, {row['kafka_bytes_per_s']} bytes/s into Kafka"
            for row in rest["rows"]
        ] + [f"skipped: {text}" for text in rest["skipped"]]
    if flood := result.get("flood"):
        lines.append(
            f"{flood['customers']:,} customers due within one second, {flood['orders_per_s']} orders/s: "
            f"all moves published after {flood['drained_s']} s; "
            f"an order's move: {percentiles(flood['during'])} during the flood, {percentiles(flood['calm'])} before; "
            f"worker {flood['rss_before_mb']:.0f} MB before, {flood['rss_peak_mb']:.0f} MB at most"
        )
    return lines + swap_lines(result.get("swap"))


def time_section(result: dict[str, Any] | None, *, apart: bool) -> str:
    """Return the section of the page; "" without a measured row. `apart`: of another run than the rest of the page."""
    if result is None or not any(result.get(row) for row in TIME_ROWS):
        return ""
    parts = ["## Time"]
    if apart:
        machine = result["machine"]
        parts.append(
            f"These figures are of a separate run: `{result['command']}`, {result['started_at']}, "
            f"{machine['cores']} cores ({machine['cpu']})."
        )
    parts.append(_INTRODUCTION)
    if due := result.get("due"):
        parts += ["### From due to visible", _due_table(due), _DUE.format(**due)]
    if rest := result.get("rest"):
        parts += ["### At rest", _rest_table(rest), _REST.format(**rest)]
        parts += [f"Skipped: {text}." for text in rest["skipped"]]
    if flood := result.get("flood"):
        parts += ["### A flood", _flood_table(flood), _FLOOD.format(**flood, turns=_turns(flood))]
    if swap := result.get("swap"):
        parts += swap_section(swap)
    return "\n\n".join(parts) + "\n\n"


def _due_title(due: dict[str, Any]) -> str:
    return f"from due to visible, {due['rate_per_s']:,} a second of {due['customers']:,} customers"


def _load(span: dict[str, Any]) -> str:
    return f"with {span['orders_per_s']} orders/s" if span["orders_per_s"] else "without orders"


def _span(span: dict[str, Any]) -> str:
    return (
        f"{span['due']['count']:,} moves, {percentiles(span['due'])}; orders {percentiles(span['orders'])}; "
        f"worker {span['worker_cores']:.0%} of a core, broker {span['broker_cores']:.0%}, "
        f"Valkey {span['valkey_cores']:.0%}, all others {span['others_cores']:.0%}"
    )


def _turns(flood: dict[str, Any]) -> str:
    """Return the turns' durations in words.

    >>> _turns({"turn_mean_ms": 98.1, "turn_p99_bound_ms": 200.0}), _turns({"turn_mean_ms": None})
    ('98.1 ms on average, 99 of 100 at most 200 ms', 'none')
    """
    if flood["turn_mean_ms"] is None:
        return "none"
    bound = flood["turn_p99_bound_ms"]
    limit = "at most" if bound else "beyond"
    return f"{flood['turn_mean_ms']} ms on average, 99 of 100 {limit} {bound or 10_000:,.0f} ms"


def _due_table(due: dict[str, Any]) -> str:
    head = [
        "",
        "moves",
        "p50, ms",
        "p99, ms",
        "longest, ms",
        "worker, cores",
        "broker, cores",
        "Valkey, cores",
        "all others, cores",
    ]
    rows = []
    for kind in ("busy", "quiet"):
        span = due[kind]
        cores = [f"{span[f'{process}_cores']:.2f}" for process in ("worker", "broker", "valkey", "others")]
        rows.append([f"due, {_load(span)}", f"{span['due']['count']:,}", *percentile_cells(span["due"]), *cores])
        if span["orders"]["count"]:
            count = f"{span['orders']['count']:,}"
            rows.append(["these orders", count, *percentile_cells(span["orders"]), *[""] * 4])
    return table(head, rows)


def _rest_table(rest: dict[str, Any]) -> str:
    head = [
        "customers",
        "worker, CPU s a minute",
        "Valkey, CPU s a minute",
        "broker, CPU s a minute",
        "Redis commands/s",
        "bytes/s into Kafka's logs",
        "worker, MB",
        "Valkey, bytes a customer",
    ]
    rows = [
        [
            f"{row['customers']:,}",
            f"{row['worker_cpu_s_per_minute']:.2f}",
            f"{row['valkey_cpu_s_per_minute']:.2f}",
            f"{row['broker_cpu_s_per_minute']:.2f}",
            f"{row['redis_commands_per_s']:,.0f}",
            f"{row['kafka_bytes_per_s']:,.0f}",
            f"{row['worker_rss_mb']:,.0f}",
            f"{row['bytes_a_customer']:,.0f}",
        ]
        for row in rest["rows"]
    ]
    return table(head, rows)


def _flood_table(flood: dict[str, Any]) -> str:
    head = ["an order's move", "orders", "p50, ms", "p99, ms", "longest, ms"]
    named = (("before the flood", "calm"), ("while it drains", "during"))
    return table(head, [[name, f"{flood[kind]['count']:,}", *percentile_cells(flood[kind])] for name, kind in named])


_INTRODUCTION = """Time moves customers without a sweep over all of them: each customer's next due instant stands in an
index. One worker owns eight shards, in wall time. The customers are put into Redis as the engine would hold them, each
due at a chosen instant; the search and the scorer confirm that instant first."""

_DUE = """Of {customers:,} customers, {rate_per_s:,} become due each second, for {seconds:.0f} s with orders and for as
long without. The clock starts at the due instant (`occurred_at`) and stops when a read_committed consumer has the move.
An idle shard looks at its index every `SEGSTREAM_DUE_POLL_MS` (250): without orders that is most of the time. Every
move was published once, from and to the right segment, at the chosen instant to the millisecond, and is stored in
Redis."""

_REST = """Nobody orders and nobody is due, for {seconds:.0f} s in each row. The remaining work is the same for any
number of customers: looking at the index of each shard, polling Kafka, heartbeats. No move was published."""

_FLOOD = """{customers:,} customers become due within one second, as after a long outage or a jump of the clock, while
{orders_per_s} orders/s arrive, each of a new customer. The last move was published after {drained_s:,.0f} s
({moves_per_s:,.0f} moves/s), each move once and at its own instant. The worker's turns in that time: {turns}. A turn
takes a slice of the due customers together with the next orders. The worker had {rss_before_mb:,.0f} MB before, and
{rss_peak_mb:,.0f} MB at most."""
