"""Sort the rows of a file of any size by time: in memory if they fit, else in runs on disk that are merged."""

from __future__ import annotations

import heapq
import tempfile
from collections import Counter
from contextlib import ExitStack, contextmanager
from itertools import islice
from operator import attrgetter
from typing import IO, TYPE_CHECKING, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from stream.orders.rows import LONGEST_ID, LeftOutReason, OrderRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

IN_MEMORY_ROWS: Final = 250_000  # about 100 MB
RUNS_AT_ONCE: Final = 64  # this many runs are merged to one: each is an open file, and a block in memory
_BLOCK_ROWS: Final = 1_000  # rows that each run on disk holds in memory while runs are merged
_LENGTH_BYTES: Final = 4

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[OrderRow])
_at = attrgetter("at_ms")


class InTimeOrder:
    """Rows sorted by time, those of one instant in the file's order. They can be iterated over once.

    `total` counts the rows that were read, also those that only the order of time shows to be unusable.
    """

    def __init__(self, total: int, rows: Iterator[OrderRow]) -> None:
        self.total = total
        self._rows = rows

    def __iter__(self) -> Iterator[OrderRow]:
        return self._rows


class _SortedRun(NamedTuple):
    """Sorted rows on disk. `level`: how often they have been merged; each level has `runs_at_once` times the rows."""

    level: int
    file: IO[bytes]


@contextmanager
def in_time_order(
    rows: Iterable[OrderRow],
    *,
    left_out: Counter[str] | None = None,
    in_memory_rows: int = IN_MEMORY_ROWS,
    runs_at_once: int = RUNS_AT_ONCE,
    reading: Callable[[int], None] | None = None,
) -> Iterator[InTimeOrder]:
    """Read all rows, then yield them by time, with ids that distinguish equal refunds (`numbered_refunds`).

    A file that is sorted by customer, as many are, would otherwise bring the first customer's last order, and with it
    the clock of event time, before the other customers' first orders. At most `in_memory_rows` are in memory; temporary
    files hold the rest. `reading` is called now and then with the number of rows read.
    """
    left_out = Counter() if left_out is None else left_out
    with ExitStack() as stack:
        source, total = iter(rows), 0
        runs: list[_SortedRun] = []
        while chunk := list(islice(source, in_memory_rows)):
            chunk.sort(key=_at)
            total += len(chunk)
            if reading:
                reading(total)
            if len(chunk) < in_memory_rows and not runs:
                yield InTimeOrder(total, numbered_refunds(chunk, left_out))
                return
            runs.append(_SortedRun(0, stack.enter_context(tempfile.TemporaryFile())))
            _spill(chunk, runs[-1].file)
            while len(runs) >= runs_at_once and runs[-runs_at_once].level == runs[-1].level:
                merged = _SortedRun(runs[-1].level + 1, stack.enter_context(tempfile.TemporaryFile()))
                _spill(_merged(runs[-runs_at_once:]), merged.file)
                for run in runs[-runs_at_once:]:
                    run.file.close()
                runs[-runs_at_once:] = [merged]
        yield InTimeOrder(total, numbered_refunds(_merged(runs), left_out))


def numbered_refunds(rows: Iterable[OrderRow], left_out: Counter[str]) -> Iterator[OrderRow]:
    """Give refunds with equal ids a number: half of an order may be refunded twice at one instant.

    The first keeps its id, the others get #2, #3…; one whose id becomes too long is left out and counted. Rows are
    sorted by time, so equal refunds have one instant: only its refunds are held, and the order of the file doesn't
    matter.

    >>> from stream.orders.rows import refunded
    >>> half = refunded("7", "c", 0, 25_000, "USD", names_order=True)
    >>> [row.event_id for row in numbered_refunds([half, half], Counter())]
    ['7@1970-01-01T00:00:00.000Z:2.50', '7@1970-01-01T00:00:00.000Z:2.50#2']
    """
    seen: Counter[tuple[str, str]] = Counter()
    at_ms = -1
    for row in rows:
        if row.kind != "refunded":
            yield row
            continue
        if row.at_ms != at_ms:
            seen.clear()
            at_ms = row.at_ms
        key = row.customer_id, row.event_id
        seen[key] += 1
        if seen[key] == 1:
            yield row
            continue
        event_id = f"{row.event_id}#{seen[key]}"
        if len(event_id) > LONGEST_ID:
            left_out[LeftOutReason.ID_LENGTH.value] += 1
        else:
            yield replace(row, event_id=event_id)


def _merged(runs: Iterable[_SortedRun]) -> Iterator[OrderRow]:
    # merge() takes equal rows from the earlier run first, which keeps the file's order.
    return heapq.merge(*[_spilled(run.file) for run in runs], key=_at)


def _spill(rows: Iterable[OrderRow], file: IO[bytes]) -> None:
    source = iter(rows)
    while block := list(islice(source, _BLOCK_ROWS)):
        packed = _encoder.encode(block)
        file.write(len(packed).to_bytes(_LENGTH_BYTES) + packed)
    file.seek(0)


def _spilled(file: IO[bytes]) -> Iterator[OrderRow]:
    while length := file.read(_LENGTH_BYTES):
        yield from _decoder.decode(file.read(int.from_bytes(length)))
