"""The partitions that producers' partitioners give a key: a customer on two shards would have two chains of moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from zlib import crc32

Partitioner = Callable[[bytes, int], int]

_MASK: Final = 0xFFFFFFFF
_M: Final = 0x5BD1E995


def murmur2(key: bytes, partitions: int) -> int:
    """Return a key's partition by Java's and aiokafka's default: MurmurHash2, made positive, modulo the partitions.

    >>> murmur2(b"21", 8), murmur2(b"foobar", 8)
    (4, 6)
    """
    length = len(key)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if rest := key[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    h ^= h >> 15
    return (h & 0x7FFFFFFF) % partitions


def by_crc32(key: bytes, partitions: int) -> int:
    """Return a key's partition by librdkafka's default (`consistent_random`): CRC-32 modulo the partitions.

    >>> by_crc32(b"customer", 8)
    1
    """
    return crc32(key) % partitions


PARTITIONERS: Final[dict[str, Partitioner | None]] = {"murmur2": murmur2, "crc32": by_crc32, "none": None}
