"""`segstream campaigns`: what the rules of campaigns say and would do, and what campaigns have brought."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from stream.clock import now_ms
from stream.commands.options import AsJson, Format, instant_of, span_of
from stream.terminal import echo, echo_lines

if TYPE_CHECKING:
    from segmentation.campaign_rules import RuleTable
    from stream.campaigns.simulate import CampaignSimulation
    from stream.uplift.measure import UpliftReport

_SINCE_MS: Final = 30 * 86_400_000

app = typer.Typer(
    name="campaigns", no_args_is_help=True, help="Check and try the rules of campaigns, and measure their uplift."
)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of campaign rules (YAML).")],
    *,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="active|VERSION|FILE",
            help="Compare the names of segments with this model's.",
            show_default="not compared",
        ),
    ] = None,
    convert: Annotated[
        bool, typer.Option("--convert", help="Print a table of version 1 in version 2 on stdout.")
    ] = False,
) -> None:
    """Say what is wrong with a file of campaign rules, with line and remedy.

    Exits with 2 if it can't be used. Warnings are of what is probably not meant so.
    """
    from segmentation.campaign_rules import RulesError, parse_rules
    from stream.worker.rules_file import RulesUnusable, text_of

    try:
        text = text_of(file)
        table = parse_rules(text)
    except RulesUnusable as error:
        echo(f"segstream: {error}", err=True)
        raise typer.Exit(2) from None
    except RulesError as error:
        for finding in error.findings:
            echo(f"error: {finding}", err=True)
        echo(f"segstream: {file} can't be used, docs/how-to/write-rules.md has examples.", err=True)
        raise typer.Exit(2) from None
    warnings = _warnings(table, model)
    for warning in warnings:
        echo(f"warning: {warning}", err=True)
    if convert:
        _convert(text, file)
        return
    count = {1: "1 warning"}.get(len(warnings), f"{len(warnings) or 'no'} warnings")
    rules = "1 rule" if len(table.rules) == 1 else f"{len(table.rules)} rules"
    echo(f"{file}: {rules}, {count}; actions will carry {table.digest} as `rules`")


@app.command()
def schema() -> None:
    """Print the JSON Schema of campaign rules, for your editor.

    The first line of your file names it: # yaml-language-server: $schema=rules.schema.json
    """
    from segmentation.rules_schema import rules_json_schema

    echo_lines(json.dumps(rules_json_schema(), indent=2, ensure_ascii=False))


@app.command()
def simulate(
    file: Annotated[Path, typer.Argument(metavar="RULES", help="A file of campaign rules (YAML).")],
    *,
    since: Annotated[
        int | None,
        typer.Option(parser=span_of, metavar="SPAN", help="How far back, for example 30d.", show_default="30d"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="active|VERSION|FILE",
            help="Add the moves that the start of this model would make now.",
            show_default="none",
        ),
    ] = None,
    ahead: Annotated[
        int | None,
        typer.Option(
            parser=span_of, metavar="SPAN", help="Add the moves to come if nobody orders.", show_default="none"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a rule file would have done with past moves, and would do. Nothing is sent.

    Goes through the moves, profiles and orders on Kafka as a dispatcher would have: with control groups, caps, quiet
    hours, consent, delays, goals and budgets.
    """
    from stream.campaigns.page import lines
    from stream.campaigns.simulate import CampaignSimulator, SimulationRequest
    from stream.commands.replay import wanted_model
    from stream.models.topic import read_published
    from stream.progress import progress_bar
    from stream.settings import load_settings
    from stream.worker.rules_file import rules_of

    table, settings = rules_of(file), load_settings()
    started = None if model is None else wanted_model(settings, None if model == "active" else model)

    async def run() -> CampaignSimulation:
        simulator = CampaignSimulator(
            settings, await read_published(settings), SimulationRequest(table, since or _SINCE_MS, ahead or 0, started)
        )
        with progress_bar("simulating", settings.partitions) as show:
            return await simulator.run(now_ms(), lambda done: show(done, "shards"))

    found = asyncio.run(run())
    for line in [msgspec.json.encode(found)] if as_json else lines(found):
        echo(line)


@app.command()
def uplift(
    *,
    days: Annotated[int, typer.Option(min=1, max=365, metavar="N", help="Days after the contact.")] = 30,
    since: Annotated[
        int | None,
        typer.Option(
            parser=instant_of, metavar="TIME", help="Only contacts from this instant on.", show_default="the first"
        ),
    ] = None,
    campaign: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this campaign; may be repeated.", show_default="all"),
    ] = None,
    orders: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="A file of orders, as `segstream replay` takes it.",
            show_default="SEGSTREAM_ORDERS_TOPIC",
        ),
    ] = None,
    file_format: Format = None,
    as_json: AsJson = False,
) -> None:
    """Show what campaigns bring: orders and spend of treated customers against those held out.

    The intervals hold at all looks together, so you may look every day. Exits with 1 if a campaign harms.
    """
    from stream.progress import progress_bar
    from stream.settings import load_settings
    from stream.uplift.collect import UpliftWanted
    from stream.uplift.collect import uplift as run
    from stream.uplift.summary import alarms

    wanted = UpliftWanted(days, since, campaign or (), orders, None if file_format is None else file_format.value)
    with progress_bar("reading") as show:
        report = asyncio.run(run(load_settings(), wanted, now_ms(), lambda records: show(records, "records")))
    for alarm in alarms(report):
        echo(f"segstream: {alarm}.", err=True)
    if as_json:
        echo(msgspec.json.encode(report))
    else:
        _show_uplift(report)
    if report.harmful:
        raise typer.Exit(1)


def _show_uplift(report: UpliftReport) -> None:
    from stream.consoles import console, table
    from stream.uplift.summary import HEADINGS, notes, rows

    console().print(table(HEADINGS, rows(report)))
    for note in notes(report):
        echo(note)


@app.command()
def holdout(
    customer_id: Annotated[str, typer.Argument(metavar="ID", help="A customer's id, known or not.")],
    *,
    rules: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The campaign rules.", show_default="SEGSTREAM_RULES_FILE, or the built-in"),
    ] = None,
    at: Annotated[
        int | None, typer.Option(parser=instant_of, metavar="TIME", help="As of this instant.", show_default="now")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which campaigns a customer is held out of, by which control group, and until when."""
    from stream.settings import load_settings
    from stream.uplift.control_groups import control_groups, sentences
    from stream.worker.rules_file import rules_of

    settings = load_settings(**({} if rules is None else {"rules_file": rules}))
    found = control_groups(rules_of(settings.rules_file), customer_id, now_ms() if at is None else at)
    for line in [msgspec.json.encode(found)] if as_json else sentences(found):
        echo(line)


def _warnings(table: RuleTable, model: str | None) -> list[str]:
    from stream.commands.replay import wanted_model
    from stream.settings import load_settings
    from stream.worker.rules_file import cautions_of

    settings = load_settings()
    found = cautions_of(table, settings.partitions, now_ms())
    if model is not None:
        segments = wanted_model(settings, None if model == "active" else model).segments
        found += table.unknown_segments([segment.name for segment in segments])
    return found


def _convert(text: str, file: Path) -> None:
    from segmentation.rules_writer import converted

    found = converted(text)
    if found is None:
        echo(f"segstream: {file} is of version 2 already.", err=True)
        echo_lines(text)
        return
    if found.lost:
        lines = "1 line of comments" if found.lost == 1 else f"{found.lost} lines of comments"
        echo(f"segstream: {lines} within rules {'is' if found.lost == 1 else 'are'} left out.", err=True)
    echo_lines(found.text)
