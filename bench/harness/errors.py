"""The error of the benchmark."""

from __future__ import annotations

from stream.errors import SegstreamError


class BenchError(SegstreamError):
    """A row can't be measured; the message says why, and the hint where the log is."""
