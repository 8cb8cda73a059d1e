"""Header names that aren't UTF-8: aiokafka 0.14 raises on them, again and again, and no record behind them is ever read.

Kafka's protocol asks for UTF-8, but neither brokers nor every client check it. Such a name is read with escapes instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import aiokafka.consumer.fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

_HAS_HEADERS: Final = 2  # a batch's magic from which on records have headers


def read_any_header_name() -> None:
    """Make this process's consumers read header names of any bytes. Once is enough; again changes nothing."""
    aiokafka.consumer.fetcher.MemoryRecords = _Records


class _Records(_MemoryRecordsPy):  # type: ignore[misc]  # aiokafka ships no types
    """The batches of a fetch."""

    def next_batch(self) -> Any:
        """As aiokafka's, but a batch that can't be decoded is decoded here."""
        part = self._next_slice
        batch = super().next_batch()
        return batch if batch is None or part[self.MAGIC_OFFSET] < _HAS_HEADERS else _Batch(batch, part)


class _Batch:
    """A batch as the fetcher uses it: aiokafka's own, in C, as long as that goes well."""

    def __init__(self, fast: Any, part: memoryview) -> None:
        self._fast = fast
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fast, name)

    def __next__(self) -> Any:
        return next(self._fast)

    def __iter__(self) -> Iterator[Any]:
        read = 0
        try:
            for record in self._fast:
                yield record
                read += 1
        except UnicodeDecodeError:
            yield from list(_AnyNames(self._part))[read:]


class _AnyNames(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka ships no types
    """A batch decoded in Python: slow, and rare."""

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer: bytearray = _Bytes(self._buffer)


class _Bytes(bytearray):
    """Bytes of which any slice decodes. The decoder calls `decode` for the names of headers and nothing else."""

    def __getitem__(self, at: Any) -> Any:
        part = super().__getitem__(at)
        return _Bytes(part) if isinstance(at, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        del errors
        return bytes(self).decode(encoding, "backslashreplace")
