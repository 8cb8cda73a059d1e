"""`segstream`: the command line of the online side. Logs go to stderr; what scripts may read goes to stdout."""

from __future__ import annotations

import asyncio
import logging.config
import os
import sys
from typing import Any, Final, NoReturn

import typer
import typer.core

from stream.commands import (
    campaigns,
    customers,
    dead_letters,
    deliveries,
    demo,
    local,
    models,
    outputs,
    rates,
    replay,
    settings,
    shards,
    topics,
    workers,
)
from stream.errors import SegstreamError, error_text
from stream.logs import logging_config
from stream.terminal import echo

_STDOUT_CLOSED: Final = 141  # the exit code by which shells report that SIGPIPE ended a program


class _Commands(typer.core.TyperGroup):
    """The commands. One whose stdout is closed (`segstream tail changes | head -1`) ends without an error message."""

    def invoke(self, ctx: Any) -> Any:
        # Here, because Typer would report the error as a failure; Rich, which prints the tables, has done so already.
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, SystemExit) as end:
            if not isinstance(end, BrokenPipeError) and not isinstance(end.__context__, BrokenPipeError):
                raise
            # The rest of the buffer is discarded, or the interpreter would complain when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(_STDOUT_CLOSED) from None


app = typer.Typer(
    name="segstream",
    cls=_Commands,
    help="Assign customers to segments as their orders arrive, and publish every move exactly once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: Rich alone takes as long to import as everything else together
    context_settings={"help_option_names": ["-h", "--help"]},
)
for room in (demo, replay, workers, outputs, customers, shards, settings):
    app.registered_commands += room.app.registered_commands
for room in (local, topics, models, rates, campaigns, dead_letters, deliveries):
    app.add_typer(room.app)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done; 1 failed, with one line that says what to do; 2 wrong usage; 141 stdout was closed.
    """
    # Commands report errors themselves. (A worker sets up its own logging.)
    logging.config.dictConfig(logging_config("CRITICAL"))
    try:
        app()
    except SegstreamError as error:
        _fail(str(error))
    except _library_errors("aiokafka.errors", "KafkaError") as error:
        _fail(_of_kafka(error))
    except _library_errors("redis.exceptions", "RedisError") as error:
        _fail(f"Redis: {error_text(error)}. Check SEGSTREAM_REDIS_URL; `segstream local up` starts one.")
    except TimeoutError:
        _fail("Kafka didn't answer in time. Check SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS; `segstream local up` starts one.")
    except OSError as error:
        _fail(f"{error}.")


def _library_errors(module: str, root: str) -> tuple[type[Exception], ...]:
    """Return a library's errors, or none while it isn't imported: then nothing can have raised one."""
    loaded = sys.modules.get(module)
    return () if loaded is None else (getattr(loaded, root),)


def _of_kafka(error: Exception) -> str:
    """Return what an error of aiokafka means, which nobody nearer to its place has translated."""
    from stream.kafka.refusals import explained
    from stream.settings import load_settings

    try:
        return str(asyncio.run(explained(load_settings(), error)))
    except SegstreamError as why:
        return str(why)


def _fail(message: str) -> NoReturn:
    echo(f"segstream: {message}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
