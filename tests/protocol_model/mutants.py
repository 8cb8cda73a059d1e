"""The variants to be searched: the protocol in its worlds, and each mutant, which lacks one ingredient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from tests.protocol_model.rules import PROTOCOL, ProtocolRules
from tests.protocol_model.world import ANEW, BOTH_AT_ONCE, ONLY_BY_MODEL, REPEATED, WITH_UNUSABLE, ModelWorld


@dataclass(frozen=True, slots=True)
class Variant:
    """Rules in a world. `breaks`: the promise that the shortest trace breaks; None: the protocol, which breaks none."""

    name: str
    description: str
    rules: ProtocolRules
    world: ModelWorld
    breaks: str | None = None

    def in_full(self) -> Variant:
        """Return the variant in a world where the clock moves and a model is published as well."""
        return replace(self, world=replace(self.world, clock_moves=True, new_model=True))


# A world with both a moving clock and a new model is too large for a test, so each world has one of them. A torn
# transaction and an end offset that is too low are never combined: the protocol doesn't survive both.
TIME: Final = ModelWorld(new_model=False)
MODEL: Final = ModelWorld(clock_moves=False)
TORN: Final = replace(TIME, torn=True)
LETTERS: Final = replace(TORN, orders=WITH_UNUSABLE)
SKEWED: Final = replace(TIME, skew=True)
LOW_END: Final = replace(TIME, low_end=True)
# Records of the input are lost, and an operator decides that the shard goes on.
RETAINED: Final = replace(TIME, retention=True, rollbacks=0)
RECREATED: Final = replace(TORN, recreated=ANEW, rollbacks=0, clock_moves=False)
LOSSY: Final = replace(TIME, losses=1)


def _protocol(name: str, description: str, world: ModelWorld) -> Variant:
    return Variant(f"protocol-{name}", description, PROTOCOL, world)


SMALL: Final = (
    _protocol(
        "time",
        "the clock moves; torn transactions, lagging clocks, late commits, pages",
        replace(TORN, skew=True, late_commit=True, pages=True),
    ),
    _protocol(
        "low-end", "the clock moves; end offsets that are too low, late commits", replace(LOW_END, late_commit=True)
    ),
    _protocol("letters", "the clock moves, a record is unusable; torn transactions", LETTERS),
    _protocol("model", "a model is published; torn transactions, pages", replace(MODEL, torn=True, pages=True)),
    _protocol("retention", "the clock moves; an unread record is deleted, an operator steps over it", RETAINED),
    _protocol(
        "recreated",
        "the input is made anew, shorter, an operator lets the shard begin it; torn transactions",
        RECREATED,
    ),
    _protocol(
        "losses",
        "the clock moves; a part of Redis vanishes; torn transactions, late commits",
        replace(LOSSY, rollbacks=0, torn=True, late_commit=True),
    ),
)

LARGER: Final = (
    *(variant.in_full() for variant in SMALL),
    _protocol(
        "retention-rollback", "as retention; Redis is rolled back", replace(RETAINED, rollbacks=1, late_commit=True)
    ),
    _protocol("recreated-rollback", "as recreated; Redis is rolled back", replace(RECREATED, rollbacks=1, pages=True)),
    _protocol(
        "lossy-rollback", "the clock moves; a part of Redis vanishes, and it is rolled back; torn transactions",
        replace(LOSSY, torn=True, pages=True),
    ),
    _protocol("split", "the clock moves; Redis splits; torn transactions", replace(TORN, split=True)),
    _protocol("two-lost", "a rollback loses two commits; torn transactions", replace(TORN, lost_commits=2)),
    _protocol("two-rollbacks", "Redis is rolled back twice; torn transactions", replace(TORN, rollbacks=2)),
    _protocol(
        "repeated",
        "an order comes twice, both customers move at once; torn transactions",
        replace(TORN, orders=REPEATED, segments=BOTH_AT_ONCE),
    ),
    _protocol(
        "by-model", "only the model moves a customer; two commits lost",
        replace(MODEL, segments=ONLY_BY_MODEL, lost_commits=2),
    ),
)  # fmt: skip


def _without(number: int, description: str, breaks: str, world: ModelWorld, **out: object) -> Variant:
    (name,) = out
    rules = replace(PROTOCOL, **out)  # type: ignore[arg-type]  # a field of ProtocolRules, by name
    return Variant(f"{number}-{name.replace('_', '-')}", description, rules, world, breaks)


def _repair_without(name: str, description: str, breaks: str, world: ModelWorld, **out: object) -> Variant:
    rules = replace(PROTOCOL, **out)  # type: ignore[arg-type]  # a field of ProtocolRules, by name
    return Variant(f"repair-{name}", description, rules, world, breaks)


# Of an operator's command, docs/explanation/exactly-once.md, section 11.
REPAIR_MUTANTS: Final = (
    _repair_without("fences", "the command doesn't fence an owner", "C6", RECREATED, repair_fences=False),
    _repair_without(
        "covers", "the command doesn't cover a torn transaction", "stopped", RECREATED, repair_covers=False
    ),
    _repair_without(
        "kafka-first", "the command writes Redis before Kafka", "stopped", RETAINED, repair_kafka_first=False
    ),
)

# The recovery suite uses the same numbers.
MUTANTS: Final = (
    _without(1, "a failed send of a move isn't noticed", "C3", TIME, await_outputs=False),
    _without(2, "a failed send of the head isn't noticed", "stopped", TIME, await_head=False),
    _without(3, "the head is sent before the moves are acknowledged", "stopped", TORN, outputs_before_head=False),
    _without(4, "Redis is written without comparing the head", "C1", TIME, compare_and_set=False),
    _without(5, "the log is read to its end only", "C2", LOW_END, read_until_last=False),
    _without(6, "the log is read until move S only", "C2", TORN, read_until_end=False),
    _without(7, "published moves aren't noted in Redis", "C2", TIME, patch_announced=False),
    _without(8, "orders R..N are scored as usual", "C6", TIME, absorb_in_silence=False),
    _without(9, "the customers of R..N aren't due", "C3", TIME, due_now=False),
    _without(10, "a takeover doesn't raise the clock", "C6", SKEWED, raise_clock=False),
    _without(11, "a turn uses its own clock, however late", "C6", SKEWED, monotone_clock=False),
    _without(12, "a takeover doesn't raise the activation", "C6", MODEL, raise_activation=False),
    _without(13, "an older model may score", "C6", MODEL, refuse_older=False),
    _without(14, "the states are loaded without the head", "C2", TIME, load_under_head=False),
    _without(15, "each producer has another transactional id", "C2", TIME, one_transactional_id=False),
    _without(16, "the heads are read before the producer starts", "C6", MODEL, opening=("redis", "kafka", "producer")),
    _without(17, "Redis before Kafka", "stopped", TIME, kafka_first=False),
    _without(18, "an idle owner doesn't compare the head", "C1", TIME, poll_compares=False),
    _without(19, "a turn without moves has no transaction", "C3", TIME, transaction_every_turn=False),
    _without(20, "moves beyond S aren't covered by a head", "C7", TORN, cover_torn=False),
    _without(21, "an old broker loses a part of a transaction", "C3", TIME, broker_verifies=False),
    _without(22, "the Kafka head is read before Redis'", "stopped", TIME, opening=("producer", "kafka", "redis")),
    _without(23, "states are loaded without comparing the counts", "C1", LOSSY, count_at_load=False),
    _without(24, "Redis is written without comparing the counts", "C1", LOSSY, count_at_commit=False),
    _without(25, "the end of a transaction is sent again under the same epoch", "C8", TIME, end_once=False),
    _without(26, "what else a torn turn published isn't sent with the covering head", "C7", TORN, cover_rest=False),
    _without(27, "a torn turn's dead letters are sent again", "C7", LETTERS, leave_out_reported=False),
)  # fmt: skip
