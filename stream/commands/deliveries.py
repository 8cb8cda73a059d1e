"""`segstream deliveries status|enable|disable|redrive`: the endpoints of `segstream deliver`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from segmentation.event_text import iso
from segmentation.events import Reason
from stream.commands.dead_letters import summary
from stream.commands.options import AsJson, instant_of
from stream.hosting.interruption import INTERRUPTED, interruption
from stream.terminal import echo

if TYPE_CHECKING:
    from pathlib import Path

    from stream.dead_letters.redrive import RedriveReport
    from stream.dead_letters.routing import Selection
    from stream.delivery.control import EndpointStatus
    from stream.settings import Settings

app = typer.Typer(name="deliveries", no_args_is_help=True, help="Look after the endpoints that actions are sent to.")

EndpointName = Annotated[str, typer.Argument(metavar="NAME", help="The endpoint's name.")]


@app.command()
def status(*, as_json: AsJson = False) -> None:
    """Show each endpoint: how far it is, what waits, what has failed, and whether it is disabled.

    Exits with 1 if one is disabled.
    """
    from stream.clock import now_ms
    from stream.delivery.control import endpoint_statuses
    from stream.settings import load_settings

    settings = load_settings()
    breakers = _breakers(settings.endpoints_file)
    found = asyncio.run(endpoint_statuses(settings, breakers))
    for endpoint in found:
        line = status_line(endpoint, now_ms(), breakers.get(endpoint.endpoint))
        echo(msgspec.json.encode(endpoint).decode() if as_json else line)
    if not found and not as_json:
        echo("no endpoint has been delivered to, and SEGSTREAM_ENDPOINTS_FILE names none")
    if any(endpoint.disabled_at for endpoint in found):
        raise typer.Exit(1)


def _breakers(file: Path | None) -> dict[str, int]:
    """Return the endpoints of the file, and the failures in a row after which the breaker of each opens."""
    from stream.webhooks.endpoint_file import read_endpoints

    return {} if file is None else {endpoint.name: endpoint.breaker.failures for endpoint in read_endpoints(file)}


def status_line(status: EndpointStatus, now_ms: int, opens_after: int | None = None) -> str:
    """Return a status as a line for people. `opens_after`: the failures in a row that open its breaker, if known.

    >>> from stream.delivery.control import EndpointStatus
    >>> crm = EndpointStatus("crm", None, "", 1_200, 3, 1, "1970-01-01T00:00:09.000Z", 2)
    >>> status_line(crm, 0)
    'crm: 2 processes, 1,200 records behind, 3 wait, 1 of them tried again from 1970-01-01T00:00:09.000Z on'
    >>> status_line(crm, 9_000)
    'crm: 2 processes, 1,200 records behind, 3 wait, 1 of them tried again, due now'
    """
    disabled = f"disabled since {status.disabled_at}: {status.why}; " if status.disabled_at else ""
    processes = f"{status.processes} process{'' if status.processes == 1 else 'es'}"
    line = f"{status.endpoint}: {disabled}{processes}, {status.behind:,} records behind, {status.waiting:,} wait"
    if status.next_attempt_at:
        due = "due now" if status.next_attempt_at <= iso(now_ms) else f"from {status.next_attempt_at} on"
        line += f", {status.retrying:,} of them tried again{' ' if due.startswith('from') else ', '}{due}"
    return f"{line}{_failing(status, opens_after)}"


def _failing(status: EndpointStatus, opens_after: int | None) -> str:
    """Return what has failed since the last delivery, or what has to be tried again."""
    recent = status.recent
    if not recent.failures:
        failed = f"; the last failure at {recent.failed_at}: {recent.failure}"
        return failed if recent.failed_at and status.retrying else ""
    failures = "1 failure" if recent.failures == 1 else f"{recent.failures:,} failures, the last one"
    since = recent.delivered_at or f"at least {recent.since}"
    # Each process has a breaker of its own, and its state is only there. The failures are known for all together.
    breaker = "" if opens_after is None or recent.failures < opens_after else f"; a breaker opens after {opens_after:,}"
    return f"; nothing delivered since {since}: {failures} at {recent.failed_at}: {recent.failure}{breaker}"


@app.command()
def enable(
    name: EndpointName,
    *,
    skip: Annotated[
        bool, typer.Option("--skip", help="Never send what waits now; begin with what comes next.")
    ] = False,
) -> None:
    """Enable an endpoint that is disabled: deliveries go on where they stopped."""
    from stream.delivery.control import enable_endpoint
    from stream.settings import load_settings

    skipped = asyncio.run(enable_endpoint(load_settings(), name, skip=skip))
    echo(f"{name} is enabled" + (f"; {skipped:,} records are skipped" if skip else ""))


@app.command()
def disable(
    name: EndpointName,
    *,
    why: Annotated[str, typer.Option(help="The reason, for those who look.")] = "by an operator",
) -> None:
    """Send nothing more to an endpoint until it is enabled. Its actions wait."""
    from stream.clock import now_ms
    from stream.delivery.control import disable_endpoint
    from stream.settings import load_settings

    asyncio.run(disable_endpoint(load_settings(), name, why, now_ms()))
    echo(f"{name} is disabled; `segstream deliveries enable {name}` enables it")


@app.command()
def redrive(
    *,
    endpoint: Annotated[str, typer.Option(metavar="NAME", help="The endpoint that gets them again.")],
    since: Annotated[
        int | None,
        typer.Option(
            parser=instant_of,
            metavar="TIME",
            help="All that were given up from then on (ISO 8601), also those that were sent again already.",
            show_default="those never sent again",
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.01, metavar="N", show_default="no limit", help="Hand on so many a second.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", show_default="all", help="Send at most this many.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; show what would be sent.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send actions that were given up to their endpoint again.

    `segstream deliver` takes them up, with all attempts anew. No other endpoint gets them.
    """
    from stream.dead_letters.routing import LEFT_REASONS, Selection
    from stream.settings import load_settings

    selection = Selection(frozenset({Reason.UNDELIVERED.value}), endpoint=endpoint, since_ms=since)
    report = asyncio.run(_redriven(load_settings(), selection, limit, rate, dry_run=dry_run))
    echo(msgspec.json.encode(report).decode() if as_json else summary(report))
    for why, count in report.left.items():
        echo(f"{count:,} left: {LEFT_REASONS[why]}.", err=True)
    if report.interrupted:
        echo("interrupted: run the same command again to send the rest.", err=True)
        raise typer.Exit(INTERRUPTED)


async def _redriven(
    settings: Settings, selection: Selection, limit: int | None, rate: float | None, *, dry_run: bool
) -> RedriveReport:
    """Redrive until done, or until Ctrl-C or a SIGTERM; the records at hand are still committed then."""
    from stream.dead_letters.redrive import redrive as send_back
    from stream.delivery.control import refuse_unknown
    from stream.progress import progress_bar

    await refuse_unknown(settings, selection.endpoint or "")
    source, stop = settings.actions_dead_letters_topic, interruption()
    with progress_bar(f"reading {source}") as show:
        return await send_back(
            settings,
            source,
            selection,
            limit=limit,
            rate_per_s=rate,
            dry_run=dry_run,
            stop=stop,
            progress=lambda done, total, sent: show(done, f"of {total:,}; {sent:,} sent again"),
        )
