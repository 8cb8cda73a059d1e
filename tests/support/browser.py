"""A real browser without a window, over the DevTools protocol: what a page looks like, and what it complains about."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
START_S = 30.0
CALL_S = 30.0
MM_PER_INCH = 25.4


def executable() -> str | None:
    """The browser to test with: $BROWSER_FOR_TESTS, or what there is of Chromium and Chrome."""
    return next(filter(None, map(shutil.which, [os.environ.get("BROWSER_FOR_TESTS", ""), *NAMES])), None)


@dataclass
class Page:
    """A tab. `complaints`: errors and warnings of its console and log, and what it asked the network for."""

    socket: aiohttp.ClientWebSocketResponse
    complaints: list[str] = field(default_factory=list)
    _ids: Any = field(default_factory=lambda: count(1))
    _loaded: bool = False

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; what the tab reports meanwhile is kept."""
        number = next(self._ids)
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            told = await self._hear()
            if told.get("id") == number:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result

    async def open(self, address: str) -> None:
        """Open a page (its URI) and wait until it's loaded."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        self._loaded = False
        await self.call("Page.navigate", url=address)
        while not self._loaded:
            await self._hear()

    async def look(self, width: int, *, dark: bool = False, media: str = "screen") -> None:
        """Make the window so wide, light or dark, on a screen or as on paper."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    async def value(self, expression: str) -> Any:
        """Evaluate JavaScript."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def screenshot(self, top: float | None = None, height: float = 1600) -> bytes:
        """Give a PNG: of the whole page, or of so many pixels from `top` on."""
        width, whole = await self.value("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": top or 0, "width": width, "height": whole if top is None else height, "scale": 1}
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    async def pdf(self) -> bytes:
        """Print it as its style sheet says."""
        await self.call("Emulation.clearDeviceMetricsOverride")
        await self.call("Emulation.setEmulatedMedia", media="", features=[])
        printed = await self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return base64.b64decode(printed["data"])

    async def _hear(self) -> dict[str, Any]:
        told: dict[str, Any] = await self.socket.receive_json(timeout=CALL_S)
        method, about = told.get("method"), told.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Log.entryAdded":
            self.complaints.append(about["entry"]["text"])
        elif method in {"Runtime.consoleAPICalled", "Runtime.exceptionThrown"}:
            self.complaints.append(str(about))
        elif method == "Network.requestWillBeSent" and not about["request"]["url"].startswith("file:"):
            self.complaints.append(f"asked for {about['request']['url']}")
        return told


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """Start the browser with a tab, and stop it at the end."""
    found = executable()
    assert found is not None
    with TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            found,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            address = await asyncio.wait_for(_address(process), START_S)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://{address}/json/list") as answer:
                    tab = next(one for one in await answer.json() if one["type"] == "page")
                async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    yield Page(socket)
        finally:
            process.terminate()
            await process.communicate()


async def _address(process: asyncio.subprocess.Process) -> str:
    """Read from the browser's own words where it listens: ws://HOST:PORT/devtools/…"""
    assert process.stderr is not None
    said: list[str] = []
    while line := (await process.stderr.readline()).decode(errors="replace"):
        said.append(line)
        if "DevTools listening on ws://" in line:
            return line.split("ws://", 1)[1].split("/", 1)[0]
    raise AssertionError(f"the browser ended: {''.join(said)}")
