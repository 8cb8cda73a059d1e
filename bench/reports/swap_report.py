"""A model's swap, for people: lines on the terminal, and a part of the page."""

from __future__ import annotations

from typing import Any

_KINDS = (("rest", "at rest"), ("load", "while orders come"))


def swap_lines(swaps: dict[str, Any] | None) -> list[str]:
    """A line for each swap, and one for what orders waited; none where it wasn't measured."""
    if swaps is None:
        return []
    lines = [
        f"a new model, {swaps[kind]['customers']:,} customers, {swaps[kind]['orders_per_s']:,.0f} orders/s: all looked at after "
        f"{swaps[kind]['seconds']} s, {swaps[kind]['customers_per_s']:,.0f}/s, {swaps[kind]['ratio']:.2f} of the plain loop's "
        f"{swaps[kind]['plain_per_s']:,.0f}/s; {swaps[kind]['moves']:,} moves; worker {swaps[kind]['worker_cores']:.0%} of a core, "
        f"{swaps[kind]['rss_before_mb']:.0f} MB before, {swaps[kind]['rss_peak_mb']:.0f} MB at most"
        for kind, _ in _KINDS
    ]
    load = swaps["load"]
    waited = " and ".join(
        f"{_waited(load[span])} {when}" for span, when in (("calm", "before"), ("during", "meanwhile"))
    )
    shadow = swaps["shadow"]
    return [
        *lines,
        f"an order's move {waited}; {load['most_behind']:,} orders behind at most, {load['behind']:,} at its end",
        (
            f"segstream models shadow over {shadow['customers']:,} customers: {shadow['seconds']} s; an order's move meanwhile "
            f"{_waited(shadow['during'])}; {shadow['most_behind']:,} orders behind at most"
        ),
    ]


def _waited(spread: dict[str, Any]) -> str:
    """The percentiles in words.

    >>> _waited({"count": 2, "p50_ms": 1.0, "p99_ms": 2.5, "max_ms": 2.5}), _waited({"count": 0})
    ('p50 1.0 ms, p99 2.5 ms, longest 2.5 ms', 'none')
    """
    if not spread["count"]:
        return "none"
    return f"p50 {spread['p50_ms']} ms, p99 {spread['p99_ms']} ms, longest {spread['max_ms']} ms"


def swap_section(swaps: dict[str, Any]) -> list[str]:
    """The paragraphs of the page."""
    head = [
        "",
        "customers",
        "all looked at, s",
        "customers/s",
        "plain loop's",
        "ratio",
        "moves",
        "worker, cores",
        "broker",
        "Valkey",
        "all others",
        "worker, MB at most",
    ]
    rows = []
    for kind, name in _KINDS:
        swap = swaps[kind]
        cores = [f"{swap[f'{who}_cores']:.2f}" for who in ("worker", "broker", "valkey", "others")]
        figures = [f"{swap[what]:,.0f}" for what in ("customers_per_s", "plain_per_s")]
        moved = [f"{swap['ratio']:.2f}", f"{swap['moves']:,}"]
        rows.append(
            [
                name,
                f"{swap['customers']:,}",
                f"{swap['seconds']:.2f}",
                *figures,
                *moved,
                *cores,
                f"{swap['rss_peak_mb']:,.0f}",
            ]
        )
    load = swaps["load"]
    spans = (("before", load["calm"]), ("while all are looked at", load["during"]))
    waits = [
        [
            name,
            f"{spread['count']:,}",
            *("-" if spread[f] is None else f"{spread[f]:,.1f}" for f in ("p50_ms", "p99_ms", "max_ms")),
        ]
        for name, spread in spans
    ]
    return [
        "### A new model",
        _table(head, rows),
        _SWAP.format(**swaps),
        _table(["an order's move", "orders", "p50, ms", "p99, ms", "longest, ms"], waits),
        _LOAD.format(**load, calm_s=swaps["calm_s"]),
        _SHADOW.format(**swaps["shadow"], rate_per_s=swaps["rate_per_s"], waited=_waited(swaps["shadow"]["during"])),
    ]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


_SWAP = """{customers:,} customers with an announced segment; a model that moves one in twenty is published as `segtrainer run` does. The clock starts when the activation can be read and stops when the last
shard has looked at its last customer: each scored, its next move by time searched, moves told, all of it in Kafka and Redis, exactly once. At rest the last shard began after {rest[started_s]} s: an idle one
looks up every `SEGSTREAM_DUE_POLL_MS`.

The **plain loop** is what one would write for a night: a single process pages through the same keys, asks NumPy for the nearest centroid, and writes each state back with its segment, to a hash of its own. It has no margin, tells
no move, doesn't say when to look again, and begins anew after a crash. It ran just before, in the same circumstances."""

_LOAD = """{orders_per_s:,.0f} orders/s, one in ten of a new customer, which are timed; "before" are the {calm_s:.0f} s before. Slices of the rescore and orders take turns. At most {most_behind:,} orders were sent and not yet stored,
{behind:,} at the end. Of both swaps: every customer who ordered nothing moved once or not at all, as `segmentation.shadow` says of the states before, and their states are, to the byte, those before with that move noted."""

_SHADOW = """`segstream models shadow` before it, at {rate_per_s:,} orders/s: a process of its own reads every state and says which moves a model's start would make. {customers:,} customers took {seconds} s, its start included;
an order's move meanwhile {waited}, {most_behind:,} orders behind at most."""
