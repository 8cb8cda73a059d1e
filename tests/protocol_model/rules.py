"""The ingredients of the protocol. Each mutant lacks one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Opening = Literal["producer", "redis", "kafka"]


@dataclass(frozen=True, slots=True)
class ProtocolRules:
    """The ingredients that a variant has. The protocol has all."""

    await_outputs: bool = True
    await_head: bool = True
    outputs_before_head: bool = True
    compare_and_set: bool = True
    read_until_last: bool = True
    read_until_end: bool = True
    patch_announced: bool = True
    absorb_in_silence: bool = True
    due_now: bool = True
    raise_clock: bool = True
    monotone_clock: bool = True
    raise_activation: bool = True
    refuse_older: bool = True
    load_under_head: bool = True
    one_transactional_id: bool = True
    opening: tuple[Opening, Opening, Opening] = ("producer", "redis", "kafka")  # steps 1, 2, 3
    kafka_first: bool = True
    poll_compares: bool = True
    transaction_every_turn: bool = True
    cover_torn: bool = True
    broker_verifies: bool = True
    repair_fences: bool = True
    repair_covers: bool = True
    repair_kafka_first: bool = True
    count_at_load: bool = True
    count_at_commit: bool = True
    end_once: bool = True
    cover_rest: bool = True
    leave_out_reported: bool = True

    @property
    def lost_means_down(self) -> bool:
        """Whether a worker notices in time that Redis has lost its head, or that its producer was fenced."""
        return (
            self.compare_and_set
            and self.load_under_head
            and self.poll_compares
            and self.one_transactional_id
            and self.kafka_first
            and self.transaction_every_turn
            and self.opening == ("producer", "redis", "kafka")
        )


PROTOCOL: Final = ProtocolRules()
