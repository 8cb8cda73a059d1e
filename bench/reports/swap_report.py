"""The change of a model in the report: lines on the terminal, and a section of the page."""

from __future__ import annotations

from typing import Any

from bench.reports.tables import percentile_cells, percentiles, table

_KINDS = (("rest", "at rest"), ("load", "under load"))


def swap_lines(swaps: dict[str, Any] | None) -> list[str]:
    """Return a line for each swap, one for the orders' latency and one for the preview; none without a measurement."""
    if swaps is None:
        return []
    load, shadow = swaps["load"], swaps["shadow"]
    return [
        *(_swap_line(swaps[kind]) for kind, _ in _KINDS),
        (
            f"an order's move: {percentiles(load['calm'])} before the swap, {percentiles(load['during'])} during it; "
            f"{load['most_behind']:,} orders behind at most, {load['behind']:,} at its end"
        ),
        (
            f"segstream models shadow over {shadow['customers']:,} customers: {shadow['seconds']} s; "
            f"an order's move at that time: {percentiles(shadow['during'])}; "
            f"{shadow['most_behind']:,} orders behind at most"
        ),
    ]


def _swap_line(swap: dict[str, Any]) -> str:
    return (
        f"a new model, {swap['customers']:,} customers, {swap['orders_per_s']:,.0f} orders/s: "
        f"all rescored after {swap['seconds']} s, {swap['customers_per_s']:,.0f}/s, "
        f"{swap['ratio']:.2f} of the plain loop's {swap['plain_per_s']:,.0f}/s; {swap['moves']:,} moves; "
        f"worker {swap['worker_cores']:.0%} of a core, "
        f"{swap['rss_before_mb']:.0f} MB before, {swap['rss_peak_mb']:.0f} MB at most"
    )


def swap_section(swaps: dict[str, Any]) -> list[str]:
    """Return the paragraphs of the page."""
    load = swaps["load"]
    spans = (("before the swap", load["calm"]), ("during the swap", load["during"]))
    waits = [[name, f"{spread['count']:,}", *percentile_cells(spread)] for name, spread in spans]
    return [
        "### A new model",
        _swap_table(swaps),
        _SWAP.format(**swaps),
        table(["an order's move", "orders", "p50, ms", "p99, ms", "longest, ms"], waits),
        _LOAD.format(**load, calm_s=swaps["calm_s"]),
        _SHADOW.format(
            **swaps["shadow"], rate_per_s=swaps["rate_per_s"], latency=percentiles(swaps["shadow"]["during"])
        ),
    ]


def _swap_table(swaps: dict[str, Any]) -> str:
    head = [
        "",
        "customers",
        "all rescored after, s",
        "customers/s",
        "plain loop, customers/s",
        "ratio",
        "moves",
        "worker, cores",
        "broker, cores",
        "Valkey, cores",
        "all others, cores",
        "worker's peak, MB",
    ]
    rows = []
    for kind, name in _KINDS:
        swap = swaps[kind]
        cores = [f"{swap[f'{process}_cores']:.2f}" for process in ("worker", "broker", "valkey", "others")]
        rates = [f"{swap[rate]:,.0f}" for rate in ("customers_per_s", "plain_per_s")]
        moved = [f"{swap['ratio']:.2f}", f"{swap['moves']:,}"]
        size = [f"{swap['customers']:,}", f"{swap['seconds']:.2f}"]
        rows.append([name, *size, *rates, *moved, *cores, f"{swap['rss_peak_mb']:,.0f}"])
    return table(head, rows)


_SWAP = """{customers:,} customers have a segment; a model that moves one in twenty is published as `segtrainer run`
does. The clock starts when the activation is visible and stops when the last shard has rescored its last customer: each
is scored, the next move by time is searched, and the moves are published, all of it in Kafka and Redis, exactly once.
At rest the last shard began after {rest[started_s]} s: an idle shard looks for activations every
`SEGSTREAM_DUE_POLL_MS`.

The **plain loop** is the usual nightly job: one process pages through the same keys, finds the nearest centroid with
NumPy, and writes each state back with its segment, to a separate hash. It has no margin, publishes no moves, computes
no due instants, and starts again after a crash. It ran just before, under the same load."""

_LOAD = """The load is {orders_per_s:,.0f} orders/s; one order in ten is of a new customer, and these are timed; "before
the swap" are the {calm_s:.0f} s before it. Slices of the rescore and orders alternate. At most {most_behind:,} orders
were sent and not yet stored, {behind:,} at the end. After both swaps, every customer without orders has moved once or
not at all, as `segmentation.shadow` says of the states before, and the states are, to the byte, those before with that
move noted."""

_SHADOW = """`segstream models shadow` before it, at {rate_per_s:,} orders/s, is a separate process that reads every
state and says which moves an activation would make. It took {seconds} s for {customers:,} customers, with its start;
an order's move at that time: {latency}, {most_behind:,} orders behind at most."""
