"""An endpoint's answer to an attempt, and its meaning by Standard Webhooks 1.0 (delivery success and failure). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Final

EXCERPT: Final = 200  # characters of an answer's body that a detail repeats
_UNDER_LOAD: Final = frozenset({429, 502, 503, 504})
_ASKS_TO_WAIT: Final = frozenset({429, 503})


class Meaning(StrEnum):
    """The meaning of an answer."""

    DELIVERED = "delivered"
    FAILED = "failed"
    GONE = "gone"  # the endpoint wants no more webhooks


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """One attempt's answer. `status` None: there was none. `detail`: one sentence, without any secret.

    `retry_after_ms`: the wait that it asks for.
    """

    status: int | None
    detail: str
    retry_after_ms: int | None = None
    timed_out: bool = False

    @property
    def meaning(self) -> Meaning:
        """The meaning by the status alone.

        >>> [WebhookAnswer(status, "").meaning.value for status in (204, 302, 410, None)]
        ['delivered', 'failed', 'gone', 'failed']
        """
        if self.status is not None and 200 <= self.status <= 299:
            return Meaning.DELIVERED
        return Meaning.GONE if self.status == HTTPStatus.GONE else Meaning.FAILED

    @property
    def under_load(self) -> bool:
        """Whether the endpoint should get less at once."""
        return self.timed_out or self.status in _UNDER_LOAD

    @property
    def asks_to_wait(self) -> bool:
        """Whether the endpoint should get nothing for a while."""
        return self.status in _ASKS_TO_WAIT


def answer_detail(status: int, excerpt: str) -> str:
    """Return a sentence on an answer that came. `excerpt`: the beginning of its body.

    >>> answer_detail(307, ""), answer_detail(418, "short and   stout"), answer_detail(299, "")
    ('307 Temporary Redirect: redirects are not followed', "418 I'm a Teapot: short and stout", '299')
    """
    try:
        line = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        line = str(status)
    if 300 <= status <= 399:
        return f"{line}: redirects are not followed"
    text = "".join(character if character.isprintable() else " " for character in excerpt)
    text = " ".join(text.split())[:EXCERPT]
    return f"{line}: {text}" if text else line
