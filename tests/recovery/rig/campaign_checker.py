"""An independent check of the campaigns step: the actions are those that the rules give for the published moves.

As checker.py, it reads the topics and Redis. It matches moves with rules and unpacks states by itself.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tests.recovery.rig.checker import ReadRow, ShardContent, heads, marks, move, some
from tests.recovery.rig.unstamped import SALT_MARK

# A state of the campaigns step: version, flags, number of campaigns with a cooldown, sequence of the last move, time of
# the last action; in version 2 the sequence of the last move to nowhere, and each campaign's hash and time.
_STATE: Final = struct.Struct("<BBHIq")
_SINCE: Final = struct.Struct("<I")
_CAMPAIGN: Final = struct.Struct("<8sq")
_LATER: Final = 2  # version
_DAY_MS: Final = 86_400_000
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
        *_redis(run, rules),
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
    acted: dict[tuple[bytes | None, str], int] = {}
    for row in moves:
        change = move(row)
        if change["to"] is None:
            acted = {(key, name): at for (key, name), at in acted.items() if key != row.key}
        if change["to"] is None or (adopts and change["cause"] in _ADOPTED):
            continue
        at = _millis(change["occurred_at"])
        able = (rule for rule in rules if not _cools(rule, acted.get((row.key, rule["name"])), at))
        if rule := next((rule for rule in able if _matches(rule, change)), None):
            acted[row.key, rule["name"]] = max(at, acted.get((row.key, rule["name"]), at))
            about = (change["id"], change["customer_id"], rule["name"], change["to"])
            yield (row.key, *about, rule["action"], rule["channel"], change["occurred_at"])


def _matches(rule: RuleRow, change: dict[str, Any]) -> bool:
    if change["cause"] == "merge" and "merge" not in rule.get("cause", ()):
        return False
    return all(rule.get(part, "*") == "*" or change[part] in rule[part] for part in ("from", "to", "cause"))


def _cools(rule: RuleRow, last: int | None, at: int) -> bool:
    return last is not None and "cooldown_days" in rule and at < last + int(rule["cooldown_days"]) * _DAY_MS


def _redis(run: CampaignRun, rules: Sequence[RuleRow]) -> list[str]:
    """Check Redis: each customer's last move, the time of the last action, and who was erased."""
    wrong: list[str] = []
    cooling = {rule["name"] for rule in rules if "cooldown_days" in rule}
    for p, shard in enumerate(run.shards):
        last: dict[bytes, dict[str, Any]] = {}
        since: defaultdict[bytes, int] = defaultdict(int)
        numbers: dict[str, int] = {}
        acted: defaultdict[bytes, int] = defaultdict(int)
        campaigns: defaultdict[bytes, dict[bytes, int]] = defaultdict(dict)
        end = 0
        for row in run.moves:
            if row.partition == p:
                key, change = row.key or b"", move(row)
                last[key], end, numbers[change["id"]] = change, row.offset + 1, change["sequence"]
                since[key] = change["sequence"] if change["to"] is None else since[key]
        for row in run.actions:
            if row.partition == p:
                key, action = row.key or b"", move(row)
                at = _millis(action["occurred_at"])
                acted[key] = max(acted[key], at)
                if action["campaign"] in cooling and numbers[action["change_id"]] > since[key]:
                    own = hashlib.blake2b(action["campaign"].encode(), digest_size=8).digest()
                    campaigns[key][own] = max(campaigns[key].get(own, at), at)
        count = sum(row.partition == p for row in run.actions)
        if not shard.head or shard.head["offset"] < end or shard.head["count"] != count:
            wrong.append(f"Redis head of shard {p} isn't at the end ({end} offsets, {count} actions): {shard.head}")
        wanted = {
            key: (
                *(_ACTED if key in acted else 0, change["sequence"], acted.get(key, 0)),
                *((since[key], *sorted(campaigns[key].items())) if since[key] or campaigns[key] else ()),
            )
            for key, change in last.items()
            if change["to"] is not None
        }
        found = {key: _unpacked(value) for key, value in shard.states.items()}
        other = [(key, found.get(key), wanted.get(key)) for key in found.keys() | wanted.keys()]
        wrong += some(f"states of shard {p}: found and right", sorted(o for o in other if o[1] != o[2]))
        erased = len(last) - len(wanted)
        if (kept := len(shard.tombstones.keys() - {SALT_MARK})) != erased:
            wrong.append(f"shard {p} keeps the remains of {kept} erased customers, expected {erased}")
        if sorted(shard.states) != sorted(shard.customers) or set(shard.due) - set(shard.states):
            wrong.append(f"shard {p}: {len(shard.states)} states, {len(shard.customers)} customers, due: {shard.due}")
    return wrong


def _unpacked(value: bytes) -> tuple[Any, ...]:
    """Return flags, sequence and time of a state; of version 2 also the rest. Other bytes as they are."""
    version, flags, count, sequence, at = _STATE.unpack_from(value)
    rest = value[_STATE.size :]
    if (version, count, rest) == (1, 0, b""):
        return (flags, sequence, at)
    if version != _LATER or len(rest) != _SINCE.size + count * _CAMPAIGN.size:
        return (value,)
    return (flags, sequence, at, *_SINCE.unpack_from(rest), *_CAMPAIGN.iter_unpack(rest[_SINCE.size :]))


def _millis(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
