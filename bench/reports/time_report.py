"""The rows about time and models, for people: lines on the terminal, and a section of the page."""

from __future__ import annotations

from typing import Any, Final

from bench.reports.swap_report import swap_lines, swap_section

TIME_ROWS: Final = ("due", "rest", "flood", "swap")


def time_problems(result: dict[str, Any]) -> list[str]:
    """What their checks found wrong."""
    return [f"{row}: {text}" for row in TIME_ROWS if result.get(row) for text in result[row]["checks"]["problems"]]


def time_lines(result: dict[str, Any]) -> list[str]:
    """A line or two for each row that was measured."""
    lines = []
    if due := result.get("due"):
        lines += [f"{_due_title(due)}, {_beside(due[kind])}: {_span(due[kind])}" for kind in ("busy", "quiet")]
    if rest := result.get("rest"):
        lines += [
            f"{row['customers']:,} customers at rest: worker {row['worker_cpu_s_per_minute']} CPU s a minute, "
            f"{row['redis_commands_per_s']} Redis commands/s, {row['kafka_bytes_per_s']} bytes/s into Kafka"
            for row in rest["rows"]
        ] + [f"left out: {text}" for text in rest["skipped"]]
    if flood := result.get("flood"):
        lines.append(
            f"{flood['customers']:,} customers due within one second, {flood['orders_per_s']} orders/s: told after {flood['drained_s']} s; "
            f"an order's move {_spread(flood['during'])} meanwhile, {_spread(flood['calm'])} before; "
            f"worker {flood['rss_before_mb']:.0f} MB before, {flood['rss_peak_mb']:.0f} MB at most"
        )
    return lines + swap_lines(result.get("swap"))


def time_section(result: dict[str, Any] | None, *, apart: bool) -> str:
    """The section of the page; "" where there is nothing to tell. `apart`: of another run than the rest of the page."""
    if result is None or not any(result.get(row) for row in TIME_ROWS):
        return ""
    parts = ["## Time"]
    if apart:
        machine = result["machine"]
        parts.append(
            f"Of a run of its own: `{result['command']}`, {result['started_at']}, {machine['cores']} cores ({machine['cpu']})."
        )
    parts.append(_INTRODUCTION)
    if due := result.get("due"):
        parts += ["### From due to visible", _due_table(due), _DUE.format(**due)]
    if rest := result.get("rest"):
        parts += ["### At rest", _rest_table(rest), _REST.format(**rest)]
        parts += [f"Left out: {text}." for text in rest["skipped"]]
    if flood := result.get("flood"):
        parts += ["### A flood", _flood_table(flood), _FLOOD.format(**flood, turns=_turns(flood))]
    if swap := result.get("swap"):
        parts += swap_section(swap)
    return "\n\n".join(parts) + "\n\n"


def _due_title(due: dict[str, Any]) -> str:
    return f"from due to visible, {due['rate_per_s']:,} a second of {due['customers']:,} customers"


def _beside(span: dict[str, Any]) -> str:
    return f"{span['orders_per_s']} orders/s beside" if span["orders_per_s"] else "no orders"


def _spread(spread: dict[str, Any]) -> str:
    """The percentiles in words.

    >>> _spread({"count": 2, "p50_ms": 1.0, "p99_ms": 2.5, "max_ms": 2.5}), _spread({"count": 0})
    ('p50 1.0 ms, p99 2.5 ms, longest 2.5 ms', 'none')
    """
    if not spread["count"]:
        return "none"
    return f"p50 {spread['p50_ms']} ms, p99 {spread['p99_ms']} ms, longest {spread['max_ms']} ms"


def _span(span: dict[str, Any]) -> str:
    return (
        f"{span['due']['count']:,} moves, {_spread(span['due'])}; orders {_spread(span['orders'])}; worker {span['worker_cores']:.0%} of a core, "
        f"broker {span['broker_cores']:.0%}, Valkey {span['valkey_cores']:.0%}, all others {span['others_cores']:.0%}"
    )


def _turns(flood: dict[str, Any]) -> str:
    """How long they took.

    >>> _turns({"turn_mean_ms": 98.1, "turn_p99_bound_ms": 200.0}), _turns({"turn_mean_ms": None})
    ('98.1 ms on average, 99 of 100 at most 200 ms', 'none')
    """
    if flood["turn_mean_ms"] is None:
        return "none"
    bound = flood["turn_p99_bound_ms"]
    return (
        f"{flood['turn_mean_ms']} ms on average, 99 of 100 {'at most' if bound else 'beyond'} {bound or 10_000:,.0f} ms"
    )


def _cells(spread: dict[str, Any]) -> list[str]:
    return ["-" if spread[name] is None else f"{spread[name]:,.1f}" for name in ("p50_ms", "p99_ms", "max_ms")]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _due_table(due: dict[str, Any]) -> str:
    head = ["", "of", "p50, ms", "p99, ms", "longest, ms", "worker, cores", "broker", "Valkey", "all others"]
    rows = []
    for kind in ("busy", "quiet"):
        span = due[kind]
        cores = [f"{span[f'{who}_cores']:.2f}" for who in ("worker", "broker", "valkey", "others")]
        rows.append([f"due, {_beside(span)}", f"{span['due']['count']:,}", *_cells(span["due"]), *cores])
        if span["orders"]["count"]:
            rows.append(["the orders", f"{span['orders']['count']:,}", *_cells(span["orders"]), *[""] * 4])
    return _table(head, rows)


def _rest_table(rest: dict[str, Any]) -> str:
    head = [
        "customers",
        "worker, CPU s a minute",
        "Valkey's",
        "broker's",
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
    return _table(head, rows)


def _flood_table(flood: dict[str, Any]) -> str:
    head = ["an order's move", "orders", "p50, ms", "p99, ms", "longest, ms"]
    named = (("before the flood", "calm"), ("while it drains", "during"))
    return _table(head, [[name, f"{flood[kind]['count']:,}", *_cells(flood[kind])] for name, kind in named])


_INTRODUCTION = """Nobody sweeps customers for whom time has come: each has a due instant in an index. One worker with eight shards, wall time. The customers are put into
Redis as the engine would hold them, each due at a chosen instant; the search and the scorer are asked first whether that is so."""

_DUE = """{customers:,} customers, of whom {rate_per_s:,} come due each second, for {seconds:.0f} s with orders beside them and as long without. The clock starts at the instant due (`occurred_at`) and stops
when a read_committed consumer has the move in hand. An idle shard looks at its index every `SEGSTREAM_DUE_POLL_MS` (250): without orders that is most of the time.
Every move was told once, from and to the right segment, at the chosen instant to the millisecond, and stands so in Redis."""

_REST = """Nobody orders and nobody is due, {seconds:.0f} s a row. What is left is the same for any number of customers: looking at the index of each shard,
polling Kafka, heartbeats. No move was told."""

_FLOOD = """{customers:,} customers due within one second, as after a long outage or a leap of the clock, while {orders_per_s} orders/s come, each of a new customer. The last move was told after {drained_s:,.0f} s
({moves_per_s:,.0f} moves/s), each once, at its own instant. Of the worker's turns meanwhile: {turns}. Due customers are taken in slices,
with the next orders in the same turn. The worker had {rss_before_mb:,.0f} MB before, and {rss_peak_mb:,.0f} MB at most."""
