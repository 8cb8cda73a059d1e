"""`segstream campaigns`: what the rules of campaigns say and would do, before a dispatcher acts by them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from stream.commands.options import AsJson, span_of
from stream.terminal import echo, echo_lines

if TYPE_CHECKING:
    from segmentation.campaign_rules import RuleTable
    from stream.campaigns.simulate import CampaignSimulation

_SINCE_MS: Final = 30 * 86_400_000

app = typer.Typer(name="campaigns", no_args_is_help=True, help="Check and try the rules of campaigns.")


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
    from stream.clock import now_ms
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


def _warnings(table: RuleTable, model: str | None) -> list[str]:
    from stream.clock import now_ms
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
