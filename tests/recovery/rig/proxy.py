"""A TCP proxy with faults on demand: it cuts, holds and delays; for Kafka it loses single kinds of request or answer.

All proxies of a `Wiring` run in one thread, so that a test may switch faults from any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypeVar

HOST: Final = "127.0.0.1"
CHUNK_BYTES: Final = 65_536

# Kafka's API keys.
PRODUCE: Final = 0
ADD_PARTITIONS: Final = 24
END_TXN: Final = 26
# The requests of a group's member to its coordinator.
GROUP_TALK: Final = frozenset({8, 9, 11, 12, 13, 14})

BETWEEN: Final = 2  # a stranded END_TXN arrives before the PRODUCE of this number in a transaction

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class ProxiedConnection:
    """A client's connection, and the proxy's connection to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    unanswered: set[int] = field(default_factory=set)  # correlation ids whose answers are lost

    def abort(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """Listens on `port`, and forwards to `target`. `kafka`: whole frames, so that single requests can be lost.

    `tls`: clients connect by TLS, which ends here.
    """

    def __init__(self, wiring: Wiring, target: int, *, kafka: bool, tls: ssl.SSLContext | None) -> None:
        """Use `Wiring.proxy`."""
        self.port = 0
        # Where a late END_TXN goes; None: to `target`. It can't log in: Kafka believes the producer's id and epoch.
        self.late_target: int | None = None
        self._wiring = wiring
        self._target = target
        self._kafka = kafka
        self._tls = tls
        self._connections: set[ProxiedConnection] = set()
        self._server: asyncio.Server | None = None
        # The present faults. Plain values: read in the proxies' thread, set from any other.
        self._refusing = False
        self._delay_s = 0.0
        self._bytes_per_s = 0.0
        self._lost_requests: frozenset[int] = frozenset()
        self._lost_answers: frozenset[int] = frozenset()
        self.late_answers: list[int] = []  # Kafka's error codes for the END_TXNs that arrived late; 0: none
        self._stranding: tuple[random.Random, float] | None = None
        self._stranded: dict[bytes, bytes] = {}  # by transactional id
        self._produced: Counter[bytes] = Counter()  # PRODUCEs of the open transaction, by transactional id
        self._requests_pass = asyncio.Event()
        self._answers_pass = asyncio.Event()
        self._requests_pass.set()
        self._answers_pass.set()

    def cut(self) -> None:
        """Reset all connections. New ones are accepted."""
        self._wiring.call(self._abort_all)

    def refuse(self) -> None:
        """Reset all connections, new ones too."""
        self._refusing = True
        self.cut()

    def hold(self) -> None:
        """Hold all data back, without an error. It is forwarded after `heal`, late."""
        self._wiring.call(self._requests_pass.clear)
        self._wiring.call(self._answers_pass.clear)

    def hold_answers(self) -> None:
        """Hold answers back: requests arrive and are carried out."""
        self._wiring.call(self._answers_pass.clear)

    def delay(self, seconds: float) -> None:
        """Delay all data."""
        self._delay_s = seconds

    def slow(self, bytes_per_s: float) -> None:
        """Limit the bandwidth."""
        self._bytes_per_s = bytes_per_s

    def lose(self, *, requests: Iterable[int] = (), answers: Iterable[int] = ()) -> None:
        """Lose these kinds of Kafka request on the way in, or their answers on the way back."""
        self._lost_requests, self._lost_answers = frozenset(requests), frozenset(answers)

    def strand_ends(self, rng: random.Random, chance: float) -> None:
        """Break the connection under an END_TXN, with this chance, before it arrives; it arrives late.

        It comes over a connection of its own, between two PRODUCEs of a later transaction of the same transactional id,
        as a request may that its client has given up on a slow network. One of an id is on its way at a time.
        """
        self._stranding = rng, chance

    def heal(self) -> None:
        """End all faults. A connection that has lost data stays until its client gives up."""
        self._stranding = None
        self._stranded.clear()
        self._refusing, self._delay_s, self._bytes_per_s = False, 0.0, 0.0
        self.lose()
        self._wiring.call(self._requests_pass.set)
        self._wiring.call(self._answers_pass.set)

    def point_at(self, target: int) -> None:
        """Forward new connections to another server. Those to the old one stay until they are cut."""
        self._target = target

    async def listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server:
            self._server.close()
        self._abort_all()

    def _abort_all(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            behind, server = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        connection = ProxiedConnection(writer, server)
        self._connections.add(connection)
        ways = [
            asyncio.ensure_future(self._pass_on(reader, server, self._requests_pass, connection, answers=False)),
            asyncio.ensure_future(self._pass_on(behind, writer, self._answers_pass, connection, answers=True)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            connection.abort()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._connections.discard(connection)
            # Otherwise Python warns of unclosed transports at its end.
            await asyncio.gather(writer.wait_closed(), server.wait_closed(), return_exceptions=True)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        passes: asyncio.Event,
        connection: ProxiedConnection,
        *,
        answers: bool,
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while part := await (self._frame(reader) if self._kafka else reader.read(CHUNK_BYTES)):
                await passes.wait()
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                if self._bytes_per_s:
                    await asyncio.sleep(len(part) / self._bytes_per_s)
                if self._kafka and self._is_lost(part, connection, answer=answers):
                    continue
                if self._kafka and not answers and await self._strands(part):
                    return
                writer.write(part)
                await writer.drain()

    @staticmethod
    async def _frame(reader: asyncio.StreamReader) -> bytes:
        size = await reader.readexactly(4)
        return size + await reader.readexactly(int.from_bytes(size, "big"))

    def _is_lost(self, frame: bytes, connection: ProxiedConnection, *, answer: bool) -> bool:
        if answer:
            number = int.from_bytes(frame[4:8], "big")
            lost = number in connection.unanswered
            connection.unanswered.discard(number)
            return lost
        kind, _, number = struct.unpack_from(">hhI", frame, 4)
        if kind in self._lost_answers:
            connection.unanswered.add(number)
        return kind in self._lost_requests

    async def _strands(self, frame: bytes) -> bool:
        """Return whether this END_TXN is stranded now. Before a second PRODUCE, let a stranded one arrive."""
        kind = int.from_bytes(frame[4:6], "big")
        if self._stranding is None or kind not in {END_TXN, PRODUCE} or not (who := _transactional_id(frame)):
            return False
        if kind == PRODUCE:
            self._produced[who] += 1
            if self._produced[who] == BETWEEN and (late := self._stranded.pop(who, None)):
                self.late_answers.append(await self._deliver(late))
            return False
        self._produced[who] = 0
        rng, chance = self._stranding
        if who in self._stranded or rng.random() >= chance:
            return False
        self._stranded[who] = frame
        return True

    async def _deliver(self, frame: bytes) -> int:
        """Send a request over a connection of its own. Return the error code of an answer to END_TXN."""
        reader, writer = await asyncio.open_connection(HOST, self.late_target or self._target)
        try:
            writer.write(frame)
            await writer.drain()
            # Size, correlation id and throttle time come before it.
            return int(struct.unpack_from(">h", await self._frame(reader), 12)[0])
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _transactional_id(frame: bytes) -> bytes:
    """Return the transactional id of a PRODUCE or END_TXN: the text behind the client id. Empty: it has none."""
    at, text = 12, b""
    for _ in range(2):
        (size,) = struct.unpack_from(">h", frame, at)
        text = frame[at + 2 : at + 2 + max(size, 0)]
        at += 2 + len(text)
    return text


class Wiring:
    """The thread of all proxies of a test."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._proxies: list[Proxy] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self._proxies:
            self._run(proxy.close())
        self._run(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def proxy(self, target: int, *, kafka: bool = False, port: int = 0, tls: ssl.SSLContext | None = None) -> Proxy:
        """Start a proxy to a port of this machine."""
        made = self._run(self._make(target, kafka=kafka, port=port, tls=tls))
        self._proxies.append(made)
        return made

    def call(self, what: Callable[[], Any]) -> None:
        """Run a short function in the proxies' thread, and wait for it."""

        async def now() -> None:
            what()

        self._run(now())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _make(self, target: int, *, kafka: bool, port: int, tls: ssl.SSLContext | None) -> Proxy:
        made = Proxy(self, target, kafka=kafka, tls=tls)
        await made.listen(port)
        return made

    @staticmethod
    async def _settle() -> None:
        """Wait until every connection's task has ended."""
        others: list[Awaitable[Any]] = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if others:
            await asyncio.wait([asyncio.ensure_future(task) for task in others], timeout=5)
