"""A small deployment on the real servers: orders, the real engine over the scoring step, and operators' commands."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from redis import Redis
from typer.testing import CliRunner

import stream.cli
import trainer.cli
from segmentation.decisions import CompiledModel
from segmentation.events import Amount, OrderPlaced
from segmentation.rfm import announcement
from stream.kafka import topics
from stream.models.feed import ModelFeed
from stream.settings import Settings
from stream.settings_sources import PREFIX
from stream.storage.heads import decode_store_head, encode_head
from stream.storage.keys import ShardKeys
from stream.worker.steps import scoring_step
from tests.support.command_line import environment
from tests.support.engine.real_worker import activate, moves, settled, states
from tests.support.engine.toy_engine import Engine, engine, eventually
from tests.support.orders import send_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from segmentation.step import Step

CUSTOMERS = [f"c{i}" for i in range(12)]
APPS = {"segstream": stream.cli.app, "segtrainer": trainer.cli.app}


class Deployment:
    """One deployment. `settings` are right; `workers` are those that its workers have now."""

    def __init__(self, settings: Settings) -> None:
        """Use `open_deployment`."""
        self.settings = settings
        self.workers = settings
        self.redis_url = settings.redis_url
        self.engine: Engine | None = None
        self.customers = list(CUSTOMERS)
        self.erased: list[str] = []
        self._moves: dict[tuple[str, int], dict[str, Any]] = {}
        self._sent = 0
        self._running = AsyncExitStack()

    def step(self) -> Step:
        """Return the step of the workers. A test may replace it."""
        return scoring_step(self.workers)

    async def start(self) -> Engine:
        """Start a worker."""
        settings = self.workers
        feed = ModelFeed(settings, lambda model, names: CompiledModel.of(model, settings.group, names))
        following = asyncio.create_task(feed.run())

        async def end() -> None:
            feed.stop()
            await following

        self._running.push_async_callback(end)
        self.engine = await self._running.enter_async_context(engine(settings, self.step(), feed))
        return self.engine

    async def stop(self) -> None:
        """Stop the worker, and note what it has published."""
        await self._running.aclose()
        self._running = AsyncExitStack()
        self.engine = None
        await self.note_moves()

    async def order(
        self,
        customers: Iterable[str] | None = None,
        number: int = 2,
        *,
        ago: timedelta = timedelta(0),
        routed_by: Settings | None = None,
    ) -> None:
        """Send so many orders of each customer, dated as long ago. `routed_by`: settings of the producer."""
        self._sent += 1
        for name in self.customers if customers is None else customers:
            for each in range(number):
                text, now = f"{name}-{self._sent}-{each}", datetime.now(UTC) - ago
                amount = Amount("90.00", "USD")
                placed = OrderPlaced(id=text, order_id=text, customer_id=name, occurred_at=now, amount=amount)
                await send_events(routed_by or self.settings, placed)

    async def settled(self) -> None:
        """Wait until all is scored."""
        await settled(self.settings)
        await self.note_moves()

    async def note_moves(self) -> None:
        """Keep the moves that can be read now: their topic may be cut later."""
        for rows in await moves(self.settings):
            for move in rows:
                assert self._moves.setdefault((move["customer_id"], move["sequence"]), move) == move

    async def quarantined(self) -> set[str]:
        """Wait until every shard is quarantined. Return the reasons."""
        running, count = self.engine, self.settings.partitions
        assert running
        await eventually(lambda: len(running.reasons()) >= count, 60, "the quarantine")
        return set(running.reasons().values())

    def forget_moves(self) -> None:
        """Forget the moves so far: another deployment begins."""
        self._moves.clear()

    async def works(self) -> None:
        """Check that every shard works, that chains are unbroken, and that Redis agrees with them."""
        running = self.engine
        assert running
        await eventually(
            lambda: set(running.states().values()) == {"running"} and len(running.states()) == self.settings.partitions,
            60, f"work again: {running.board.shards}",
        )  # fmt: skip
        await self.order()
        await self.order(self.erased, 1, ago=timedelta(hours=1))  # they stay erased
        await self.settled()
        there = states(self.settings)
        assert set(there) == {name.encode() for name in self.customers}
        for name in self.customers:
            chain = [move for (customer, _), move in sorted(self._moves.items()) if customer == name]
            assert [move["sequence"] for move in chain] == list(range(1, len(chain) + 1)), name
            assert [move["from"] for move in chain] == [None, *(move["to"] for move in chain[:-1])], name
            assert announcement(there[name.encode()])[1] == len(chain), name

    async def run(self, commands: Sequence[str]) -> None:
        """Run the lines of a block as an operator would. After a setting, the workers are restarted."""
        restart = False
        for line in commands:
            if line.startswith("export "):
                name = line.removeprefix(f"export {PREFIX}").partition("=")[0].lower()
                self.workers = self.workers.model_copy(update={name: getattr(self.settings, name)})
                restart = True
                continue
            program, *arguments = shlex.split(line)
            result = await asyncio.to_thread(
                CliRunner().invoke, APPS[program], arguments, env=environment(self.workers), input="y\n"
            )
            assert result.exit_code == 0, result.output
        if restart:
            await self.stop()
            await self.start()

    def redis(self) -> Redis:
        """Connect to Redis."""
        return Redis.from_url(self.redis_url.get_secret_value())

    @property
    def shards(self) -> list[ShardKeys]:
        """Return the keys of each shard."""
        return [ShardKeys(self.settings.group, self.settings.orders_topic, p) for p in range(self.settings.partitions)]

    def edit_heads(self, **changes: object) -> None:
        """Change fields of every head in Redis; a function of the head gives its new value."""
        with self.redis() as redis:
            for keys in self.shards:
                raw = redis.get(keys.head)
                assert isinstance(raw, bytes)
                head = decode_store_head(raw)
                new = {name: value(head) if callable(value) else value for name, value in changes.items()}
                redis.set(keys.head, encode_head(msgspec.structs.replace(head, **new)))

    def back_up(self) -> dict[str, bytes]:
        """Return the content of Redis."""
        with self.redis() as redis:
            dumps = {name: redis.dump(name) for keys in self.shards for name in keys.all()}
        return {name: dump for name, dump in dumps.items() if isinstance(dump, bytes)}

    def restore(self, dumps: dict[str, bytes]) -> None:
        """Put back a content of Redis."""
        with self.redis() as redis:
            self.empty()
            for name, dump in dumps.items():
                redis.restore(name, 0, dump)

    def empty(self) -> None:
        """Delete all of the shards in Redis."""
        with self.redis() as redis:
            for keys in self.shards:
                redis.delete(*keys.all())


@asynccontextmanager
async def open_deployment(settings: Settings) -> AsyncIterator[Deployment]:
    """Open a shop with an active model, and no orders yet."""
    await topics.create(settings)
    await asyncio.to_thread(activate, settings)
    shop = Deployment(settings)
    try:
        yield shop
    finally:
        if shop.engine:
            await shop.stop()
