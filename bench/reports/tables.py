"""Figures and tables in Markdown, for all parts of the report."""

from __future__ import annotations

from typing import Any


def number(value: float | None, digits: int = 0) -> str:
    """Return a figure with thousands separated; a dash for None.

    >>> number(15000.4), number(None), number(0.25, 2)
    ('15,000', '-', '0.25')
    """
    return "-" if value is None else f"{value:,.{digits}f}"


def percentiles(spread: dict[str, Any]) -> str:
    """Return latencies in words.

    >>> percentiles({"count": 2, "p50_ms": 1.0, "p99_ms": 2.5, "max_ms": 2.5}), percentiles({"count": 0})
    ('p50 1.0 ms, p99 2.5 ms, longest 2.5 ms', 'none')
    """
    if not spread["count"]:
        return "none"
    return f"p50 {spread['p50_ms']} ms, p99 {spread['p99_ms']} ms, longest {spread['max_ms']} ms"


def percentile_cells(spread: dict[str, Any]) -> list[str]:
    """Return latencies as cells of a table."""
    return [number(spread[name], 1) for name in ("p50_ms", "p99_ms", "max_ms")]


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table: the first column to the left, the others to the right.

    >>> print(table(["", "ms"], [["orders", "1"]]))
    |  | ms |
    | --- | ---: |
    | orders | 1 |
    """
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
