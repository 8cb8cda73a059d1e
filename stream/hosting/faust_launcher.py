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

from stream.errors import SegstreamError, WorkerFailed, causes
from stream.logs import FRAMEWORK_LOGGER, logging_config
from stream.settings import Settings

framework_log = logging.getLogger(FRAMEWORK_LOGGER)


class HostedApp(faust.App):
    """A Faust app that remembers what ended it."""

    # A class of our own would log Faust's messages under our module's name.
    logger = framework_log
    failure: Exception | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Faust starts a producer of its own. Nothing uses it, and Kafka would have to let it in too.
        self.boot_strategy.enable_kafka_producer = False

    async def fail(self, error: Exception) -> None:
        """End the process because of this error; of several errors the first one is reported."""
        self.failure = self.failure or error
        # The futures that nobody awaits any more have failed for the same reason. The reason's line is the last one.
        asyncio.get_running_loop().set_exception_handler(_log_detail)
        await self.crash(self.failure)


def _log_detail(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    del loop
    framework_log.debug("%s", context["message"], exc_info=context.get("exception"))


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


def run_app(build: Callable[[Path], HostedApp], settings: Settings) -> int:
    """Build an app, run it until a signal or a failure, and return the exit code 0 after a signal.

    `build(scratch)` is called when the event loop is set. Raises a SegstreamError that says what ended the app:
    the app's own, or one for an error that nobody has translated.
    """
    with TemporaryDirectory(prefix="segstream-") as scratch:
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        app = build(Path(scratch))
        worker = faust.Worker(
            app,
            loop=loop,
            loglevel=settings.log_level,
            logging_config=logging_config(settings.log_level),
            redirect_stdouts=False,
            quiet=True,
            stderr=sys.stderr,
        )
        failure = _execute(worker, app)
    if failure is None:
        return 0
    if isinstance(failure, SegstreamError):
        raise failure
    raise WorkerFailed(
        f"the process failed: {' '.join(str(failure).split()) or 'no reason given'} ({type(failure).__name__}).",
        hint="SEGSTREAM_LOG_LEVEL=DEBUG shows where.",
    ) from failure


def _execute(worker: faust.Worker, app: HostedApp) -> BaseException | None:
    """Run the app to its end. Return what ended it, None after a signal."""
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        if app.failure or not end.code:
            return app.failure
        # Faust ends the process by SystemExit, and logs the reason where only DEBUG shows it.
        reasons = [cause for cause in causes(end) if not isinstance(cause, SystemExit)]
        return reasons[0] if reasons else WorkerFailed(f"Faust ended the process with exit code {end.code}.")
    except Exception as error:  # noqa: BLE001  # whatever it is, the caller reports it
        return app.failure or error
