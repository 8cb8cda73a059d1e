"""The seal on the remains of a merged id."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.storage.sealing import SealBroken, sealed, unsealed


@given(value=st.binary(max_size=300), customer=st.binary(min_size=1), salt=st.binary(max_size=100))
def test_the_id_and_the_salt_open_it(value: bytes, customer: bytes, salt: bytes) -> None:
    closed = sealed(value, customer, salt)
    assert closed == sealed(value, customer, salt)
    assert unsealed(closed, customer, salt) == value
    for other in ((customer + b"x", salt), (customer, salt + b"x")):
        assert sealed(value, *other) != closed
        with pytest.raises(SealBroken):
            unsealed(closed, *other)


@given(value=st.binary(min_size=1), at=st.integers(0, 16))
def test_a_change_of_any_byte_breaks_it(value: bytes, at: int) -> None:
    closed = bytearray(sealed(value, b"ann", b"salt"))
    closed[1 + at % (len(closed) - 1)] ^= 1
    with pytest.raises(SealBroken):
        unsealed(bytes(closed), b"ann", b"salt")


def test_two_contents_of_one_id_share_no_mask() -> None:
    """Else two versions of one customer's remains would show where they differ."""
    first, second = (sealed(name * 40, b"ann", b"salt")[17:] for name in (b"a", b"b"))
    mixed = bytes(x ^ y for x, y in zip(first, second, strict=True))
    assert mixed != bytes([ord("a") ^ ord("b")]) * 40


@pytest.mark.parametrize("state", [b"", b"\x02rest", b"\x01rest"])
def test_what_was_never_sealed_stays_as_it_is(state: bytes) -> None:
    assert unsealed(state, b"ann", b"salt") == state
