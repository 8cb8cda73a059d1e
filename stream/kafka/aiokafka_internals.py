"""Every touch of a private part of aiokafka, one function each."""

from __future__ import annotations

from typing import Final

RETRY_MS: Final = 2  # aiokafka sleeps this long after every transaction: 107 ms a turn by default
