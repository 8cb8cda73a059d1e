"""The rows of a file in the order of time, whatever its size: sorted in memory where they fit, else on disk and merged."""

from __future__ import annotations

import heapq
import tempfile
from contextlib import ExitStack, contextmanager
from itertools import islice
from operator import attrgetter
from typing import IO, TYPE_CHECKING, Final

import msgspec

from stream.order_rows import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

IN_MEMORY_ROWS: Final = 250_000  # about 100 MB
_BLOCK_ROWS: Final = 1_000  # what each run on disk holds in memory while runs are merged
_LENGTH_BYTES: Final = 4

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Row])
_at = attrgetter("at_ms")


class InTimeOrder:
    """Rows by time; rows of one instant as the file has them. To be gone through once."""

    def __init__(self, total: int, rows: Iterator[Row]) -> None:
        self.total = total
        self._rows = rows

    def __iter__(self) -> Iterator[Row]:
        return self._rows


@contextmanager
def in_time_order(
    rows: Iterable[Row], *, in_memory_rows: int = IN_MEMORY_ROWS, reading: Callable[[int], None] | None = None
) -> Iterator[InTimeOrder]:
    """Read all rows, then give them by time. `reading` is told now and then how many have been read.

    A file sorted by customer, as many are, would otherwise put its first customer's last order before everybody else's
    first one, and the clock of event time with it. At most `in_memory_rows` are held; temporary files take the rest.
    """
    with ExitStack() as stack:
        source, total = iter(rows), 0
        runs: list[Iterator[Row]] = []
        while chunk := list(islice(source, in_memory_rows)):
            chunk.sort(key=_at)
            total += len(chunk)
            if reading:
                reading(total)
            if len(chunk) < in_memory_rows and not runs:
                runs.append(iter(chunk))
                break
            file = stack.enter_context(tempfile.TemporaryFile())
            _spill(chunk, file)
            runs.append(_spilled(file))
        # merge() takes equal rows from the earlier run first, so the order of the file stays.
        yield InTimeOrder(total, heapq.merge(*runs, key=_at) if len(runs) > 1 else iter(runs[0] if runs else ()))


def _spill(rows: list[Row], file: IO[bytes]) -> None:
    for begin in range(0, len(rows), _BLOCK_ROWS):
        block = _encoder.encode(rows[begin : begin + _BLOCK_ROWS])
        file.write(len(block).to_bytes(_LENGTH_BYTES) + block)
    file.seek(0)


def _spilled(file: IO[bytes]) -> Iterator[Row]:
    while length := file.read(_LENGTH_BYTES):
        yield from _decoder.decode(file.read(int.from_bytes(length)))
