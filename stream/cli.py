"""`segstream`: every command of the online side. Logs go to stderr; what a script may read, to stdout."""

from __future__ import annotations

import logging.config
import os
import sys
from typing import Annotated, Any, Final, NoReturn

import typer
import typer.core
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from segmentation.step import Step
from stream.commands import (
    adapters,
    customers,
    dead_letters,
    demo,
    erase,
    forecast,
    local,
    models,
    replay,
    shards,
    topics,
)
from stream.errors import SegstreamError
from stream.logs import logging_config
from stream.settings import Settings, load_settings
from stream.settings_sources import PREFIX

_READER_GONE: Final = 141  # as shells tell a program that SIGPIPE has ended


class _Commands(typer.core.TyperGroup):
    """The commands. One whose stdout nobody reads any more (`segstream tail changes | head -1`) ends without a word."""

    def invoke(self, ctx: Any) -> Any:
        # Here, because Typer would take the error for a failure; Rich, which prints the tables, already has.
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, SystemExit) as end:
            if not isinstance(end, BrokenPipeError) and not isinstance(end.__context__, BrokenPipeError):
                raise
            # What is still buffered goes nowhere, or the interpreter would complain at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(_READER_GONE) from None


app = typer.Typer(
    name="segstream",
    cls=_Commands,
    help="Customer segments from order events: every move told exactly once, as it happens.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(local.app, name="local", help="A real Kafka and Valkey on this machine, kept in the background.")
app.add_typer(topics.app, name="topics", help="The Kafka topics, with every setting that matters.")
app.add_typer(
    models.app, name="models", help="Which model scores, what another would do, how far customers have drifted."
)
app.add_typer(dead_letters.app, name="dead-letters", help="Records that couldn't be used, sent back after a fix.")
for commands in (
    demo.app,
    replay.app,
    customers.app,
    shards.app,
    erase.app,
    forecast.app,
    adapters.app,
):
    app.registered_commands += commands.registered_commands


@app.command()
def worker(
    http_port: Annotated[
        int | None, typer.Option(help="Port of /health and /metrics; 0: none.", show_default="setting")
    ] = None,
) -> None:
    """Score orders: consume events, keep states in Redis, publish moves. Ends on SIGTERM, drained."""
    from stream.worker.steps import scoring_step

    settings = load_settings(**({} if http_port is None else {"http_port": http_port}))
    _run(settings, scoring_step(settings))


@app.command()
def dispatch(
    rules: Annotated[str | None, typer.Option(help="Campaign rules (YAML).", show_default="the built-in table")] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of /health and /metrics; 0: none.", show_default="setting")
    ] = None,
) -> None:
    """Turn moves into campaign actions by the rule table, each exactly once. Ends on SIGTERM, drained."""
    from stream.worker.steps import campaign_step

    chosen: dict[str, Any] = {} if http_port is None else {"http_port": http_port}
    if rules is not None:
        chosen["rules_file"] = rules
    settings = load_settings(**chosen)
    _run(settings, campaign_step(settings))


def _run(settings: Settings, step: Step) -> NoReturn:
    from stream.worker.app import run_worker

    raise typer.Exit(run_worker(settings, step))


@app.command("settings")
def show_settings() -> None:
    """Every setting: its variable, its value here, its default, and what it means."""
    settings = load_settings()
    table = Table("variable", "value", "default", "meaning", box=None, pad_edge=False)
    for name, field in Settings.model_fields.items():
        value, default = getattr(settings, name), field.default
        changed = "[bold]" if value != default else ""
        table.add_row(f"{PREFIX}{name.upper()}", f"{changed}{value}", str(default), field.description or "")
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def main() -> None:
    """Entry point. Exit codes: 0 done; 1 it failed, with one line that says what to do; 2 wrong usage; 141 nobody reads stdout."""
    # The commands speak for themselves. (A worker sets up its own logging.)
    logging.config.dictConfig(logging_config("CRITICAL"))
    try:
        app()
    except SegstreamError as error:
        _fail(str(error))
    except RedisError as error:
        _fail(f"Redis: {error}. Check SEGSTREAM_REDIS_URL; `segstream local up` starts one.")
    except TimeoutError:
        _fail("Kafka didn't answer in time. Check SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS; `segstream local up` starts one.")
    except OSError as error:
        _fail(f"{error}.")


def _fail(message: str) -> NoReturn:
    print(f"segstream: {message}", file=sys.stderr)  # noqa: T201  # the command line's own voice
    sys.exit(1)


if __name__ == "__main__":
    main()
