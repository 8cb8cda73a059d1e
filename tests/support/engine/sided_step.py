"""A step with side inputs, for the engine's tests: questions are the input, answers the outputs.

A question is answered with yes, or with no if a profile denies it. One with a delay is answered once it is due, and not
at all if an order came after it. As in the real step, an answer changes the state only together with its output, and
what comes from a side input is a join.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import msgspec

from segmentation.agreed import Agreed
from segmentation.events import CONTROL_KEY
from segmentation.step import (
    ORDERS,
    PROFILES,
    DeadLetter,
    DueEntry,
    Held,
    KafkaRecord,
    Output,
    SidePackage,
    SideRecord,
    Turn,
    TurnContext,
    TurnPlan,
)


class Answers(msgspec.Struct):
    """A customer's state. `view`: (date, whether denied), of the latest profile."""

    handled: int = 0  # offset behind the last question
    view: tuple[int, bool] = (0, False)
    number: int = 0  # of the last answer; what follows changes with it
    until: int = 0  # ms: when the delayed question is due; 0: there is none
    since: int = 0  # ms: when it was asked
    ordered: int = 0  # ms: the last order after it; of the side input of orders

    def pack(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def of(cls, value: bytes | None) -> Answers:
        return msgspec.json.decode(value, type=cls) if value else cls()


class Asked(NamedTuple):
    records: Sequence[KafkaRecord]
    side: Sequence[SideRecord]


class SidedStep:
    """The step. Profiles: "deny:DATE", "grant:DATE", "bad", "poison", "hand:PARTITION:TEXT"."""

    name = "campaigns"
    sides: tuple[str, ...] = (PROFILES, ORDERS)
    rescore_first = False
    agreed: Agreed | None = None

    def plan(self, records: Sequence[KafkaRecord], partition: int, context: TurnContext) -> TurnPlan:
        clock = max(context.clock, context.now)
        keys = [r.key for r in (*records, *context.side) if r.key is not None and r.key != CONTROL_KEY]
        keys += [_package(r)[0] for r in context.side if r.key == CONTROL_KEY]
        work = Asked(records, context.side)
        return TurnPlan(len(records), list(dict.fromkeys(keys)), clock, None if context.behind else clock, work=work)

    def absorb(self, records: Sequence[KafkaRecord], partition: int, context: TurnContext) -> TurnPlan:
        keys = list(dict.fromkeys(r.key for r in records if r.key is not None))
        return TurnPlan(len(records), keys, context.clock, work=Asked(records, ()))

    def decide(
        self,
        plan: TurnPlan,
        values: Sequence[bytes | None],
        fired: Sequence[DueEntry],
        more: bool,
        context: TurnContext,
    ) -> Turn:
        turn, work = Turn(plan.taken, plan.clock), cast("Asked", plan.work)
        stored = dict(zip(plan.keys, values, strict=True))
        fired = fired[:-1] if more else fired
        stored |= {entry.key: cast("bytes", entry.value) for entry in fired if entry.value is not None}
        states = {key: Answers.of(value) for key, value in stored.items()}
        for position, read in enumerate(work.side):
            if read.source == PROFILES:
                self._learn(position, read, states, turn)
        for record in work.records:
            assert record.key is not None
            state = states[record.key]
            if record.offset < state.handled:
                continue
            state.handled = record.offset + 1
            delay = int((record.value or b"").decode().partition(":")[2] or 0)
            if delay:
                state.until, state.since, state.ordered = record.timestamp + delay, record.timestamp, 0
            self._answer(record.key, state, "later" if delay else self._word(state), turn)
        _note_orders(work.side, states)
        for key, state in states.items():
            if not context.behind and state.until and state.until < plan.clock:
                word = "ordered" if state.ordered else self._word(state)
                state.until = state.since = state.ordered = 0
                self._answer(key, state, word, turn)
        nothing = Answers().pack()
        turn.states = {key: now for key, state in states.items() if (now := state.pack()) != (stored[key] or nothing)}
        for entry in fired:
            if at := states[entry.key].until if entry.key in states else 0:
                turn.due[entry.key] = at
            else:
                turn.idle.append(entry.key)
        turn.earlier = {k: at for k in turn.states if (at := states[k].until) and k not in turn.due}
        return turn

    @staticmethod
    def _learn(position: int, record: SideRecord, states: dict[bytes, Answers], turn: Turn) -> None:
        if record.value == b"poison":
            raise ZeroDivisionError("poison")
        key, value = _package(record) if record.key == CONTROL_KEY else (record.key or b"", record.value or b"")
        word, _, rest = value.decode().partition(":")
        if word == "hand":
            partition, _, text = rest.partition(":")
            turn.side_packages.append(SidePackage(int(partition), text.encode()))
        elif word in {"deny", "grant"}:
            states[key].view = max(states[key].view, (int(rest), word == "deny"))
        else:
            turn.side_dead.append(DeadLetter(position, "bad", "value", "it says so."))

    @staticmethod
    def _word(state: Answers) -> str:
        return "no" if state.view[1] else "yes"

    @staticmethod
    def _answer(key: bytes, state: Answers, word: str, turn: Turn) -> None:
        state.number += 1
        turn.outputs.append(Output(key, b"%b:%d:%b" % (key, state.number, word.encode()), [], state.pack()))

    def merge(self, plan: TurnPlan, values: Sequence[bytes | None]) -> Turn:
        turn, states = Turn(plan.taken, plan.clock), dict(zip(plan.keys, map(Answers.of, values), strict=True))
        for record in cast("Asked", plan.work).records:
            assert record.key is not None
            states[record.key].handled = max(states[record.key].handled, record.offset + 1)
        turn.states = {key: state.pack() for key, state in states.items()}
        turn.due = dict.fromkeys(states, 2**53)
        return turn

    def rescore(self, rows: Sequence[tuple[bytes, bytes]], quiet: Sequence[bool], context: TurnContext) -> Turn:
        return Turn(0, context.clock)

    def patch(self, value: bytes | None, note: bytes) -> bytes:
        own, said = Answers.of(value), Answers.of(note)
        own.handled, own.view = max(own.handled, said.handled), max(own.view, said.view)
        if said.number > own.number:
            own.number, own.until, own.since, own.ordered = said.number, said.until, said.since, said.ordered
        return own.pack()

    def due(self, value: bytes) -> int | None:
        return Answers.of(value).until or None

    def latest(self, value: bytes, note: bytes) -> None:
        return None

    def current(self, value: bytes) -> bytes:
        return value

    def is_gone(self, value: bytes) -> bool:
        return False

    def rank(self, value: bytes) -> int | None:
        return None

    def under(self, agreed: Agreed) -> SidedStep:
        return self

    def unmuted(self, value: bytes, slots: frozenset[int]) -> bytes:
        return value

    def hold(self, value: bytes) -> Held | None:
        return None

    def bare(self, value: bytes) -> bytes | None:
        return value


def _note_orders(side: Sequence[SideRecord], states: dict[bytes, Answers]) -> None:
    for record in side:
        state = states.get(record.key or b"") if record.source == ORDERS else None
        if state and state.until and record.timestamp >= state.since:
            state.ordered = max(state.ordered, record.timestamp)


def _package(record: SideRecord) -> tuple[bytes, bytes]:
    """Return (customer, what it says) of a record that was handed on."""
    key, _, value = (record.value or b"").partition(b"=")
    return key, value
