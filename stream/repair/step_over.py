"""The step of Kafka's head over records that the input has lost: an operator decides on it, never the engine.

docs/explanation/exactly-once.md, section 11. The model of it is tests/protocol_model/repair.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from aiokafka.errors import KafkaError
from msgspec.structs import replace

from segmentation.step import Step
from stream.clock import now_ms
from stream.engine.catch_up import covered, republished
from stream.engine.ledger import Ledger, Publication
from stream.errors import SegstreamError, ShardLost
from stream.kafka.refusals import denial
from stream.storage.heads import KafkaHead, TakeoverRecord

if TYPE_CHECKING:
    from stream.engine.log_reader import Bounds, LogReader
    from stream.kafka.streams import Streams
    from stream.settings import Settings
    from stream.storage.output_log import LoggedOutput

log = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS: Final = 8
PAUSE_S: Final = 1.0  # between them: longer than a takeover takes
# A worker compares the generation of the last takeover with its own. No command is in a group.
OPERATOR: Final = "an operator's command"


class StepOverFailed(SegstreamError):
    """The shard's transactional id is taken away from the command again and again, or Kafka doesn't answer."""


def stepped(head: KafkaHead, begin: int, end: int, *, anew: bool = False) -> KafkaHead | None:
    """Return Kafka's head where the input begins now; None: it is within the input, and nothing is to be done.

    `begin`, `end`: of the input. `anew`: the input was made anew, though it has that many records again. Where the
    offset goes back, a new era begins: offsets of two eras are never compared.

    >>> head = KafkaHead(offset=50, count=7, clock=9, activation=1)
    >>> after = stepped(head, 80, 90)
    >>> (after.offset, after.era, after.count)
    (80, 0, 7)
    >>> after = stepped(head, 0, 20)
    >>> (after.offset, after.era, after.count)
    (0, 1, 7)
    >>> stepped(head, 0, 60) is None
    True
    """
    if anew or head.offset > end:
        return replace(head, offset=begin, era=head.era + 1)
    return replace(head, offset=begin) if head.offset < begin else None


def covering(head: KafkaHead, torn: Sequence[LoggedOutput], step: Step) -> Publication:
    """Return the head with the outputs that a torn transaction has left behind S, as the last ones of their keys.

    Its offset isn't taken: it may be of the era before. The turn's records may be lost, and with them what dead letters
    there were.
    """
    if not torn:
        return Publication(head)
    return Publication(covered(head, torn[-1].mark), republished(torn, step))


async def step_kafka(
    ledger: Ledger,
    reader: LogReader,
    streams: Streams,
    step: Step,
    partition: int,
    bounds: Bounds,
    *,
    unlike: int | None = None,
) -> KafkaHead | None:
    """Move Kafka's head to where the input begins now, if it isn't within the input. Return the head; None: none yet.

    1. The caller has started `ledger`, which fences an owner that still works, and has asked for `bounds` after that.
       (Else an owner's transaction could set the head back.)
    2. The Kafka head: commit a barrier record, and read the heads up to it.
    3. The last output: what a torn transaction left beyond S is covered. (Else a takeover would cover it later, with
       an offset of the era before.)
    4. Commit the head. (Before Redis: else Redis would be ahead of it.)

    `unlike`: the era of a Redis head whose last record the input doesn't have.
    """
    barrier = await ledger.take_over(TakeoverRecord(0, OPERATOR, now_ms()))  # 2
    head, _ = await reader.read_kafka_head(streams.heads, partition, bounds[streams.heads][0], barrier)
    if head is None:
        return None
    after = stepped(head, *bounds[streams.input], anew=unlike == head.era)
    if after is None:
        return head
    if after.era > head.era:
        # Those of the era before have offsets that mean other records now.
        _, ledger.dead_end = (await reader.bounds([streams.dead_letters], partition))[streams.dead_letters]
    torn = await reader.outputs_beyond(streams.output, partition, bounds[streams.output], after.count)  # 3
    publication = covering(after, torn, step)
    await ledger.cover(publication)  # 4
    return publication.head


async def cover_torn(
    ledger: Ledger, reader: LogReader, streams: Streams, step: Step, partition: int, bounds: Bounds
) -> None:
    """Cover what a torn transaction has left beyond S, by steps 1 to 4 of `step_kafka`; N stays."""
    barrier = await ledger.take_over(TakeoverRecord(0, OPERATOR, now_ms()))
    head, _ = await reader.read_kafka_head(streams.heads, partition, bounds[streams.heads][0], barrier)
    if head and (torn := await reader.outputs_beyond(streams.output, partition, bounds[streams.output], head.count)):
        await ledger.cover(covering(head, torn, step))


async def while_fenced(
    settings: Settings, streams: Streams, partition: int, work: Callable[[Ledger], Awaitable[T]]
) -> T:
    """Start a producer under the shard's transactional id, and do the work with it; again where an owner fences it.

    The owner's takeover ends in a quarantine, so it doesn't come back. Raises StepOverFailed.
    """
    failure: Exception | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(PAUSE_S)
        try:
            ledger = await Ledger.open(settings, streams, partition)
        except (KafkaError, ShardLost) as error:
            if denied := denial(settings, error):
                raise denied from error
            failure = error
            continue
        try:
            return await work(ledger)
        # A fenced producer may also fail in an assertion of aiokafka.
        except (KafkaError, ShardLost, AssertionError) as error:
            log.info("%s-%d: %r; trying again", streams.input, partition, error)
            failure = error
        finally:
            await ledger.close()
    raise StepOverFailed(
        f"{streams.input}-{partition}: Kafka's head can't be written: {failure or type(failure).__name__}.",
        hint="Nothing is half done: run the same command again. If it fails again, stop the workers first.",
    ) from failure
