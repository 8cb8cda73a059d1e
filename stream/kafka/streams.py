"""The topics of each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from segmentation.step import ORDERS, PROFILES
from stream.errors import SegstreamError, ShardQuarantined
from stream.settings import Settings


@dataclass(frozen=True, slots=True)
class Streams:
    """The topics of one step's shards, all with the same number of partitions."""

    step: str
    input: str
    output: str
    latest: str | None  # compacted: the last output of each key
    dead_letters: str
    heads: str
    tombstones: str | None = None  # compacted: marks of erased keys, by the key's hash
    sides: Mapping[str, str] = field(default_factory=dict)  # the topics of side inputs, by source

    def pinned(self) -> list[str]:
        """Return the topics that a shard needs, which must all have the same number of partitions."""
        return [
            self.input, self.output, self.heads, *([self.tombstones] if self.tombstones else []), *self.sides.values()
        ]  # fmt: skip


class ForeignOutputs(SegstreamError):
    """An output topic belongs to another deployment."""

    def __init__(self, settings: Settings, topic: str, partition: int, group: str) -> None:
        """`group`: that of the deployment whose outputs are there."""
        names = [n for n in ("changes_topic", "state_topic", "actions_topic") if getattr(settings, n) == topic]
        setting = " or ".join(f"SEGSTREAM_{name.upper()}" for name in names)
        super().__init__(
            f"{topic}-{partition} has outputs of group {group!r}, and this is group {settings.group!r}: two "
            "deployments can't share an output topic.",
            hint=f"Set {setting} to a topic of this deployment's own, or SEGSTREAM_GROUP to {group} if it is the same "
            "deployment. Don't run `segstream rebuild`.",
        )


def foreign_outputs(settings: Settings, topic: str, partition: int, group: str) -> ShardQuarantined:
    """Return the error of a shard whose output topic belongs to another group."""
    return ShardQuarantined("foreign_outputs", str(ForeignOutputs(settings, topic, partition, group)))


def streams_of(settings: Settings, step: str) -> Streams:
    """Return the topics of a step, scoring or campaigns. Raises ValueError on any other name."""
    heads = settings.heads_topic(step)
    if step == "scoring":
        return Streams(
            step,
            settings.orders_topic,
            settings.changes_topic,
            settings.state_topic,
            settings.orders_dead_letters_topic,
            heads,
            settings.tombstones_topic,
        )
    if step != "campaigns":
        raise ValueError(f"{step!r} isn't a step: expected scoring or campaigns")
    return Streams(
        step, settings.changes_topic, settings.actions_topic, None, settings.changes_dead_letters_topic, heads,
        sides={PROFILES: settings.profiles_topic, ORDERS: settings.orders_topic},
    )  # fmt: skip
