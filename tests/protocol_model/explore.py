"""Every state that can be reached, the shortest way first; and whether the shard comes to rest once the faults stop."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

from tests.protocol_model.canonical import canonical, reduced
from tests.protocol_model.checks import at_rest, rest
from tests.protocol_model.environment import happenings
from tests.protocol_model.rules import ProtocolRules
from tests.protocol_model.state import Slot, State, Transition, start
from tests.protocol_model.takeover import take_over
from tests.protocol_model.turn import turn
from tests.protocol_model.words import say
from tests.protocol_model.world import ModelWorld

START = 0  # the parent of the first state
REMEMBERED = 2_000_000  # raw states, of which half come up again soon
PATIENCE = 1_000  # steps until a shard must rest


@dataclass(slots=True)
class Found:
    """What a search has seen. Neither exhausted nor violated: it was cut short."""

    states: int = 0
    steps: int = 0
    resting: int = 0
    seconds: float = 0.0  # of CPU
    exhausted: bool = False
    violation: str | None = None
    trace: list[str] = field(default_factory=list)
    sample: list[State] = field(default_factory=list)


class Search:
    """Breadth first over canonical states. Of a state only its hash is kept, with the hash it came from."""

    def __init__(self, rules: ProtocolRules, world: ModelWorld, digest: Callable[[State], Hashable] = hash) -> None:
        """`digest`: what is kept of a state; the state itself costs more memory, and no two are ever taken for one."""
        self._rules = rules
        self._world = world
        self._digest = digest
        self._met: set[Hashable] = set()
        self.parents: dict[Hashable, Hashable] = {}

    def run(self, *, limit_s: float = float("inf"), sample_every: int = 0) -> Found:
        """Until every state was seen, a violation, or the limit of CPU time. A sample: each so-manieth state."""
        found = Found()
        began = time.process_time()
        first = canonical(self._rules, start(self._world.rollbacks))
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
        """The states behind this one that were never seen; stops at a violation, which it notes."""
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
        """Whether this very state has come up before: cheaper than to find its canonical one again."""
        digest = self._digest(raw)
        if digest in self._met:
            return True
        if len(self._met) == REMEMBERED:
            self._met.clear()
        self._met.add(digest)
        return False

    def _trace(self, last: Hashable, final: Transition) -> list[str]:
        """The way to a violation, walked again with names and numbers as they are."""
        chain = [last]
        while (parent := self.parents[chain[-1]]) != START:
            chain.append(parent)
        state = start(self._world.rollbacks)
        told: list[str] = []
        for digest in reversed(chain[:-1]):
            step = next(step for step in steps(self._rules, self._world, state) if self._leads_to(step, digest))
            told.append(say(step))
            state = reduced(self._rules, step.state)
        alike = [step for step in steps(self._rules, self._world, state) if step.text == final.text]
        want = canonical(self._rules, final.state)
        told.append(say(next(step for step in alike if canonical(self._rules, step.state) == want)))
        return told

    def _leads_to(self, step: Transition, digest: Hashable) -> bool:
        return not step.violation and self._digest(canonical(self._rules, step.state)) == digest


def steps(rules: ProtocolRules, world: ModelWorld, state: State) -> Iterator[Transition]:
    """Everything that can happen next."""
    yield from happenings(rules, world, state)
    for at, slot in enumerate(state.slots):
        if slot.worker is None or slot.worker.phase in {"opening", "following", "catching up"}:
            yield from take_over(rules, world, state, at)
        else:
            yield from turn(rules, world, state, at)


def comes_to_rest(rules: ProtocolRules, world: ModelWorld, state: State, rng: random.Random) -> str | None:
    """Let the faults stop and one worker survive, and walk at random. None: it rests, and all is well; else what isn't."""
    alive = rng.randrange(2)
    slots = [slot._replace(cut_off=False) for slot in state.slots]
    slots[1 - alive] = Slot(None, slots[1 - alive].transaction, slots[1 - alive].epoch)
    state = state._replace(rollbacks=0, late=None, old_primary=None, slots=(slots[0], slots[1]))
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
