"""Shards without the stamps of merges: two groups that read the same input hand customers on by records of their own.

The stamps, and the ids of the packages, are those of these records. All else of two runs must be equal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from segmentation.links import Links, view
from segmentation.state_bytes import is_linked, pack, unpack
from stream.settings import Settings
from stream.storage.keys import tombstone
from stream.storage.remains import opened_remains

if TYPE_CHECKING:
    from tests.recovery.rig.checker import GroupRun, ShardContent

SALT_MARK: Final = b"salt"  # a field among the tombstones
_NAMES: Final = ("customer_id", "from", "into")


def without_stamps(run: GroupRun, salt: bytes | None = None) -> Sequence[ShardContent]:
    """Return a run's shards, remains without their seals. `salt`: of the group; None: the default one."""
    salt = Settings().salt if salt is None else salt
    owners = {tombstone(name.encode(), salt): name.encode() for name in _ids(run)}

    def opened(name: bytes, value: bytes) -> bytes:
        if name == SALT_MARK or name not in owners:
            return value
        return _unstamped(opened_remains(value, owners[name], salt))

    return [
        replace(
            shard,
            states={key: _unstamped(value) for key, value in shard.states.items()},
            tombstones={name: opened(name, value) for name, value in shard.tombstones.items()},
        )
        for shard in run.shards
    ]


def _ids(run: GroupRun) -> set[str]:
    """Return all ids that the input names."""
    found = set()
    for row in run.orders:
        try:
            event = json.loads(row.value or b"null")
        except ValueError:
            continue
        if isinstance(event, dict):
            found |= {event[name] for name in _NAMES if isinstance(event.get(name), str)}
    return found


def _unstamped(value: bytes) -> bytes:
    if not is_linked(value):
        return value
    state = unpack(value)
    edges = tuple(e._replace(learned=0) for e in view(state.links.edges))
    return pack(replace(state, links=Links(edges)))
