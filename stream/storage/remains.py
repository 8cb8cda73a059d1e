"""The remains of a customer, as they are stored under the hash of the id: those that name other ids are sealed."""

from __future__ import annotations

from typing import Final, NamedTuple

from stream.storage.keys import tombstone
from stream.storage.sealing import sealed, unsealed

_MARK: Final = b"\xfe"  # no state begins so, nor does a seal
_RANK_BYTES: Final = 8
_SEQUENCE: Final = slice(4, 8)  # in the states of both steps
_SEALED_FROM: Final = 1 + _RANK_BYTES + 4


class Age(NamedTuple):
    """The order of two remains of one customer: merges are never forgotten, and a sequence only grows."""

    rank: int
    sequence: int


def stored_remains(value: bytes, customer: bytes, salt: bytes, rank: int | None) -> tuple[bytes, bytes]:
    """Return (the hash of the customer's id, what is stored under it). `rank` None: the state names no other id."""
    name = tombstone(customer, salt)
    if rank is None:
        return name, value
    return name, _MARK + rank.to_bytes(_RANK_BYTES, "big") + value[_SEQUENCE] + sealed(value, customer, salt)


def opened_remains(stored: bytes, customer: bytes, salt: bytes) -> bytes:
    """Return the state in what is stored under the customer's hash. Raises SealBroken.

    >>> name, stored = stored_remains(b"state of ann, who is bob", b"ann", b"salt", 7)
    >>> b"bob" in stored, opened_remains(stored, b"ann", b"salt")
    (False, b'state of ann, who is bob')
    """
    return unsealed(stored[_SEALED_FROM:], customer, salt) if stored.startswith(_MARK) else stored


def age_of(stored: bytes) -> Age:
    """Return which of two remains of one customer is the later one, without the seal being opened.

    >>> age_of(bytes([2, 0, 0, 0, 9, 0, 0, 0]))
    Age(rank=-1, sequence=9)
    >>> age_of(stored_remains(bytes([2, 0, 0, 0, 9, 0, 0, 0]), b"ann", b"salt", 7)[1])
    Age(rank=7, sequence=9)
    """
    if not stored.startswith(_MARK):
        return Age(-1, int.from_bytes(stored[_SEQUENCE], "little"))
    ends = 1 + _RANK_BYTES
    return Age(int.from_bytes(stored[1:ends], "big"), int.from_bytes(stored[ends:_SEALED_FROM], "little"))
