"""An independent check of the campaigns step: the actions are those that the rules give for the published moves.

As checker.py, it reads the topics and Redis. It matches moves with rules and unpacks states by itself.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tests.recovery.rig.checker import ReadRow, ShardContent, heads, marks, move, some
from tests.recovery.rig.unstamped import SALT_MARK

# A state of the campaigns step: version, flags, two of padding, sequence of the last move, time of the last action.
_STATE: Final = struct.Struct("<BB2xIq")
_ACTED: Final = 1
_ADOPTED: Final = ("model", "settings")

RuleRow = dict[str, Any]  # of the YAML


@dataclass(frozen=True, slots=True)
class CampaignRun:
    """The topics and shards of the campaigns step after a run."""

    moves: list[ReadRow]
    actions: list[ReadRow]
    dead: list[ReadRow]
    heads: list[ReadRow]
    shards: list[ShardContent]


def violations(run: CampaignRun, rules: Sequence[RuleRow], *, adopts: bool) -> list[str]:
    """Return the violations of one run. `adopts`: moves by a model or by settings set off no action."""
    return [
        *_actions(run, rules, adopts=adopts),
        *marks(run.actions, in_order=False),
        *heads(run.heads, run.actions),
        *some("dead letters of moves", [(row.partition, row.offset) for row in run.dead]),
        *_redis(run),
    ]


def _actions(run: CampaignRun, rules: Sequence[RuleRow], *, adopts: bool) -> list[str]:
    """Check that each move has set off its action once, in the order of the moves, and nothing else has."""
    wrong: list[str] = []
    ids = Counter(move(row)["id"] for row in run.actions)
    wrong += some("actions published twice (id)", [i for i, n in ids.items() if n > 1])
    for p in range(len(run.shards)):
        wanted = list(_expected([row for row in run.moves if row.partition == p], rules, adopts=adopts))
        found = [_fields(row) for row in run.actions if row.partition == p]
        if found != wanted:
            at = next((i for i, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), None)
            shown = (found[at], wanted[at]) if at is not None else "one is the other's beginning"
            wrong.append(
                f"actions of shard {p}: {len(found)}, but the rules give {len(wanted)}, first at {at}: {shown}"
            )
    return wrong


def _fields(row: ReadRow) -> tuple[Any, ...]:
    action = move(row)
    names = ("change_id", "customer_id", "campaign", "segment", "action", "channel", "occurred_at")
    return (row.key, *(action[name] for name in names))


def _expected(moves: Sequence[ReadRow], rules: Sequence[RuleRow], *, adopts: bool) -> Iterator[tuple[Any, ...]]:
    for row in moves:
        change = move(row)
        if change["to"] is None or (adopts and change["cause"] in _ADOPTED):
            continue
        if rule := next((rule for rule in rules if _matches(rule, change)), None):
            about = (change["id"], change["customer_id"], rule["name"], change["to"])
            yield (row.key, *about, rule["action"], rule["channel"], change["occurred_at"])


def _matches(rule: RuleRow, change: dict[str, Any]) -> bool:
    if change["cause"] == "merge" and "merge" not in rule.get("cause", ()):
        return False
    return all(rule.get(part, "*") == "*" or change[part] in rule[part] for part in ("from", "to", "cause"))


def _redis(run: CampaignRun) -> list[str]:
    """Check Redis: each customer's last move, the time of the last action, and who was erased."""
    wrong: list[str] = []
    for p, shard in enumerate(run.shards):
        last: dict[bytes, dict[str, Any]] = {}
        acted: defaultdict[bytes, int] = defaultdict(int)
        end = 0
        for row in run.moves:
            if row.partition == p:
                last[row.key or b""], end = move(row), row.offset + 1
        for row in run.actions:
            if row.partition == p:
                key = row.key or b""
                acted[key] = max(acted[key], _millis(move(row)["occurred_at"]))
        count = sum(row.partition == p for row in run.actions)
        if not shard.head or shard.head["offset"] < end or shard.head["count"] != count:
            wrong.append(f"Redis head of shard {p} isn't at the end ({end} offsets, {count} actions): {shard.head}")
        wanted = {
            key: (1, _ACTED if key in acted else 0, change["sequence"], acted.get(key, 0))
            for key, change in last.items()
            if change["to"] is not None
        }
        found = {key: _STATE.unpack(value) for key, value in shard.states.items()}
        other = [(key, found.get(key), wanted.get(key)) for key in found.keys() | wanted.keys()]
        wrong += some(f"states of shard {p}: found and right", sorted(o for o in other if o[1] != o[2]))
        erased = len(last) - len(wanted)
        if (kept := len(shard.tombstones.keys() - {SALT_MARK})) != erased:
            wrong.append(f"shard {p} keeps the remains of {kept} erased customers, expected {erased}")
        if sorted(shard.states) != sorted(shard.customers) or set(shard.due) - set(shard.states):
            wrong.append(f"shard {p}: {len(shard.states)} states, {len(shard.customers)} customers, due: {shard.due}")
    return wrong


def _millis(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
