"""A seal for the remains of a merged id: they name other ids, which nobody may read without the salt and the id itself.

A synthetic nonce (the keyed hash of the content) makes equal contents equal bytes, so that a rebuild ends in the bytes
of before, and tells a wrong key from a right one.
"""

from __future__ import annotations

from hashlib import blake2b, shake_256
from hmac import compare_digest
from typing import Final

from segmentation.step import StateUnreadable

_MARK: Final = b"\xff"  # no state begins so: its first byte is its version
_NONCE_BYTES: Final = 16
_KEY_BYTES: Final = 32


class SealBroken(StateUnreadable):
    """These bytes were sealed for another id, or under another salt, or have changed since."""


def sealed(value: bytes, customer: bytes, salt: bytes) -> bytes:
    """Return a value that can be read with the customer's id and the salt alone.

    >>> once = sealed(b"ann is bob", b"ann", b"salt")
    >>> once == sealed(b"ann is bob", b"ann", b"salt"), b"bob" in once, len(once)
    (True, False, 27)
    """
    key = _key(customer, salt)
    nonce = _nonce(value, key)
    return _MARK + nonce + _masked(value, key, nonce)


def unsealed(value: bytes, customer: bytes, salt: bytes) -> bytes:
    """Return the value that was sealed; `value` itself where it wasn't. Raises SealBroken.

    >>> unsealed(sealed(b"ann is bob", b"ann", b"salt"), b"ann", b"salt"), unsealed(b"open", b"ann", b"salt")
    (b'ann is bob', b'open')
    """
    if not value.startswith(_MARK):
        return value
    nonce, hidden = value[1 : 1 + _NONCE_BYTES], value[1 + _NONCE_BYTES :]
    key = _key(customer, salt)
    found = _masked(hidden, key, nonce)
    if not compare_digest(_nonce(found, key), nonce):
        raise SealBroken(f"{len(value)} bytes that weren't sealed for this id under this salt")
    return found


def _key(customer: bytes, salt: bytes) -> bytes:
    secret = salt if len(salt) <= blake2b.MAX_KEY_SIZE else blake2b(salt).digest()
    return blake2b(customer, digest_size=_KEY_BYTES, key=secret, person=b"segstream-seal").digest()


def _nonce(value: bytes, key: bytes) -> bytes:
    return blake2b(value, digest_size=_NONCE_BYTES, key=key, person=b"segstream-nonce").digest()


def _masked(value: bytes, key: bytes, nonce: bytes) -> bytes:
    mask = shake_256(key + nonce).digest(len(value))
    return bytes(a ^ b for a, b in zip(value, mask, strict=True))
