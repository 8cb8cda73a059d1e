"""One record of an output topic as one line, for people or as JSON. `terminal.echo` makes it harmless."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from segmentation.output_events import (
    CampaignAction,
    CampaignBudget,
    CampaignDecision,
    CampaignScheduled,
    CampaignWithheld,
    Rfm,
    SegmentChanged,
)
from stream.dead_letters.records import read_dead_letter

_SHOWN: Final = 200  # characters of a message or a value on a line for people
_KEY_SHOWN: Final = 64

_change = msgspec.json.Decoder(SegmentChanged)
_decision = msgspec.json.Decoder(CampaignDecision | CampaignBudget)


class DeadLetterLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A dead letter as one line of JSON. `topic`, `partition`, `offset` are those of the original record.

    Key and value are text, or base64 in `key_base64` and `value_base64` if they aren't UTF-8. `headers` are the
    original record's; `redrives` counts how often it was sent back before; `cut`: only the beginnings of key and value
    are kept.
    """

    topic: str
    partition: int | None
    offset: int | None
    reason: str
    field: str | None
    message: str
    failed_at: str | None
    letter_partition: int
    letter_offset: int
    key: str | None = None
    key_base64: str | None = None
    value: str | None = None
    value_base64: str | None = None
    headers: dict[str, str] = {}
    redrives: int = 0
    cut: bool = False


def published_json(record: Any) -> str:
    """Return a published event unchanged, as one line; a record that isn't JSON as an object with `unreadable`."""
    try:
        return msgspec.json.encode(msgspec.Raw(msgspec.json.format(record.value or b"", indent=-1))).decode()
    except msgspec.DecodeError:
        return msgspec.json.encode({"unreadable": _at(record), "value": _text(record.value)}).decode()


def change_line(record: Any) -> str:
    """Return a move as a line: instant, customer, segments, cause, and the figures that it was decided on."""
    try:
        event = _change.decode(record.value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"unreadable: {_at(record)}: {_text(record.value)[:_SHOWN]}"
    nowhere = "(erased)" if event.merged_into is msgspec.UNSET else f"(merged into {event.merged_into})"
    line = f"{_shown(event.occurred_at)}  {event.customer_id}  {event.from_ or '(new)'} -> {event.to or nowhere}"
    line += f"  {event.cause.value}, move {event.sequence}"
    if event.rfm is not None:
        line += f"  {figures(event.rfm)}"
    if event.next is not None:
        line += f"  next: {event.next.segment} {_shown(event.next.at)}"
    return line


def decision_line(record: Any) -> str:
    """Return a campaign's decision as a line: instant, customer, segment, campaign, action, channel and outcome."""
    try:
        event = _decision.decode(record.value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"unreadable: {_at(record)}: {_text(record.value)[:_SHOWN]}"
    if isinstance(event, CampaignBudget):
        used = ", ".join(f"{name} {used.actions} on {used.day}" for name, used in event.used.items())
        return f"{_shown(event.decided_at)}  shard {event.shard}  budgets used: {used}"
    line = f"{_shown(event.decided_at or event.occurred_at)}  {event.customer_id}  {event.segment}  "
    return f"{line}{event.campaign}: {event.action}  by {event.channel}  {_outcome(event)}"


def _outcome(event: CampaignDecision) -> str:
    if isinstance(event, CampaignAction):
        return f"({event.reason})"
    if isinstance(event, CampaignWithheld):
        return f"not sent, {event.reason.value}: {event.detail}"
    if isinstance(event, CampaignScheduled):
        return f"held back until {_shown(event.until)}: {event.why.replace('_', ' ')}"
    held_out = " (held out)" if event.held_out else ""
    return f"converted{held_out}: order {event.order_id} of {event.amount.value} {event.amount.currency}"


class _DeliveryFacts(msgspec.Struct, frozen=True):
    """The part of an outcome of a webhook that a line shows."""

    type: str
    at: str
    customer_id: str
    campaign: str
    endpoint: str
    attempt: int
    detail: str
    next_attempt_at: str | None


def delivery_line(record: Any) -> str:
    """Return what became of a webhook as a line: instant, customer, campaign, endpoint, outcome and attempt."""
    try:
        event = msgspec.json.decode(record.value or b"", type=_DeliveryFacts)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"unreadable: {_at(record)}: {_text(record.value)[:_SHOWN]}"
    line = f"{_shown(event.at)}  {event.customer_id}  {event.campaign}  {event.endpoint}"
    line += f"  {event.type.removeprefix('campaign.')}, attempt {event.attempt}: {_on_a_line(event.detail, _SHOWN)}"
    return line if event.next_attempt_at is None else f"{line}  next: {_shown(event.next_attempt_at)}"


def figures(rfm: Rfm) -> str:
    """Return recency, frequency and monetary value as text.

    >>> figures(Rfm(41.25, 12, "1234.50"))
    'recency 41.2 days, frequency 12, monetary 1234.50'
    """
    return f"recency {rfm.recency_days:.1f} days, frequency {rfm.frequency}, monetary {rfm.monetary}"


def dead_letter(record: Any) -> DeadLetterLine:
    """Return the contents of a dead letter: the original record, and the facts in its headers."""
    letter = read_dead_letter(record)
    key, key_base64 = _text_or_base64(record.key)
    value, value_base64 = _text_or_base64(record.value)
    return DeadLetterLine(
        topic=letter.topic or "",
        partition=letter.partition,
        offset=letter.offset,
        reason=letter.reason,
        field=letter.field,
        message=letter.message,
        failed_at=letter.failed_at,
        letter_partition=record.partition,
        letter_offset=record.offset,
        key=key,
        key_base64=key_base64,
        value=value,
        value_base64=value_base64,
        headers={name: _text(value) for name, value in letter.headers},
        redrives=letter.redrives,
        cut=letter.cut,
    )


def dead_letter_json(record: Any) -> str:
    """Return a dead letter as one line of JSON."""
    return msgspec.json.encode(dead_letter(record)).decode()


def dead_letter_line(record: Any) -> str:
    """Return a dead letter as a line: instant, reason, coordinates of the original record, key, message and value."""
    letter = read_dead_letter(record)
    when = _shown(letter.failed_at) if letter.failed_at else "-"
    where = f"{letter.topic}-{letter.partition}@{letter.offset}"
    field = f" ({letter.field})" if letter.field else ""
    again = f"  sent back {letter.redrives} times" if letter.redrives else ""
    line = f"{when}  {letter.reason}{field}  {where}{again}  key {_begins(letter.key, _KEY_SHOWN)}"
    return f"{line}  {_on_a_line(letter.message, _SHOWN)}  {_begins(letter.value, _SHOWN)}"


def _shown(at: str) -> str:
    """Return an instant as text, to the second, in UTC; any other text unchanged."""
    try:
        return datetime.fromisoformat(at).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return at


def _begins(part: bytes | None, most: int) -> str:
    """Return the beginning of a key or a value as text, with its length if it is cut."""
    if part is None:
        return "none"
    shown = _on_a_line(part[: 4 * most].decode(errors="backslashreplace"), most)
    return shown if len(part) <= most else f"{shown}… ({len(part):,} bytes)"


def _on_a_line(text: str, most: int) -> str:
    r"""Return the beginning of any text as one line of at most `most` characters.

    >>> _on_a_line("a\n  b and more", 5)
    'a b a'
    """
    return " ".join(text[: 4 * most].split())[:most]


def _at(record: Any) -> str:
    return f"{record.topic}-{record.partition}@{record.offset}"


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _text_or_base64(value: bytes | None) -> tuple[str | None, str | None]:
    if value is None:
        return None, None
    try:
        return value.decode(), None
    except UnicodeDecodeError:
        return None, base64.b64encode(value).decode()
