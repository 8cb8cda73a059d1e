"""Run a Faust app as this process: the options that all our apps share, the event loop, the exit code."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faust
import uvloop

from stream.errors import SegstreamError
from stream.logs import FRAMEWORK_LOGGER, logging_config
from stream.settings import Settings

framework_log = logging.getLogger(FRAMEWORK_LOGGER)


class HostedApp(faust.App):
    """A Faust app that remembers what ended it."""

    # A class of our own would log Faust's messages under our module's name.
    logger = framework_log
    failure: Exception | None = None

    async def fail(self, error: Exception) -> None:
        """End the process because of this error; of several errors the first one is reported."""
        self.failure = self.failure or error
        await self.crash(self.failure)


def app_options(settings: Settings, scratch: Path) -> dict[str, Any]:
    """Return the arguments that every Faust app gets. `scratch`: a folder that Faust requires and nothing uses."""
    return {
        "broker": "aiokafka://" + settings.kafka_bootstrap_servers.replace(",", ";aiokafka://"),
        "web_enabled": False,  # its default is an open port with /table and /router
        "topic_disable_leader": True,
        "topic_allow_declare": False,
        "table_standby_replicas": 0,
        "store": "memory://",
        "autodiscover": False,
        "worker_redirect_stdouts": False,
        "datadir": scratch,
    }


def run_app(build: Callable[[Path], HostedApp], log_level: str) -> int:
    """Build an app, run it until a signal or a failure, and return the exit code.

    `build(scratch)` is called when the event loop is set. Raises the SegstreamError that ended the app.
    """
    with TemporaryDirectory(prefix="segstream-") as scratch:
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        app = build(Path(scratch))
        worker = faust.Worker(
            app,
            loop=loop,
            loglevel=log_level,
            logging_config=logging_config(log_level),
            redirect_stdouts=False,
            quiet=True,
            stderr=sys.stderr,
        )
        return _execute(worker, app)


def _execute(worker: faust.Worker, app: HostedApp) -> int:
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        code = int(end.code or 0)
    except Exception as error:  # noqa: BLE001  # Faust raises what crashed it; we report the error that we know the cause of
        code, app.failure = 1, app.failure or error
    if isinstance(app.failure, SegstreamError):
        raise app.failure
    return 1 if app.failure else code
