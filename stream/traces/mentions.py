"""Whether a record or a text is about a customer, without taking another customer's data for it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from stream.errors import SegstreamError
from stream.storage.keys import tombstone
from stream.traces.places import RecordKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stream.settings import Settings

_CUSTOMER: Final = re.compile("customer", re.IGNORECASE)
_ANY_FIELD: Final = re.compile(r'customer[^"]{0,16}"\s*:', re.IGNORECASE)
_LONGEST_ID: Final = 256
_CURSORS: Final = frozenset({"cursor", "quiet"})  # of a head: the last customer that a rescore has done
_OF_MERGES: Final = frozenset({"into", "merged_into", "giver"})  # of customer.merged, segment.changed, customer.joined


class CustomerIdRefused(SegstreamError):
    """The id can't be one of a customer."""


class NotJson(ValueError):
    """These bytes aren't JSON."""


class Mention(StrEnum):
    """How sure it is that a record is the customer's."""

    CERTAIN = "certain"
    # The id stands in it as a whole word, perhaps as an order's id, or beside another customer's: a person decides.
    POSSIBLE = "possible"


class Mentions:
    """Finds one customer in records and texts.

    >>> ann = Mentions("ann", b"hash")
    >>> ann.in_record(None, b'{"customer_id": "ann"}', (), RecordKey.CUSTOMER).value
    'certain'
    >>> ann.in_record(b"ann", b'{"customer_id": "bob"}', (), RecordKey.CUSTOMER).value
    'possible'
    >>> ann.in_record(b"bob", b'{"customer_id": "hannah"}', (), RecordKey.CUSTOMER) is None
    True
    """

    def __init__(self, customer_id: str, hash_: bytes) -> None:
        """`hash_`: the name of the customer's tombstone."""
        self.customer_id = customer_id
        self._id = customer_id.encode()
        self.hash = hash_
        word = re.escape(customer_id)
        self._word = re.compile(rf"(?<![\w.@-]){word}(?![\w@-])")
        # Of a record that isn't JSON, or is cut off: the field's name, then the id as text or number.
        quoted = re.escape(msgspec.json.encode(customer_id).decode()[1:-1])
        self._field = re.compile(
            rf'customer[^"]{{0,16}}"\s*:\s*(?:"{quoted}"|{word}(?=\s*[,}}\]]|\s*$))', re.IGNORECASE
        )

    @classmethod
    def of(cls, settings: Settings, customer_id: str) -> Self:
        """Return those of a customer of a deployment. Raises CustomerIdRefused."""
        if not 1 <= len(customer_id) <= _LONGEST_ID:
            raise CustomerIdRefused(
                f"the customer's id has {len(customer_id)} characters, expected 1 to {_LONGEST_ID}."
            )
        salt = settings.salt
        try:
            return cls(customer_id, tombstone(customer_id.encode(), salt))
        except UnicodeEncodeError:
            raise CustomerIdRefused(
                f"the customer's id {customer_id!r} isn't UTF-8.", hint="Give it as it stands in the orders."
            ) from None

    def in_record(self, key: bytes | None, value: bytes | None, headers: Any, keyed_by: RecordKey) -> Mention | None:
        """Return whether a record is about the customer; None: it isn't."""
        if keyed_by is RecordKey.HASH:
            return Mention.CERTAIN if key == self.hash else None
        under_its_key = keyed_by is RecordKey.CUSTOMER and key == self._id
        found = self._in_value(value, under_its_key=under_its_key)
        if found is not None:
            return found
        if any(self.in_text((content or b"").decode(errors="replace")) for _, content in headers):
            return Mention.POSSIBLE
        return Mention.POSSIBLE if key == self._id and keyed_by is RecordKey.OTHER and len(self._id) > 1 else None

    def in_text(self, text: str) -> bool:
        """Return whether the id stands in a text as a word of its own."""
        return self.customer_id in text and self._word.search(text) is not None

    def is_cursor_of(self, head: bytes) -> bool:
        """Return whether a rescore has stopped at the customer, by a shard's head."""
        try:
            return any(name in _CURSORS and text == self.customer_id for name, text in _fields(_decoded(head)))
        except NotJson:
            return False

    def _in_value(self, value: bytes | None, *, under_its_key: bool) -> Mention | None:
        if value is None or value == b"":
            return Mention.CERTAIN if under_its_key else None
        # Most records of others end here. A backslash: the id may be written with escapes.
        if not under_its_key and self._id not in value and b"\\" not in value:
            return None
        try:
            fields = list(_fields(_decoded(value)))
        except NotJson:
            return self._in_torn_text(value.decode(errors="replace"), under_its_key=under_its_key)
        return self._in_fields(fields, under_its_key=under_its_key)

    def _in_fields(self, fields: list[tuple[str, str]], *, under_its_key: bool) -> Mention | None:
        # A move has `from` too, and there it is a segment.
        names = {"from"} if any(name == "into" for name, _ in fields) else set()
        names |= _CURSORS | _OF_MERGES
        named = [text for name, text in fields if name in names or _CUSTOMER.search(name)]
        if self.customer_id in named:
            return Mention.CERTAIN
        if under_its_key:
            return Mention.POSSIBLE if named else Mention.CERTAIN
        return Mention.POSSIBLE if any(text == self.customer_id for _, text in fields) else None

    def _in_torn_text(self, text: str, *, under_its_key: bool) -> Mention | None:
        if self._field.search(text):
            return Mention.CERTAIN
        if under_its_key:
            return Mention.POSSIBLE if _ANY_FIELD.search(text) else Mention.CERTAIN
        return Mention.POSSIBLE if self.in_text(text) else None


class AnyMentions:
    """Finds one customer in records by any of the ids.

    >>> both = AnyMentions([Mentions("ann", b"hash"), Mentions("bob", b"other")])
    >>> both.in_record(b"bob", b'{"customer_id": "bob"}', (), RecordKey.CUSTOMER).value
    'certain'
    >>> both.in_record(b"cleo", b'{"customer_id": "cleo"}', (), RecordKey.CUSTOMER) is None
    True
    """

    def __init__(self, ids: Sequence[Mentions]) -> None:
        """`ids`: at least one."""
        self.customer_id = ids[0].customer_id
        self._ids = ids

    def in_record(self, key: bytes | None, value: bytes | None, headers: Any, keyed_by: RecordKey) -> Mention | None:
        """Return whether a record is about the customer, by the id that says so most surely; None: it isn't."""
        found = {mentions.in_record(key, value, headers, keyed_by) for mentions in self._ids}
        return next((mention for mention in Mention if mention in found), None)


def _decoded(value: bytes) -> Any:
    """Decode JSON. Raises NotJson."""
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotJson(str(error)) from None


def _fields(found: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts of decoded JSON, and numbers that are a customer's id, each with the name of its field."""
    waiting = [(name, found)]
    while waiting:
        name, found = waiting.pop()
        if isinstance(found, dict):
            waiting += found.items()
        elif isinstance(found, list):
            waiting += ((name, part) for part in found)
        elif isinstance(found, str):
            yield name, found
        elif isinstance(found, int) and _CUSTOMER.search(name):  # any other number is no id
            yield name, str(found)
