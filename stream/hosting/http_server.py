"""The HTTP server of each long-running process: `/health` for orchestrators, `/metrics` for Prometheus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from stream.errors import SettingsError


class PortUnavailable(SettingsError):
    """The address of the HTTP server can't be opened."""


@asynccontextmanager
async def http_server(
    host: str, port: int, *, health: Callable[[], Mapping[str, Any]], metrics: Callable[[], bytes], setting: str
) -> AsyncIterator[None]:
    """Serve `/health` and `/metrics` while the block runs; with port 0 serve nothing. Raises PortUnavailable on entry.

    `health()`: the JSON body, of which `healthy` decides between status 200 and 503. `metrics()`: Prometheus' text
    format. `setting`: the variable that sets the port, for the error message.
    """
    if not port:
        yield
        return

    async def answer_health(_: web.Request) -> web.Response:
        body = health()
        return web.json_response(body, status=200 if body["healthy"] else 503)

    async def answer_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics(), content_type="text/plain", charset="utf-8")

    routes = web.Application()
    routes.router.add_get("/health", answer_health)
    routes.router.add_get("/metrics", answer_metrics)
    runner = web.AppRunner(routes, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise PortUnavailable(f"{host}:{port} can't be opened: {error}.", hint=f"Set {setting}.") from error
        yield
    finally:
        await runner.cleanup()
