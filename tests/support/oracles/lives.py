"""States without what hangs on orders that come very late, to be compared with a recomputation."""

from __future__ import annotations

from dataclasses import replace

from segmentation.entries import Kind
from segmentation.life import NO_LIFE, NOTHING_FOLDED
from segmentation.rfm import pack, unpack


def without_life(value: bytes) -> bytes:
    """Return the bytes without what an order that comes more than a window late may leave different."""
    state = unpack(value)
    entries = [e for e in state.entries if e.time > state.cut or e.kind != Kind.REFUNDED]
    return pack(replace(state, life=NO_LIFE, folded=NOTHING_FOLDED, entries=tuple(entries)))
