"""A record is a customer's if its customer field or its key says so; else it may be somebody else's."""

from __future__ import annotations

import pytest

from stream.settings import Settings
from stream.traces.mentions import CustomerIdRefused, Mention, Mentions
from stream.traces.places import RecordKey

KEYED, OTHER, HASHED = RecordKey.CUSTOMER, RecordKey.OTHER, RecordKey.HASH
CERTAIN, POSSIBLE = Mention.CERTAIN, Mention.POSSIBLE


@pytest.mark.parametrize(
    ("key", "value", "keyed_by", "expected"),
    [
        (b"42", b'{"customer_id": "42", "order_id": "7"}', KEYED, CERTAIN),
        (b"42", None, KEYED, CERTAIN),
        (b"42", b"", KEYED, CERTAIN),
        (b"x", b'{"data": {"customerId": "42"}}', KEYED, CERTAIN),
        (b"x", b'{"customer_id": 42}', KEYED, CERTAIN),
        (b"x", b'{"customer_id": "\\u0034\\u0032"}', KEYED, CERTAIN),
        (b"42", b'{"order_id": "7"}', KEYED, CERTAIN),
        (b"42", b'{"customer_id": "43"}', KEYED, POSSIBLE),
        (b"43", b'{"customer_id": "43", "order_id": "42"}', KEYED, POSSIBLE),
        (b"43", b'{"customer_id": "43", "amount": {"value": "42.00"}}', KEYED, None),
        (b"43", b'{"customer_id": "432", "sequence": 42}', KEYED, None),
        (b"43", b'{"customer_id": "43", "id": "o-42-1"}', KEYED, None),
        (b"42", b'{"customer_id": "42", "cut off', KEYED, CERTAIN),
        (b"43", b'{"customer_id": 42, "cut off', KEYED, CERTAIN),
        (b"43", b'{"customer_id": "43", "note": "of 42', KEYED, POSSIBLE),
        (b"43", b'{"customer_id": "43", "note": "of 421', KEYED, None),
        (b"42", b'{"customer_id": "43"}', OTHER, POSSIBLE),
        (b"42", b'{"type": "customer.merged", "from": "42", "into": "43"}', KEYED, CERTAIN),
        (b"43", b'{"type": "customer.merged", "from": "43", "into": "42"}', KEYED, CERTAIN),
        (b"x", b'{"type": "customer.merged", "from": "42", "into": "43"}', KEYED, CERTAIN),
        (b"43", b'{"type": "segment.changed", "customer_id": "43", "from": "42", "to": null}', KEYED, POSSIBLE),
        (b"43", b'{"type": "segment.changed", "customer_id": "43", "merged_into": "42"}', KEYED, CERTAIN),
        (b"\0c", b'{"type": "customer.joined", "customer_id": "43", "giver": "42", "state": ""}', KEYED, CERTAIN),
        (b"\0c", b'{"customer_id": "43", "event": {"customer_id": "42"}}', KEYED, CERTAIN),
        (b"\0c", b'{"type": "profile.forwarded", "customer_id": "42", "profile": [[7, "UTC"]]}', KEYED, CERTAIN),
        (b"\0budget:0", b'{"type": "campaign.budget", "shard": 42, "used": {"42": {"actions": 42}}}', KEYED, None),
        (b"\xff", b"\xff\xfe", KEYED, None),
        (b"42", b"\xff\xfe", KEYED, CERTAIN),
        (b"42", b'{"customer_id": "43", "cut off', KEYED, POSSIBLE),
        (b"hash", b"\x01", HASHED, CERTAIN),
        (b"42", b"\x01", HASHED, None),
    ],
)
def test_a_record(key: bytes | None, value: bytes | None, keyed_by: RecordKey, expected: Mention | None) -> None:
    assert Mentions("42", b"hash").in_record(key, value, [], keyed_by) is expected


def test_a_header_that_quotes_the_id_is_possible() -> None:
    headers = [("message", b"the record's key is 'x', the customer 'ann'"), ("empty", None)]
    assert Mentions("ann", b"").in_record(b"x", b"{}", headers, KEYED) is POSSIBLE
    assert Mentions("an", b"").in_record(b"x", b"{}", headers, KEYED) is None


def test_an_id_with_signs_of_a_pattern_is_taken_as_it_is() -> None:
    odd = Mentions('a+b@x.org"', b"")
    assert odd.in_record(b"x", b'{"customer_id": "a+b@x.org\\""}', [], KEYED) is CERTAIN
    assert odd.in_record(b"x", b'{"customer_id": "aab@x.org"}', [], KEYED) is None


def test_a_head_names_the_customer_that_a_rescore_has_stopped_at() -> None:
    ann = Mentions("ann", b"")
    assert ann.is_cursor_of(b'{"token":"t","cursor":"ann"}')
    assert not ann.is_cursor_of(b'{"token":"ann","cursor":null}')
    assert not ann.is_cursor_of(b"\xff")


@pytest.mark.parametrize("name", ["", "x" * 257, "\udcff"])
def test_an_id_that_no_customer_can_have_is_refused(name: str) -> None:
    with pytest.raises(CustomerIdRefused):
        Mentions.of(Settings(), name)
