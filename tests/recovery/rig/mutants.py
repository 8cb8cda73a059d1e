"""The mutants: the protocol without one of its ingredients, which the recovery tests must catch.

The numbers are those of `python -m tests.protocol_model --list`. Production code has no switches: `mutate` replaces
methods, in a worker process (RECOVERY_MUTANT=…) or in the process of a test.
"""

from __future__ import annotations

from typing import Final

from tests.recovery.rig.replacing import Replace, TakeOut, for_good
from tests.recovery.rig.takeover_mutants import TAKEOVER_MUTANTS
from tests.recovery.rig.turn_mutants import TURN_MUTANTS

TAKEN_OUT: Final = {
    1: "awaiting the sends of the moves",
    2: "awaiting the head's send",
    3: "the moves acknowledged before the head is sent",
    4: "comparing the head when Redis is written",
    5: "reading the output log until move S",
    6: "reading the output log to its end",
    7: "noting in Redis what was published",
    8: "absorbing R..N without publishing",
    9: "due now for the customers of R..N",
    10: "raising the clock at a takeover",
    11: "a turn's clock that never goes back",
    12: "raising the activation at a takeover",
    13: "refusing an older activation",
    14: "loading states under the head",
    15: "one transactional id per shard",
    16: "the producer's start before the heads are read",
    17: "Kafka before Redis",
    18: "comparing the head when nothing is due",
    19: "a transaction for a turn without moves",
    20: "a head that covers what a torn transaction left (4b)",
    21: "the broker's verification of a transaction's partitions",
    22: "the Redis head before the Kafka head",
    23: "comparing what the keys hold when states are loaded",
    24: "comparing what the keys hold when Redis is written",
    25: "ending a transaction with one request, never repeated",
    26: "all that a torn turn published, with the head that covers it (4b)",
    27: "leaving out the dead letters that a torn turn has left",
}
BY_THE_BROKER: Final = 21  # lacking in the broker, not in a worker

_MUTANTS: Final[dict[int, TakeOut]] = {**TURN_MUTANTS, **TAKEOVER_MUTANTS}


def mutate(number: int, replace: Replace = for_good) -> None:
    """Take an ingredient out, by its number. Raises KeyError where it isn't an ingredient of a worker."""
    _MUTANTS[number](replace)
