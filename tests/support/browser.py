"""A real headless browser, driven over the DevTools protocol: pictures of a page, and its errors."""

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
    """Return the browser to test with: $BROWSER_FOR_TESTS, else an installed Chromium or Chrome, else None."""
    return next(filter(None, map(shutil.which, [os.environ.get("BROWSER_FOR_TESTS", ""), *NAMES])), None)


@dataclass
class Page:
    """A tab. `complaints`: errors and warnings of its console and log, and its network requests."""

    socket: aiohttp.ClientWebSocketResponse
    complaints: list[str] = field(default_factory=list)
    _ids: Any = field(default_factory=lambda: count(1))
    _loaded: bool = False

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, keep the tab's events until then, and return the result."""
        number = next(self._ids)
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._receive()
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    async def open(self, address: str) -> None:
        """Open a page by its URI, and wait until it is loaded."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        self._loaded = False
        await self.call("Page.navigate", url=address)
        while not self._loaded:
            await self._receive()

    async def look(self, width: int, *, dark: bool = False, media: str = "screen") -> None:
        """Set the width of the window, light or dark, for a screen or as for paper."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    async def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def screenshot(self, top: float | None = None, height: float = 1600) -> bytes:
        """Return a PNG of the whole page, or of `height` pixels from `top` on."""
        width, whole = await self.value("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": top or 0, "width": width, "height": whole if top is None else height, "scale": 1}
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    async def pdf(self) -> bytes:
        """Return the page as a PDF, printed by its style sheet."""
        await self.call("Emulation.clearDeviceMetricsOverride")
        await self.call("Emulation.setEmulatedMedia", media="", features=[])
        printed = await self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return base64.b64decode(printed["data"])

    async def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = await self.socket.receive_json(timeout=CALL_S)
        method, params = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif method in {"Runtime.consoleAPICalled", "Runtime.exceptionThrown"}:
            self.complaints.append(str(params))
        elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith("file:"):
            self.complaints.append(f"requested {params['request']['url']}")
        return message


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
    """Return HOST:PORT of the browser's DevTools, from its own output."""
    assert process.stderr is not None
    output: list[str] = []
    while line := (await process.stderr.readline()).decode(errors="replace"):
        output.append(line)
        if "DevTools listening on ws://" in line:
            return line.split("ws://", 1)[1].split("/", 1)[0]
    raise AssertionError(f"the browser ended: {''.join(output)}")
