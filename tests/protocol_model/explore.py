"""The search of every reachable state, by the shortest way; and whether the shard comes to rest once faults stop."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

from tests.protocol_model.canonical import canonical, reduced
from tests.protocol_model.checks import at_rest, rest
from tests.protocol_model.environment import happenings
from tests.protocol_model.repair import begin_repair, is_needed, repair
from tests.protocol_model.rules import ProtocolRules
from tests.protocol_model.state import Slot, State, Transition, start
from tests.protocol_model.takeover import take_over
from tests.protocol_model.turn import turn
from tests.protocol_model.words import line_of
from tests.protocol_model.world import ModelWorld

START = 0  # the parent of the first state
REMEMBERED = 2_000_000  # raw states; half of them come up again soon
TAKING_OVER = {"opening", "following", "catching up", "uncovered"}
PATIENCE = 1_000  # steps until a shard must rest


@dataclass(slots=True)
class Found:
    """The result of a search. Neither exhausted nor violated: it was cut short."""

    states: int = 0
    steps: int = 0
    resting: int = 0
    seconds: float = 0.0  # of CPU
    exhausted: bool = False
    violation: str | None = None
    trace: list[str] = field(default_factory=list)
    sample: list[State] = field(default_factory=list)


class Search:
    """A search, breadth first over canonical states. Of a state only the hash is kept, with its parent's."""

    def __init__(self, rules: ProtocolRules, world: ModelWorld, digest: Callable[[State], Hashable] = hash) -> None:
        """`digest`: kept of each state. The state itself costs more memory, but no two states are mistaken for one."""
        self._rules = rules
        self._world = world
        self._digest = digest
        self._met: set[Hashable] = set()
        self.parents: dict[Hashable, Hashable] = {}

    def run(self, *, limit_s: float = float("inf"), sample_every: int = 0) -> Found:
        """Search until all states are seen, one breaks a promise, or the CPU time is over. Sample every n-th state."""
        found = Found()
        began = time.process_time()
        first = canonical(self._rules, start(self._world.rollbacks, self._world.losses))
        self.parents[self._digest(first)] = START
        frontier = [first]
        while frontier and not found.violation and found.seconds < limit_s:
            behind: list[State] = []
            for state in frontier:
                for after in self._new(state, found):
                    behind.append(after)
                    if sample_every and len(self.parents) % sample_every == 0:
                        found.sample.append(after)
                found.seconds = time.process_time() - began
                if found.violation or found.seconds > limit_s:
                    break
            else:
                found.exhausted = not behind
            frontier = behind
        found.states = len(self.parents)
        return found

    def _new(self, state: State, found: Found) -> Iterator[State]:
        """Yield the unseen states that follow this one. Stop at a violation, and note it."""
        here = self._digest(state)
        for step in steps(self._rules, self._world, state):
            found.steps += 1
            if not step.violation and self._was_met(step.state):
                continue
            after = canonical(self._rules, step.state)
            digest = self._digest(after)
            violation = step.violation
            if not violation:
                if digest in self.parents:
                    continue
                if at_rest(self._rules, self._world, after):
                    found.resting += 1
                    violation = rest(self._world, after)
            if violation:
                found.violation = violation
                found.trace = self._trace(here, step)
                return
            self.parents[digest] = here
            yield after

    def _was_met(self, raw: State) -> bool:
        """Return whether exactly this state came up before, which is cheaper than to make it canonical again."""
        digest = self._digest(raw)
        if digest in self._met:
            return True
        if len(self._met) == REMEMBERED:
            self._met.clear()
        self._met.add(digest)
        return False

    def _trace(self, last: Hashable, final: Transition) -> list[str]:
        """Return the way to a violation, repeated with the original names and numbers."""
        chain = [last]
        while (parent := self.parents[chain[-1]]) != START:
            chain.append(parent)
        state = start(self._world.rollbacks, self._world.losses)
        lines: list[str] = []
        for digest in reversed(chain[:-1]):
            step = next(step for step in steps(self._rules, self._world, state) if self._leads_to(step, digest))
            lines.append(line_of(step))
            state = reduced(self._rules, step.state)
        alike = [step for step in steps(self._rules, self._world, state) if step.text == final.text]
        want = canonical(self._rules, final.state)
        lines.append(line_of(next(step for step in alike if canonical(self._rules, step.state) == want)))
        return lines

    def _leads_to(self, step: Transition, digest: Hashable) -> bool:
        return not step.violation and self._digest(canonical(self._rules, step.state)) == digest


def steps(rules: ProtocolRules, world: ModelWorld, state: State) -> Iterator[Transition]:
    """Yield everything that can happen next."""
    yield from happenings(rules, world, state)
    for at, slot in enumerate(state.slots):
        if slot.worker is None and is_needed(state):
            yield from begin_repair(rules, state, at)
        if slot.worker and slot.worker.phase == "repairing":
            yield from repair(rules, world, state, at)
        elif slot.worker is None or slot.worker.phase in TAKING_OVER:
            yield from take_over(rules, world, state, at)
        else:
            yield from turn(rules, world, state, at)


def comes_to_rest(rules: ProtocolRules, world: ModelWorld, state: State, rng: random.Random) -> str | None:
    """Stop the faults, keep one worker, and walk at random. Return what is wrong; None: it rests, and all is well."""
    alive = rng.randrange(2)
    slots = [slot._replace(cut_off=False) for slot in state.slots]
    slots[1 - alive] = Slot(None, slots[1 - alive].transaction, slots[1 - alive].epoch)
    state = state._replace(rollbacks=0, losses=0, late=None, old_primary=None, slots=(slots[0], slots[1]))
    for _ in range(PATIENCE):
        state = reduced(rules, state)
        if at_rest(rules, world, state):
            return rest(world, state)
        ways = [
            step
            for step in steps(rules, world, state)
            if not step.outside and step.state.slots[1 - alive].worker is None
        ]
        if not ways:
            return "stuck: nothing can happen any more"
        step = rng.choice(ways)
        if step.violation:
            return step.violation
        state = step.state
    return f"restless: still at work after {PATIENCE} steps"
