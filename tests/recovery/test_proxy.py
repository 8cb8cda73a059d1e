"""The proxy's faults: each does what it is named for, and heals."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.recovery.rig.proxy import HOST, Proxy, Wiring

PATIENCE_S = 0.3


@pytest.fixture
def echo() -> Iterator[int]:
    """Start a server that answers each frame with the frame's correlation id. Yield its port."""
    with closing(socket.create_server((HOST, 0))) as listening:

        def serve(client: socket.socket) -> None:
            with client, closing(client.makefile("rb")) as reader:
                while len(frame := reader.read(14)) == 14:
                    client.sendall(struct.pack(">i", 4) + frame[8:12])

        def accept() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Wiring() as wiring:
        yield wiring.proxy(echo, kafka=True)


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=PATIENCE_S)


def ask(client: socket.socket, number: int, kind: int = 3) -> int | None:
    """Return the correlation id of the answer; None: none came in time."""
    client.settimeout(PATIENCE_S)
    client.sendall(struct.pack(">ihhih", 10, kind, 0, number, -1))
    return answer(client)


def answer(client: socket.socket, patience_s: float = PATIENCE_S) -> int | None:
    client.settimeout(patience_s)
    try:
        found = client.recv(8)
    except TimeoutError:
        return None
    if not found:
        raise ConnectionResetError
    return int(struct.unpack(">ii", found)[1])


def test_data_is_forwarded(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert [ask(client, n) for n in (1, 2)] == [1, 2]


def test_a_cut_ends_connections_and_lets_new_ones_in(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert ask(client, 1) == 1
        proxy.cut()
        with pytest.raises(ConnectionError):
            ask(client, 2)
    with connect(proxy) as client:
        assert ask(client, 3) == 3


def test_a_refusal_lasts_until_it_is_healed(proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionError), connect(proxy) as client:
        ask(client, 1)
    proxy.heal()
    with connect(proxy) as client:
        assert ask(client, 2) == 2


def test_held_data_arrives_late(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert ask(client, 1) == 1
        proxy.hold()
        assert ask(client, 2) is None
        proxy.heal()
        assert answer(client, 5) == 2


def test_delay(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.delay(0.1)
        began = time.monotonic()
        assert ask(client, 1) == 1 or answer(client, 5) == 1
        assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("way", ["requests", "answers"])
def test_single_kinds_get_lost(proxy: Proxy, way: str) -> None:
    with connect(proxy) as client:
        proxy.lose(**{way: [26]})
        assert ask(client, 1, kind=26) is None
        assert ask(client, 2, kind=3) == 2
        proxy.heal()
        assert ask(client, 3, kind=26) == 3
