"""`segstream worker|dispatch|adapters|deliver`: the processes of a deployment, which run until SIGTERM."""

from __future__ import annotations

import asyncio
import logging.config
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from stream.commands.options import HttpPort
from stream.logs import logging_config
from stream.terminal import echo

if TYPE_CHECKING:
    from segmentation.step import Step
    from stream.settings import Settings
    from stream.webhooks.endpoints import Endpoint

app = typer.Typer()


@app.command()
def worker(http_port: HttpPort = None) -> None:
    """Score orders and publish moves, until SIGTERM.

    Consumes order events and keeps the customers' states in Redis. On SIGTERM it finishes its turn and exits.
    """
    from stream.settings import load_settings
    from stream.worker.steps import scoring_step

    settings = load_settings(**_chosen(http_port))
    _run(settings, scoring_step(settings))


@app.command()
def dispatch(
    rules: Annotated[
        str | None, typer.Option(metavar="FILE", help="Campaign rules (YAML).", show_default="the built-in rules")
    ] = None,
    http_port: HttpPort = None,
) -> None:
    """Turn moves into campaign actions by rules, until SIGTERM.

    Each action is published exactly once. A changed file of rules counts from the next turn on; one that can't be used
    leaves the last good one in force. On SIGTERM it finishes its turn and exits.
    """
    from stream.clock import now_ms
    from stream.settings import load_settings
    from stream.worker.rules_file import cautions_of
    from stream.worker.steps import campaign_step

    settings = load_settings(**_chosen(http_port, **({} if rules is None else {"rules_file": rules})))
    step = campaign_step(settings)
    for caution in cautions_of(step.table, settings.partitions, now_ms()):
        echo(f"segstream: {caution}.", err=True)
    _run(settings, step)


@app.command()
def adapters(
    apps: Annotated[
        list[str] | None,
        typer.Option("--app", metavar="MODULE:NAME", help="Your own adapters; may be repeated.", show_default="none"),
    ] = None,
    http_port: HttpPort = None,
) -> None:
    """Turn other topics into order events, until SIGTERM.

    Reads the topic of unkeyed orders, and the topics of your own adapters. On SIGTERM it finishes the records at hand
    and exits.
    """
    from stream.adapters.app import run_adapters
    from stream.adapters.mapping import load_adapters
    from stream.settings import load_settings

    _say_if_stopped_early()
    settings = load_settings(**_chosen(http_port))
    # As `python -m` does: your modules are imported from the folder that the command starts in.
    sys.path.insert(0, str(Path.cwd()))
    _exit(run_adapters(settings, [load_adapters(name) for name in apps or []]))


@app.command()
def deliver(
    endpoints: Annotated[
        str | None, typer.Option(metavar="FILE", help="Endpoints (YAML).", show_default="SEGSTREAM_ENDPOINTS_FILE")
    ] = None,
    *,
    check: Annotated[bool, typer.Option("--check", help="Check the file and the secrets, and end.")] = False,
    http_port: HttpPort = None,
) -> None:
    """Send campaign actions to endpoints as webhooks, until SIGTERM.

    Each action is sent until its endpoint takes it, in order per customer; an endpoint that fails holds up no other.
    On SIGTERM it ends the attempts under way and exits. --check exits with 2 if the file or a secret can't be used.
    """
    from stream.settings import load_settings
    from stream.webhooks.endpoint_file import EndpointsError, read_endpoints

    settings = load_settings(**_chosen(http_port, **({} if endpoints is None else {"endpoints_file": endpoints})))
    if settings.endpoints_file is None:
        raise EndpointsError("no endpoints file.", hint="Give --endpoints FILE or SEGSTREAM_ENDPOINTS_FILE.")
    if check:
        _check(settings.endpoints_file)
        return
    found = read_endpoints(settings.endpoints_file)
    _say_if_stopped_early()
    asyncio.run(_deliver(settings, found))


def _check(file: Path) -> None:
    """Print all that is wrong with an endpoints file and its secrets, a line each. Raises typer.Exit."""
    from stream.webhooks.endpoint_file import EndpointsError, read_endpoints
    from stream.webhooks.signing_keys import unusable_secrets

    endpoints: Sequence[Endpoint] = ()
    try:
        endpoints = read_endpoints(file)
        findings = [wrong for endpoint in endpoints for wrong in unusable_secrets(endpoint)]
    except EndpointsError as error:
        findings = list(error.findings)
    for finding in findings:
        echo(f"error: {finding}", err=True)
    if findings:
        echo(f"segstream: {file} can't be used, docs/how-to/deliver.md describes its fields.", err=True)
        raise typer.Exit(2)
    secrets = sum(len(endpoint.secrets) for endpoint in endpoints)
    echo(f"{len(endpoints)} endpoints with {secrets} secrets are usable: {', '.join(e.name for e in endpoints)}")


async def _deliver(settings: Settings, endpoints: Sequence[Endpoint]) -> None:
    from stream.delivery.app import run_deliveries
    from stream.hosting.interruption import interruption

    logging.config.dictConfig(logging_config(settings.log_level))
    await run_deliveries(settings, endpoints, interruption())
    echo("segstream: stopped by SIGTERM or SIGINT.", err=True)


def _chosen(http_port: int | None, **others: str) -> dict[str, Any]:
    return others if http_port is None else {"http_port": http_port, **others}


def _run(settings: Settings, step: Step) -> NoReturn:
    from stream.worker.app import run_worker

    _say_if_stopped_early()
    _exit(run_worker(settings, step))


def _say_if_stopped_early() -> None:
    """Let SIGTERM end the process with a line on stderr, until Faust handles signals."""

    def stop(number: int, _: object) -> NoReturn:
        echo("segstream: stopped by SIGTERM, before it had started.", err=True)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)


def _exit(code: int) -> NoReturn:
    """End the process, which a signal has stopped: any other end raises."""
    echo("segstream: stopped by SIGTERM or SIGINT.", err=True)
    raise typer.Exit(code)
