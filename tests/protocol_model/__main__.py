"""The protocol's model: every state of one shard, two workers and their servers, in a small world with every fault.

`python -m tests.protocol_model` searches the small worlds and all mutants; `--full` searches larger worlds, for some
minutes each. Change the model before you change the protocol (docs/explanation/exactly-once.md, section 7): takeover.py
and turn.py follow the numbered steps of stream/engine/takeover.py and stream/engine/turns.py.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.protocol_model.explore import Found, Search, comes_to_rest
from tests.protocol_model.mutants import LARGER, MUTANTS, REPAIR_MUTANTS, SMALL, Variant

SAMPLE_EVERY = 500  # one of so many states of the protocol is checked for coming to rest


def main() -> int:
    """Run the searches. Return 1 where one had an unexpected result."""
    parser = argparse.ArgumentParser(prog="python -m tests.protocol_model", description=__doc__.partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="list the variants")
    parser.add_argument(
        "--variant", action="append", metavar="NAME", help="search this one only (a name or a mutant's number)"
    )
    parser.add_argument("--full", action="store_true", help="search larger worlds")
    parser.add_argument("--trace", action="store_true", help="print the shortest way to a violation")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end a search after this much CPU time")
    asked = parser.parse_args()
    variants = [
        *(LARGER if asked.full else SMALL),
        *(m.in_full() if asked.full else m for m in MUTANTS),
        *REPAIR_MUTANTS,
    ]
    if asked.list:
        for variant in variants:
            print(f"{variant.name:28} {variant.breaks or 'holds':8} {variant.description}")
        return 0
    if asked.variant:
        variants = [v for v in variants if v.name in asked.variant or v.name.partition("-")[0] in asked.variant]
        if not variants:
            parser.error(f"there is no variant {' or '.join(asked.variant)}: see --list")
    expected = [_search(variant, asked.seconds, trace=asked.trace) for variant in variants]
    return 0 if all(expected) else 1


def _search(variant: Variant, limit_s: float, *, trace: bool) -> bool:
    found = Search(variant.rules, variant.world).run(
        limit_s=limit_s, sample_every=0 if variant.breaks else SAMPLE_EVERY
    )
    restless = _restless(variant, found)
    verdict = found.violation or restless or ("no violation" if found.exhausted else "cut short, no violation so far")
    print(
        f"{variant.name:28} {found.states:9,} states {found.steps:10,} steps {found.seconds:6.1f} s  {verdict}",
        flush=True,
    )
    if trace and found.violation:
        for number, line in enumerate(found.trace, 1):
            print(f"  {number:3}. {line}")
    return (
        (found.violation or "").startswith(variant.breaks) if variant.breaks else not found.violation and not restless
    )


def _restless(variant: Variant, found: Found) -> str | None:
    if variant.breaks:
        return None
    rng = random.Random(1)
    answers = (comes_to_rest(variant.rules, variant.world, state, rng) for state in found.sample)
    return next((answer for answer in answers if answer), None)


if __name__ == "__main__":
    sys.exit(main())
