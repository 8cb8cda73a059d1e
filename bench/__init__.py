"""Benchmarks of segstream (`python -m bench`): measured side by side in one run, with checked outputs."""
