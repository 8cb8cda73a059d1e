"""When a webhook that failed is sent again: the schedule of Standard Webhooks 1.0, jitter, and Retry-After. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Final

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
# The specification's example ("Deliverability and reliability"): ten attempts in 75 hours and a half.
STANDARD_MS: Final = (
    5 * SECOND_MS,
    5 * MINUTE_MS,
    30 * MINUTE_MS,
    2 * HOUR_MS,
    5 * HOUR_MS,
    10 * HOUR_MS,
    14 * HOUR_MS,
    20 * HOUR_MS,
    24 * HOUR_MS,
)
JITTER: Final = 0.2  # a wait grows by up to a fifth, so that what failed together doesn't come back together
LONGEST_RETRY_AFTER_MS: Final = 24 * HOUR_MS  # an endpoint may not ask for more: as long as the schedule's last wait


def next_attempt_ms(
    attempt: int, now_ms: int, of: str, *, delays_ms: Sequence[int] = STANDARD_MS, retry_after_ms: int | None = None
) -> int | None:
    """Return when to try again after the attempt of this number (from 1) has failed; None: never, it was the last one.

    `of`: names the webhook; its jitter comes from a hash of this, so a restart computes the same. `retry_after_ms`: the
    wait that the endpoint asked for, which counts where it is longer than the schedule's.

    >>> next_attempt_ms(1, 0, "a") in range(5_000, 6_001), next_attempt_ms(10, 0, "a")
    (True, None)
    >>> next_attempt_ms(1, 0, "a", retry_after_ms=60_000) in range(60_000, 72_001)
    True
    """
    if attempt > len(delays_ms):
        return None
    wait_ms = max(delays_ms[attempt - 1], min(retry_after_ms or 0, LONGEST_RETRY_AFTER_MS))
    return now_ms + wait_ms + int(wait_ms * JITTER * _fraction(f"{of}:{attempt}"))


def asked_wait_ms(retry_after: str | None, now_ms: int) -> int | None:
    """Return the wait that a header Retry-After asks for (RFC 9110, 10.2.3); None where it asks for none.

    >>> asked_wait_ms("120", 0), asked_wait_ms("Thu, 01 Jan 1970 00:01:00 GMT", 10_000), asked_wait_ms("soon", 0)
    (120000, 50000, None)
    """
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        # A number of any length is no reason to fail.
        return LONGEST_RETRY_AFTER_MS if len(text) > 8 else min(int(text) * SECOND_MS, LONGEST_RETRY_AFTER_MS)
    with suppress(ValueError, TypeError, IndexError, OverflowError):
        at = parsedate_to_datetime(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return min(max(int(at.timestamp() * 1000) - now_ms, 0), LONGEST_RETRY_AFTER_MS)
    return None


def _fraction(text: str) -> float:
    """Return a number in [0, 1) that looks random, the same for the same text."""
    return int.from_bytes(sha256(text.encode()).digest()[:6]) / 2**48
