"""A step for the engine's tests: it counts the records of each key, with an output for every LEVEL records."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import cast

from segmentation.agreed import Agreed
from segmentation.step import DeadLetter, DueEntry, Held, KafkaRecord, Output, Turn, TurnContext, TurnPlan

STATE = struct.Struct("<qqq")  # records, announced level, sequence
LEVEL = 3


def _records(plan: TurnPlan) -> Sequence[KafkaRecord]:
    return cast("Sequence[KafkaRecord]", plan.work)


class ToyStep:
    """Counts records by key.

    The value "poison" raises, "bad" becomes a dead letter, "erase" forgets all but the sequence.
    """

    name = "scoring"
    sides: tuple[str, ...] = ()
    rescore_first = True
    agreed: Agreed | None = None

    def plan(self, records: Sequence[KafkaRecord], partition: int, context: TurnContext) -> TurnPlan:
        keys = list(dict.fromkeys(r.key for r in records if r.key and r.value != b"bad"))
        clock = max([context.clock, *(r.offset for r in records)])
        return TurnPlan(len(records), keys, clock, work=records)

    absorb = plan

    def decide(
        self,
        plan: TurnPlan,
        values: Sequence[bytes | None],
        fired: Sequence[DueEntry],
        more: bool,
        context: TurnContext,
    ) -> Turn:
        turn = Turn(plan.taken, plan.clock)
        states = self._states(plan, values)
        for position, record in enumerate(_records(plan)):
            if record.value == b"poison":
                raise ZeroDivisionError("poison")
            if record.value == b"bad" or record.key is None:
                turn.dead.append(DeadLetter(position, "bad", "value", "it says so."))
                continue
            count, level, sequence = states[record.key]
            if record.value == b"erase":
                states[record.key] = (0, 0, sequence)
                continue
            count += 1
            if count // LEVEL != level:
                level, sequence = count // LEVEL, sequence + 1
                text = b"%s:%d:%d" % (record.key, sequence, level)
                turn.outputs.append(Output(record.key, text, [], struct.pack("<qq", level, sequence), text))
            states[record.key] = (count, level, sequence)
        turn.states = {key: STATE.pack(*state) for key, state in states.items()}
        return turn

    def merge(self, plan: TurnPlan, values: Sequence[bytes | None]) -> Turn:
        states, turn = self._states(plan, values), Turn(plan.taken, plan.clock)
        for position, record in enumerate(_records(plan)):
            if record.value == b"bad" or record.key is None:
                turn.dead.append(DeadLetter(position, "bad", "value", "it says so."))
            elif record.value != b"poison":
                count, level, sequence = states[record.key]
                states[record.key] = (0, 0, sequence) if record.value == b"erase" else (count + 1, level, sequence)
        turn.states = {key: STATE.pack(*state) for key, state in states.items()}
        return turn

    def rescore(self, rows: Sequence[tuple[bytes, bytes]], quiet: Sequence[bool], context: TurnContext) -> Turn:
        return Turn(0, context.clock)

    def patch(self, value: bytes | None, note: bytes) -> bytes:
        count, _, _ = STATE.unpack(value) if value else (0, 0, 0)
        return STATE.pack(count, *struct.unpack("<qq", note))

    def due(self, value: bytes) -> int | None:
        return None

    def latest(self, value: bytes, note: bytes) -> bytes:
        return value

    def current(self, value: bytes) -> bytes:
        return value

    def is_gone(self, value: bytes) -> bool:
        count, _, _ = STATE.unpack(value)
        return bool(count == 0)

    def rank(self, value: bytes) -> int | None:
        return None

    def under(self, agreed: Agreed) -> ToyStep:
        return self

    def unmuted(self, value: bytes, slots: frozenset[int]) -> bytes:
        return value

    def hold(self, value: bytes) -> Held | None:
        return None

    def bare(self, value: bytes) -> bytes | None:
        _, level, sequence = STATE.unpack(value)
        return STATE.pack(0, level, sequence) if sequence else None

    def _states(self, plan: TurnPlan, values: Sequence[bytes | None]) -> dict[bytes, tuple[int, int, int]]:
        return {k: STATE.unpack(v) if v else (0, 0, 0) for k, v in zip(plan.keys, values, strict=True)}
