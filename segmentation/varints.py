"""Whole numbers in as few bytes as they need: seven bits a byte, the lowest first (LEB128); signed ones zigzagged."""

from __future__ import annotations


def put(out: bytearray, number: int) -> None:
    """Append a number that isn't negative.

    >>> out = bytearray()
    >>> put(out, 300)
    >>> out.hex()
    'ac02'
    """
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def put_signed(out: bytearray, number: int) -> None:
    """Append any number: 0, -1, 1, -2 take the place of 0, 1, 2, 3, and so on."""
    put(out, number << 1 if number >= 0 else ~number << 1 | 1)


class VarintReader:
    """Reads numbers one after the other. Raises IndexError behind the end, ValueError for one that isn't shortest."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        """Begin at a position."""
        self.data = data
        self.at = at

    def number(self) -> int:
        """Read a number that isn't negative."""
        data, at, number, shift = self.data, self.at, 0, 0
        byte = data[at]
        if byte < 0x80:
            self.at = at + 1
            return byte
        while (byte := data[at]) & 0x80:
            number |= (byte & 0x7F) << shift
            shift += 7
            at += 1
        if shift and not byte:
            raise ValueError(f"a number with a needless byte at {at}")
        self.at = at + 1
        return number | byte << shift

    def numbers(self, count: int) -> list[int]:
        """Read so many numbers that aren't negative."""
        end = self.at + count
        short = self.data[self.at : end]
        if len(short) == count and short.isascii():  # one byte each
            self.at = end
            return list(short)
        return [self.number() for _ in range(count)]

    def signed(self) -> int:
        """Read any number."""
        number = self.number()
        return ~(number >> 1) if number & 1 else number >> 1

    def take(self, length: int) -> bytes:
        """Read so many bytes."""
        end = self.at + length
        if end > len(self.data):
            raise IndexError(f"{length} bytes at {self.at} of {len(self.data)}")
        found, self.at = self.data[self.at : end], end
        return found
