"""A real worker that dies at a named point of the protocol: `python -m tests.recovery.rig.worker`.

Production code has no hooks. Methods are wrapped here before the worker runs. At the n-th passing of the point that the
environment names, the process kills itself (SIGKILL: it can't close its connections).

RECOVERY_POINT   one of POINTS; empty: none
RECOVERY_PASSING at which passing to die, from 1
RECOVERY_PAGE    most records of one read of a log (pages of a takeover's step 4); empty: as in production
RECOVERY_CLOCK   a file with the error of this worker's wall clock, in ms
RECOVERY_STOP    point:passing at which the process stops itself (SIGSTOP) until a SIGCONT; empty: never
RECOVERY_TWIN    not empty: take another group's packages, and send none
RECOVERY_MUTANT  the ingredient of the protocol to take out (mutants.py); empty: none
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

from segmentation.step import Step
from stream.clock import now_ms
from stream.engine import catch_up, shard, takeover
from stream.engine.ledger import Ledger, Publication, PublishedOutputs, Sent
from stream.engine.log_reader import LogReader
from stream.engine.ownership import Owned
from stream.engine.store import ShardStore
from stream.settings import load_settings
from stream.storage.heads import HEAD_KEY
from stream.storage.output_log import OutputPage
from stream.worker import app
from stream.worker.steps import step_of
from tests.recovery.rig.mutants import mutate
from tests.recovery.rig.replacing import for_good

TURN_POINTS: Final = (
    "turn.before_transaction",
    "turn.between_sends",  # the moves are sent or acknowledged, the rest isn't sent
    "turn.before_head",
    "turn.before_commit",
    "turn.after_commit",
    "turn.torn_early",  # leaves a torn transaction: the moves are committed, and nothing else
    "turn.torn_letters",  # leaves a torn transaction: the dead letters are committed, and nothing else
    "turn.torn",  # leaves a torn transaction: the moves are committed, the head isn't
    "turn.before_redis",
    "turn.after_redis",
)
TAKEOVER_POINTS: Final = (
    "takeover.after_fencing",
    "takeover.after_redis_head",
    "takeover.before_barrier",
    "takeover.after_barrier",
    "takeover.after_cover",  # step 4b
    "takeover.between_pages",  # of step 4
    "takeover.before_catching_up",
    "takeover.between_slices",  # of step 6
    "takeover.at_its_end",
)
POINTS: Final = TURN_POINTS + TAKEOVER_POINTS

# The present task's part of the protocol: "takeover", "turn", or none.
_phase: ContextVar[str] = ContextVar("phase", default="")


class Bomb:
    """Counts the passings of one point, and ends (or stops) the process at the n-th."""

    def __init__(self, point: str, passing: int, number: signal.Signals = signal.SIGKILL) -> None:
        if point and point not in POINTS:
            raise ValueError(f"{point!r} isn't a point; expected one of {', '.join(POINTS)}")
        self.point = point
        self._left = passing
        self._number = number

    def due(self, point: str) -> bool:
        """Return whether this passing is the last."""
        if point != self.point:
            return False
        self._left -= 1
        return self._left == 0

    def passing(self, point: str) -> None:
        if self.due(point):
            self.explode()

    def explode(self) -> None:
        os.kill(os.getpid(), self._number)


def plant(bomb: Bomb, page: int | None) -> None:
    """Wrap the methods that the points need."""
    _plant_in_ledger(bomb)
    _plant_in_barriers(bomb)
    _plant_in_store(bomb)
    _plant_in_reader(bomb, page)
    _plant_in_takeover(bomb)


def _plant_in_ledger(bomb: Bomb) -> None:
    publish, send_outputs, send_head = Ledger.publish, Ledger._send_outputs, Ledger._send_head
    torn = False

    async def commit_alone(self: Ledger, sent: list[Sent]) -> None:
        await asyncio.gather(*(future for future, _ in sent))
        await self._producer.commit_transaction()
        bomb.explode()

    async def publish_(self: Ledger, turn: Publication) -> PublishedOutputs | None:
        _phase.set("turn")
        bomb.passing("turn.before_transaction")
        if turn.dead and bomb.due("turn.torn_letters"):
            await self._producer.begin_transaction()
            await commit_alone(self, await self._send_dead(turn.dead))
        commit = self._producer.commit_transaction

        async def commit_() -> None:
            bomb.passing("turn.before_commit")
            await commit()
            if torn:
                bomb.explode()

        self._producer.commit_transaction = commit_
        try:
            published = await publish(self, turn)
        finally:
            self._producer.commit_transaction = commit
        bomb.passing("turn.after_commit")
        return published

    async def send_outputs_(self: Ledger, turn: Publication) -> Any:
        nonlocal torn
        sent = await send_outputs(self, turn)
        if sent:
            if bomb.due("turn.torn_early"):
                await commit_alone(self, sent)
            torn = bomb.due("turn.torn")
            bomb.passing("turn.between_sends")
        return sent

    async def send_head_(self: Ledger, key: bytes, value: bytes) -> int:
        if torn:
            return 0
        if key == HEAD_KEY and _phase.get() == "turn":
            bomb.passing("turn.before_head")
        return await send_head(self, key, value)

    _replace(Ledger, publish=publish_, _send_outputs=send_outputs_, _send_head=send_head_)


def _plant_in_barriers(bomb: Bomb) -> None:
    take_over, cover = Ledger.take_over, Ledger.cover
    open_ = Ledger.open.__func__  # type: ignore[attr-defined]  # a classmethod has it

    async def take_over_(self: Ledger, record: Any) -> int:
        bomb.passing("takeover.before_barrier")
        barrier = await take_over(self, record)
        bomb.passing("takeover.after_barrier")
        return barrier

    async def cover_(self: Ledger, torn: Publication) -> None:
        await cover(self, torn)
        bomb.passing("takeover.after_cover")

    async def opened(cls: type[Ledger], *arguments: Any) -> Ledger:
        made: Ledger = await open_(cls, *arguments)
        bomb.passing("takeover.after_fencing")
        return made

    _replace(Ledger, take_over=take_over_, cover=cover_, open=classmethod(opened))


def _plant_in_store(bomb: Bomb) -> None:
    commit, read_head = ShardStore.commit, ShardStore.read_head

    async def commit_(self: ShardStore, *arguments: Any) -> bytes:
        if _phase.get() == "turn":
            bomb.passing("turn.before_redis")
        written = await commit(self, *arguments)
        if _phase.get() == "turn":
            bomb.passing("turn.after_redis")
        return written

    async def read_head_(self: ShardStore) -> bytes | None:
        head = await read_head(self)
        bomb.passing("takeover.after_redis_head")
        return head

    _replace(ShardStore, commit=commit_, read_head=read_head_)


def _plant_in_reader(bomb: Bomb, page: int | None) -> None:
    read, read_outputs = LogReader.read, LogReader.read_outputs

    async def read_(self: LogReader, limit: int, timeout_ms: int) -> list[Any]:
        return await read(self, limit if page is None else min(limit, page), timeout_ms)

    async def read_outputs_(self: LogReader, *arguments: Any) -> AsyncIterator[OutputPage]:
        several = False
        async for one in read_outputs(self, *arguments):
            if several:
                bomb.passing("takeover.between_pages")
            several = True
            yield one

    _replace(LogReader, read=read_, read_outputs=read_outputs_)


def _plant_in_takeover(bomb: Bomb) -> None:
    take_over, absorb, caught_up = takeover.take_over, catch_up._absorb, catch_up.catch_up

    async def take_over_(*arguments: Any) -> Owned:
        _phase.set("takeover")
        return await take_over(*arguments)

    async def absorb_(owned: Owned, step: Step, records: Sequence[Any]) -> Any:
        bomb.passing("takeover.between_slices")
        return await absorb(owned, step, list(records))

    async def catch_up_(*arguments: Any) -> None:
        bomb.passing("takeover.before_catching_up")
        await caught_up(*arguments)
        bomb.passing("takeover.at_its_end")

    _replace(shard, take_over=take_over_)
    _replace(catch_up, _absorb=absorb_)
    _replace(takeover, catch_up=catch_up_)


def _replace(where: Any, **new: Any) -> None:
    for name, value in new.items():
        assert hasattr(where, name)
        setattr(where, name, value)


def shift_clock(file: Path) -> None:
    """Add the error in the file, read each time, to the worker's wall clock."""
    right = now_ms

    def wrong() -> int:
        return right() + int(file.read_text() or 0)

    _replace(app, now_ms=wrong)


def follow_packages() -> None:
    """Take the packages of the group whose input this one repeats, at their places, and send none."""

    async def nothing(*_: object) -> list[object]:
        return []

    async def read(self: LogReader, limit: int, timeout_ms: int) -> list[Any]:
        answer = await self._consumer.getmany(self._at, timeout_ms=timeout_ms, max_records=limit)
        return answer.get(self._at, []) if answer else []

    for_good(Ledger, "_send_onward", nothing)
    for_good(LogReader, "read", read)


def main() -> int:
    page = os.environ.get("RECOVERY_PAGE", "")
    if mutant := os.environ.get("RECOVERY_MUTANT", ""):
        mutate(int(mutant))
    if os.environ.get("RECOVERY_TWIN", ""):
        follow_packages()
    if stop := os.environ.get("RECOVERY_STOP", ""):
        point, _, passing = stop.rpartition(":")
        plant(Bomb(point, int(passing), signal.SIGSTOP), None)
    plant(
        Bomb(os.environ.get("RECOVERY_POINT", ""), int(os.environ.get("RECOVERY_PASSING", "1"))),
        int(page) if page else None,
    )
    if clock := os.environ.get("RECOVERY_CLOCK", ""):
        shift_clock(Path(clock))
    settings = load_settings()
    return app.run_worker(settings, step_of(settings, os.environ.get("RECOVERY_STEP", "scoring")))


if __name__ == "__main__":
    sys.exit(main())
