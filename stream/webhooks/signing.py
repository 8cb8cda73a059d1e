"""Signatures by Standard Webhooks 1.0, "Signature scheme": HMAC-SHA256, version v1. Pure."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

PREFIX: Final = "whsec_"
_LEAST_BYTES: Final = 24  # as the specification asks
_MOST_BYTES: Final = 64


class SecretUnusable(ValueError):
    """A text isn't a signing secret. The message never has any of it."""


def signing_key(text: str) -> bytes:
    """Return the key that a secret's text stands for: `whsec_` and base64 of 24 to 64 bytes. Raises SecretUnusable.

    >>> signing_key("whsec_" + "c2VncyI" * 6)[:4]
    b'segs'
    >>> signing_key("hunter2")
    Traceback (most recent call last):
    stream.webhooks.signing.SecretUnusable: expected whsec_ and base64 of 24 to 64 random bytes; found no whsec_
    """
    expected = f"expected {PREFIX} and base64 of {_LEAST_BYTES} to {_MOST_BYTES} random bytes"
    text = text.strip()
    if not text.startswith(PREFIX):
        raise SecretUnusable(f"{expected}; found no {PREFIX}")
    encoded = text.removeprefix(PREFIX).rstrip("=")  # some tools write it without padding
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise SecretUnusable(f"{expected}; what follows {PREFIX} isn't base64") from None
    if not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise SecretUnusable(f"{expected}; found {len(key)} bytes")
    return key


def signed_headers(keys: Iterable[bytes], webhook_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """Return the three headers of a webhook, signed with each key. `at_s`: of the attempt, seconds since 1970.

    >>> signed_headers([b"k" * 24], "evt_1", 1_674_087_231, b"{}")["webhook-signature"][:9]
    'v1,cLf3Nk'
    """
    signed = f"{webhook_id}.{at_s}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, signed, sha256)).decode() for key in keys)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
