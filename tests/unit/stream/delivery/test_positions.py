"""A restart from any position and the outcomes after it knows what the process before knew."""

from __future__ import annotations

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentation.event_text import iso
from stream.delivery.outcomes import (
    ActionRecord,
    DeliveryEvent,
    DeliveryGivenUp,
    DeliveryRetrying,
    DeliverySucceeded,
    decode_outcome,
    encode_outcome,
    outcome_id,
)
from stream.delivery.positions import DeliveryPosition, EndpointState, Resumption, WaitingRecord, encode_kept
from stream.delivery.window import LogPartition

PLACE = LogPartition("actions", 0)
KINDS: tuple[type[DeliveryEvent], ...] = (DeliverySucceeded, DeliveryRetrying, DeliveryGivenUp)


def outcome(
    kind: type[DeliveryEvent], offset: int, attempt: int, due_ms: int = 0, topic: str = "actions"
) -> DeliveryEvent:
    record = ActionRecord(topic, 0, offset)
    found: DeliveryEvent = kind(
        id=outcome_id("crm", record, attempt, kind), action_id="1", customer_id="c", campaign="w", channel="email",
        endpoint="crm", attempt=attempt, status=None, detail="", at=iso(0),
        next_attempt_at=iso(due_ms) if kind is DeliveryRetrying else None, record=record,
    )  # fmt: skip
    return found


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_restart_knows_what_the_process_before_knew(data: st.DataObject) -> None:
    """Play a process: it reads on, and outcomes come for what it has read. It keeps a position now and then."""
    read, waiting, log = 0, dict[int, WaitingRecord](), list[DeliveryEvent]()
    kept = DeliveryPosition(0, 0)
    for _ in range(data.draw(st.integers(0, 40))):
        choice = data.draw(st.sampled_from(["read", "outcome", "keep"]))
        if choice == "read":
            waiting[read] = WaitingRecord(read)
            read += 1
        elif choice == "outcome" and waiting:
            offset = data.draw(st.sampled_from(sorted(waiting)))
            kind, due_ms = data.draw(st.sampled_from(KINDS)), data.draw(st.integers(0, 10**12))
            attempt = waiting[offset].attempts + 1
            log.append(outcome(kind, offset, attempt, due_ms))
            if kind is DeliveryRetrying:
                waiting[offset] = WaitingRecord(offset, attempt, due_ms)
            else:
                del waiting[offset]
        elif choice == "keep":
            # A position may be older than the outcomes that it asks for, never younger.
            kept = DeliveryPosition(read, data.draw(st.integers(0, len(log))), tuple(waiting.values()))
    kept = msgspec.json.decode(encode_kept(kept), type=DeliveryPosition)
    written = [decode_outcome(encode_outcome(event)) for event in log[kept.outcomes_from :]]
    resumption = Resumption.of(kept, PLACE, [event for event in written if event])
    assert resumption.first_offset() <= min([read, *waiting])
    found = {offset: resumption.take(offset) for offset in range(read)}
    assert {offset: fate for offset, fate in found.items() if fate is not None} == waiting


def test_outcomes_of_another_topic_or_none_at_all_are_not_taken_for_ours() -> None:
    others = [outcome(DeliverySucceeded, 5, 1, topic="redeliveries")]
    assert Resumption.of(DeliveryPosition(0, 0), PLACE, others).take(5) == WaitingRecord(5)
    for value in (None, b"", b"{}", b"\xff", b'{"type": "campaign.delivered"}', b"[" * 100_000):
        assert decode_outcome(value) is None


def test_what_waits_for_an_endpoint_to_be_enabled_is_due_at_once() -> None:
    gone = msgspec.structs.replace(outcome(DeliveryRetrying, 5, 3), next_attempt_at=None)
    assert Resumption.of(DeliveryPosition(6, 0), PLACE, [gone]).take(5) == WaitingRecord(5, 3, 0)


def test_a_window_s_worth_of_waiting_records_fits_in_a_record() -> None:
    waiting = tuple(WaitingRecord(10**12 + n, 9, 10**13) for n in range(10_500))
    assert len(encode_kept(DeliveryPosition(10**12, 0, waiting))) < 600_000
    assert msgspec.json.decode(encode_kept(EndpointState()), type=EndpointState).disabled_at is None
