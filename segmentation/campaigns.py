"""The campaign step: moves in, actions out, by a table of rules.

A customer's state makes an action happen once: it holds the sequence of the last move handled. States only grow, field
by field, so replayed moves and a takeover from the step's own outputs end in the same bytes, in any order and number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal, NamedTuple, cast
from uuid import NAMESPACE_URL, uuid5

import msgspec
from msgspec import Meta

from segmentation.agreed import Agreed
from segmentation.campaign_rules import Rule, RulesError, RuleTable, default_rules, parse_rules
from segmentation.campaign_state import CampaignFormatError, CampaignState, campaign_key
from segmentation.event_text import Id, cloud_headers, iso
from segmentation.events import Reason, RejectedEvent, Timestamp, encode, millis
from segmentation.life_conditions import KnownLife, MovedLife
from segmentation.outlook_conditions import KnownOutlook, MovedOutlook
from segmentation.output_events import CampaignAction, Cause
from segmentation.rfm_conditions import KnownRfm, MovedRfm
from segmentation.step import DeadLetter, DueEntry, KafkaRecord, Output, Turn, TurnContext, TurnPlan

__all__ = [
    "CampaignFormatError",
    "CampaignState",
    "CampaignStep",
    "Rule",
    "RuleTable",
    "RulesError",
    "default_rules",
    "parse_rules",
]

_SHOWN: Final = 64  # characters of a refused value that a message repeats
_ADOPTED: Final = (Cause.MODEL, Cause.SETTINGS)  # the shop changed its mind, not the customer
_LAST_SEQUENCE: Final = 2**32 - 1


class _ChangedEvent(msgspec.Struct, frozen=True, gc=False, rename={"from_": "from"}):
    """The fields of a segment.changed that a campaign needs. Others aren't read, so that the event can grow."""

    type: Literal["segment.changed"]  # a field, not msgspec's tag: a lone struct's tag may be missing
    id: Id
    customer_id: Id
    sequence: Annotated[int, Meta(ge=1, le=_LAST_SEQUENCE)]
    from_: Id | None
    to: Id | None
    cause: Cause
    occurred_at: Timestamp
    life: MovedLife | None = None
    outlook: MovedOutlook | None = None
    rfm: MovedRfm | None = None


def _after(change: _ChangedEvent) -> CampaignState:
    return CampaignState(change.sequence, since=change.sequence if change.to is None else 0)


class _Move(NamedTuple):
    customer: bytes
    change: _ChangedEvent
    at: int  # ms
    life: KnownLife | None
    outlook: KnownOutlook | None
    rfm: KnownRfm | None


class _MoveBatch(NamedTuple):
    moves: list[_Move]
    dead: list[DeadLetter]


def _batch(plan: TurnPlan) -> _MoveBatch:
    return cast("_MoveBatch", plan.work)


_DECODER: Final = msgspec.json.Decoder(_ChangedEvent)
_AT_PATH: Final = re.compile(r"(?s)(.*) - at `(?:key in )?\$\.?(.*)`")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")


def _read(record: KafkaRecord) -> _Move:
    """Decode a move. Raises RejectedEvent."""
    if record.value is None:
        raise RejectedEvent(Reason.NULL_VALUE, None, "the record has no value: expected a segment.changed in JSON.")
    try:
        change = _DECODER.decode(record.value)
    except msgspec.ValidationError as error:
        raise _rejected(str(error)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise RejectedEvent(Reason.NOT_JSON, None, f"not JSON: {error}. Value: {record.value[:_SHOWN]!r}") from None
    except UnicodeDecodeError as error:
        raise RejectedEvent(Reason.INVALID_UTF8, None, f"text that isn't UTF-8: {error.reason}.") from None
    customer = change.customer_id.encode()
    if record.key != customer:
        message = (
            f"the record's key is {record.key!r}, the customer {customer!r}: "
            "only segstream writes moves, keyed by customer."
        )
        raise RejectedEvent(Reason.KEY_NOT_CUSTOMER, "customer_id", message)
    at = millis(change.occurred_at)
    life = None if change.life is None else KnownLife.of(change.life, at)
    outlook = None if change.outlook is None else KnownOutlook.of(change.outlook)
    rfm = None if change.rfm is None else KnownRfm.of(change.rfm)
    return _Move(customer, change, at, life, outlook, rfm)


def _rejected(text: str) -> RejectedEvent:
    """Turn msgspec's message into reason, field and text.

    tests/unit/segmentation/test_campaign_examples.py holds msgspec's wording.
    """
    found = _AT_PATH.fullmatch(text)
    what, path = found.groups() if found else (text, "")
    if missing := _MISSING.fullmatch(what):
        name = f"{path}.{missing[1]}" if path else missing[1]
        return RejectedEvent(Reason.MISSING_FIELD, name, f"{name} is missing.")
    if path == "type" and what.startswith("Invalid enum value"):
        return RejectedEvent(Reason.UNKNOWN_TYPE, path, f"type: {what}, expected segment.changed.")
    reason = Reason.ID_LENGTH if what.startswith("Expected `str` of length") else Reason.WRONG_FIELD
    return RejectedEvent(reason, path or None, f"{path or 'the event'}: {what}.")


class CampaignStep:
    """Moves -> actions. Pure; the contract is `segmentation.step.Step`. No model, and nothing falls due by time."""

    name = "campaigns"
    sides: tuple[str, ...] = ()
    rescore_first = False
    agreed: Agreed | None = None  # rules may change at any time: they judge later moves

    def __init__(self, table: RuleTable, group: str, *, adopted: bool = False) -> None:
        """Fix the rules. `group` names the deployment and is part of the ids of actions.

        `adopted`: moves by a new model or by changed settings set off no action.
        """
        self._table = table
        self._adopted = adopted
        self._cooldowns = {
            rule.name: (campaign_key(rule.name), rule.cooldown) for rule in table.rules if rule.cooldown is not None
        }
        self._source = f"/segstream/{group}"
        # Below the namespace of the deployment's moves, so that no action shares an id with a move.
        self._namespace = uuid5(uuid5(NAMESPACE_URL, f"segstream:{group}"), "campaign.action")

    def warnings(self) -> list[str]:
        """Return a sentence on each rule that never acts."""
        return self._table.warnings()

    def plan(self, records: Sequence[KafkaRecord], partition: int, context: TurnContext) -> TurnPlan:
        """Decode and check the moves; the clock is the latest move's."""
        del partition  # the contract asks for it
        batch, clock = _MoveBatch([], []), context.clock
        for position, record in enumerate(records):
            try:
                move = _read(record)
            except RejectedEvent as why:
                batch.dead.append(DeadLetter(position, why.reason.value, why.field, why.message))
                continue
            clock = max(clock, move.at)
            batch.moves.append(move)
        keys = list(dict.fromkeys(move.customer for move in batch.moves))
        return TurnPlan(len(records), keys, clock, work=batch)

    def absorb(self, records: Sequence[KafkaRecord], partition: int, context: TurnContext) -> TurnPlan:
        """Do what `plan` does: a move carries its own time, whenever it is delivered."""
        return self.plan(records, partition, context)

    def merge(self, plan: TurnPlan, values: Sequence[bytes | None]) -> Turn:
        """Return the states after the plan's moves. Their actions are published: `patch` reads them from the log."""
        states = self._follow(plan, values, lambda move, state: state.join(_after(move.change)))
        return Turn(plan.taken, plan.clock, states, dead=list(_batch(plan).dead))

    def decide(
        self,
        plan: TurnPlan,
        values: Sequence[bytes | None],
        fired: Sequence[DueEntry],
        more: bool,
        context: TurnContext,
    ) -> Turn:
        """Act on each move that hasn't been handled yet."""
        del fired, more, context  # the contract asks for them
        turn = Turn(plan.taken, plan.clock, dead=list(_batch(plan).dead))

        def act(move: _Move, state: CampaignState) -> CampaignState:
            change = move.change
            if change.sequence <= state.sequence:
                turn.counts["repeat"] += 1
                return state
            state = state.join(_after(change))
            adopted = self._adopted and change.cause in _ADOPTED
            rule, cooling = None, self._cooling(state, move.at)
            if not adopted and change.to is not None:
                rule = self._table.match(
                    change.from_, change.to, change.cause, move.life, move.outlook, move.rfm, cooling=cooling
                )
            if rule is None:
                turn.counts["adopted" if adopted else self._unanswered(move, cooling)] += 1
                return state
            turn.counts["action"] += 1
            cooldown = self._cooldowns.get(rule.name)
            begun = () if cooldown is None else ((cooldown[0], move.at),)
            state = state.join(CampaignState(change.sequence, move.at, state.since, begun))
            turn.outputs.append(self._write(move, rule, state))
            return state

        turn.states = self._follow(plan, values, act)
        return turn

    def rescore(self, rows: Sequence[tuple[bytes, bytes]], quiet: Sequence[bool], context: TurnContext) -> Turn:
        """Return an empty turn: there is no model here."""
        del rows, quiet  # the contract asks for them
        return Turn(0, context.clock)

    def patch(self, value: bytes | None, note: bytes) -> bytes:
        """Return the state with its own last published action written in."""
        return CampaignState.unpack(value).join(CampaignState.unpack(note)).pack()

    def due(self, value: bytes) -> None:
        """Return None: nothing falls due by time."""

    def latest(self, value: bytes, note: bytes) -> None:
        """Return None: actions have no compacted topic."""
        del value, note  # the contract asks for them

    def is_gone(self, value: bytes) -> bool:
        """Return whether the last move handled was the erasure, or the merge into another id."""
        return CampaignState.unpack(value).erased

    def rank(self, value: bytes) -> None:
        """Return None: no merge is kept here."""
        del value  # the contract asks for it

    def current(self, value: bytes) -> bytes:
        """Return the state itself: its format is still the first one."""
        return value

    def under(self, agreed: Agreed) -> CampaignStep:
        """Return the step itself: it has no such settings."""
        del agreed  # the contract asks for it
        return self

    def unmuted(self, value: bytes, slots: frozenset[int]) -> bytes:  # noqa: ARG002 - no backfill mutes an action
        """Return the state: no backfill mutes it."""
        return value

    def hold(self, value: bytes) -> None:
        """Return None: no state is large."""

    def bare(self, value: bytes) -> bytes | None:
        """Return the state: it holds nothing else."""
        return value

    @staticmethod
    def _follow(
        plan: TurnPlan, values: Sequence[bytes | None], then: Callable[[_Move, CampaignState], CampaignState]
    ) -> dict[bytes, bytes]:
        """Apply `then` to the plan's moves, in their order. Return the states that changed."""
        before = {key: CampaignState.unpack(value) for key, value in zip(plan.keys, values, strict=True)}
        states = dict(before)
        for move in _batch(plan).moves:
            states[move.customer] = then(move, states[move.customer])
        return {key: state.pack() for key, state in states.items() if state != before[key]}

    def _unanswered(self, move: _Move, cooling: frozenset[str]) -> str:
        """Return how a move without an action counts."""
        change = move.change
        if change.to is None:
            return "merged" if change.cause is Cause.MERGED else "erased"
        held = cooling and self._table.match(change.from_, change.to, change.cause, move.life, move.outlook, move.rfm)
        return "cooling" if held else "no_rule"

    def _cooling(self, state: CampaignState, at_ms: int) -> frozenset[str]:
        """Return the campaigns that a customer had too lately to have them again at an instant."""
        if not state.campaigns:
            return frozenset()
        acted = dict(state.campaigns)
        return frozenset(
            name for name, (key, span) in self._cooldowns.items() if key in acted and at_ms < acted[key] + span
        )

    def _write(self, move: _Move, rule: Rule, state: CampaignState) -> Output:
        """Make the record of an action. Its note is the state after it."""
        change, occurred_at = move.change, iso(move.at)
        assert change.to is not None
        reason = f"{change.from_ or 'no segment'} → {change.to} ({change.cause.value})"
        event = CampaignAction(
            id=str(uuid5(self._namespace, f"{change.id}:{rule.name}")),
            customer_id=change.customer_id,
            campaign=rule.name,
            segment=change.to,
            action=rule.then.action,
            channel=rule.then.channel,
            reason=f"{reason}: {rule.then.reason}" if rule.then.reason else reason,
            change_id=change.id,
            held_out=False,
            occurred_at=occurred_at,
        )
        headers = cloud_headers("campaign.action", event.id, self._source, change.customer_id, occurred_at)
        return Output(move.customer, encode(event), headers, note=state.pack())
