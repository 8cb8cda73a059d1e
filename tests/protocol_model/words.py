"""The lines of a trace, with the letters of docs/explanation/exactly-once.md, section 2."""

from __future__ import annotations

from tests.protocol_model.state import LoggedMove, ModelKafkaHead, ModelRedisHead, Transition
from tests.protocol_model.turn import TurnBatch


def line_of(step: Transition) -> str:
    """Return the line of one step."""
    actor = "" if step.actor is None else f"{'AB'[step.actor]}: "
    return actor + step.text.format(*(_words(fact) for fact in step.facts))


def _words(fact: object) -> str:
    match fact:
        case ModelRedisHead():
            quiet = "all" if fact.quiet is None else f"the first {fact.quiet}"
            rescore = "" if fact.cursor is None else f", rescored {fact.cursor} ({quiet} without publishing)"
            return f"R={fact.offset} C={fact.position} S={fact.number} T={fact.clock} M={fact.activation}{rescore}"
        case ModelKafkaHead():
            rescore = "" if fact.cursor is None else f", rescored {fact.cursor}"
            return f"N={fact.offset} S={fact.number} T={fact.clock} M={fact.activation}{rescore}"
        case TurnBatch():
            return _batch(fact)
        case LoggedMove():
            return (
                f"customer {fact.customer}: {fact.before} -> {fact.after} (sequence {fact.sequence}, S={fact.number})"
            )
        case tuple():
            return "moves [" + ", ".join(_words(part) for part in fact) + "]"
        case _:
            return str(fact)


def _batch(batch: TurnBatch) -> str:
    if batch.start is not None:
        return f"the start of activation {batch.start}"
    parts = [f"order {offset}" for offset in range(batch.begin, batch.offset)]
    parts += [f"customer {customer}, which is due" for customer in batch.due]
    if batch.rescored is not None:
        parts.append(f"customer {batch.rescored} to be rescored")
    return f"{' and '.join(parts)} at clock {batch.clock} under model {batch.activation}"
