"""Benchmarks: `make bench`, or `python -m bench`. Ratios measured side by side in one run; outputs checked."""
